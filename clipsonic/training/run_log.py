"""What a run leaves to look at: `log.jsonl`, TensorBoard's files, `loss.png` and `summary.md`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipsonic.errors import DataError
from clipsonic.storage import write_text, write_whole

LOG_NAME = "log.jsonl"
CURVE_NAME = "loss.png"
SUMMARY_NAME = "summary.md"
TENSORBOARD_NAME = "tensorboard"
SMOOTHING = 20
"""Lines of the log that the smooth curve is a running mean over."""


class RunLog:
    """The log of one part's training; only the main process has one."""

    def __init__(self, out: Path, part: str) -> None:
        """Log the training of `part` into the folder `out`."""
        self.out, self.part = out, part
        self._writer: Any = None

    def begin(self, step: int) -> None:
        """Forget this part's lines after `step`, which is 0 for a new run; other parts' lines stay."""
        lines = [line for line in read_log(self.out) if line.get("part") != self.part or line["step"] <= step]
        if step == 0:
            lines = [line for line in lines if line.get("part") != self.part]
        if (self.out / LOG_NAME).is_file():
            write_text(self.out / LOG_NAME, "".join(json.dumps(line) + "\n" for line in lines))

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Append one line, print it, and tell TensorBoard."""
        line = {"part": self.part, "step": step, **{key: _short(value) for key, value in figures.items()}}
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / LOG_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        if (writer := self.tensorboard()) is not None:
            for key, value in figures.items():
                writer.add_scalar(f"{self.part}/{key}", value, step)

    def tensorboard(self) -> Any:
        """Return TensorBoard's writer, or None where it is not installed."""
        if self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return None
            self._writer = SummaryWriter(self.out / TENSORBOARD_NAME)
        return self._writer

    def end(self, row: dict[str, Any]) -> None:
        """Draw the curve, add the run's row to the table of `summary.md`, print it, and close TensorBoard's files."""
        if self._writer is not None:
            self._writer.close()
        draw_curve(self.out, self.part)
        path = self.out / SUMMARY_NAME
        kept = _rows(path.read_text(encoding="utf-8")) if path.is_file() else []
        head = [f"| {' | '.join(row)} |", f"|{' --- |' * len(row)}"]
        new = f"| {' | '.join(str(value) for value in row.values())} |"
        others = [line for line in kept if not line.startswith(f"| {self.part} |")]
        write_text(path, "\n".join([*head, *others, new]) + "\n")
        print("\n".join([*head, new]), flush=True)


def _short(value: float) -> float:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _rows(table: str) -> list[str]:
    """Return the body of a Markdown table."""
    return [line for line in table.splitlines()[2:] if line.startswith("|")]


def read_log(out: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's log, without one that a killed run left half written; [] if there is no log.

    Raises:
        DataError: A line other than the last is damaged.
    """
    path = out / LOG_NAME
    if not path.is_file():
        return []
    lines: list[dict[str, Any]] = []
    texts = path.read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(texts, 1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            if number < len(texts):
                raise DataError(f"{path}, line {number} is damaged: {error}; remove it") from error
    return lines


def draw_curve(out: Path, part: str) -> None:
    """Draw `loss.png`: the first figure in every line of a part's log, and its running mean, over the steps."""
    from matplotlib.figure import Figure

    lines = [line for line in read_log(out) if line.get("part") == part and "clips_per_s" in line]
    if not lines:
        return
    key = next(key for key in lines[0] if key not in ("part", "step"))
    points = [(line["step"], line[key]) for line in lines if key in line]
    steps, values = [list(column) for column in zip(*points, strict=True)]
    smooth = [
        sum(share) / len(share) for n in range(len(values)) if (share := values[max(0, n - SMOOTHING + 1) : n + 1])
    ]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, values, color="#c4b5fd", linewidth=1, label=key)
    axes.plot(steps, smooth, color="#5b21b6", linewidth=2, label=f"mean of {SMOOTHING} lines")
    axes.set(xlabel="step", ylabel=key, title=f"{part}: {key}")
    axes.grid(alpha=0.3)
    axes.legend()
    with write_whole(out / CURVE_NAME) as temporary:
        figure.savefig(temporary, dpi=120)
