"""What an evaluation found: `report.json` for programs, `report.md` for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipsonic.storage import write_text

COLUMNS = {
    "fad": "FAD ↓",
    "fad_inf": "FAD∞ ↓",
    "clap": "CLAP score ↑",
    "clip_picture": "Clip-Score to picture ↑",
    "clip_prompt": "Clip-Score to prompt ↑",
    "kl": "KL ↓",
    "accuracy": "class accuracy ↑",
    "top1": "top-1 ↑",
    "top5": "top-5 ↑",
    "nearest": "nearest training sound",
    "copies": "nearer than takes",
    "diversity": "diversity",
    "condition": "condition R@1 ↑",
}
"""How metrics are headed for people; the arrow points to what is better."""
MEANINGS = {
    "fad": "Fréchet distance of the sounds' embeddings to those of training sounds of the same things.",
    "fad_inf": "the same extrapolated to infinitely many sounds; the interval is the fit's.",
    "clap": "cosine of sound and prompt in CLAP's space, not scaled.",
    "clip_picture": "cosine, not × 100, of the sound (through the audio → CLIP encoder) to a picture of its thing.",
    "clip_prompt": "the same to the prompt; cosines to pictures and to prompts cannot be compared with each other.",
    "kl": "KL(real ‖ sound) in nats, by what a classifier hears in held-out real sounds of the thing and in this one.",
    "accuracy": "share of sounds that a classifier, trained on training sounds only, names rightly among all things.",
    "top1": "share of sounds whose nearest training recording is of the right thing.",
    "top5": "share of sounds of which any of the five nearest is.",
    "nearest": "cosine to the nearest training sound.",
    "copies": "share of sounds nearer to a training sound than two takes of one recording are to each other.",
    "diversity": "mean distance, 1 - cosine, between the sounds of one thing.",
    "condition": "share of conditions that the denoiser takes for the right thing: its layers that read an embedding "
    "put them nearer to the mean of that thing's training frames than to any other thing's.",
}


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A measured value with its 95 % interval, from `n` sounds."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """Return the value with its interval, such as `0.41 [0.33, 0.48]`; small ones with more digits."""
        digits = 2 if max(abs(self.low), abs(self.high)) >= 0.1 or self.value == self.low == 0 else 3
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclass
class Report:
    """Rows of metrics, what they mean, and how they were made.

    Attributes:
        settings: What the evaluation was run with; plain JSON values.
        rows: For each row (a method, or a set of sounds) its metrics by name.
        notes: What each row is, for people.
        things: For each row and metric the value of every thing.
        comparisons: For each metric the paired differences of rows.
        details: What the numbers of each row rest on.
        left_out: What could not be measured, a line each.
    """

    settings: dict[str, Any]
    rows: dict[str, dict[str, Interval]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    things: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    comparisons: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write `report.json` and `report.md`.

        Raises:
            OutputError: The folder cannot be written to.
        """
        values = dataclasses.asdict(self)
        write_text(folder / "report.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        write_text(folder / "report.md", self.to_markdown())

    def to_markdown(self) -> str:
        """Return the report as Markdown: the tables, what rows and columns are, each thing's scores, the settings."""
        parts = ["# Evaluation", self.table(), *self._meanings(), *self._notes(), *self._comparisons()]
        if self.left_out:
            parts += ["## Left out, and warnings", "\n".join(f"* {line}" for line in self.left_out)]
        parts += [*self._thing_table(), *self._details(), "## Settings"]
        parts.append("\n".join(f"* {key}: {_plain(value)}" for key, value in self.settings.items()))
        return "\n\n".join(parts) + "\n"

    def table(self) -> str:
        """Return the rows as a Markdown table, one column a metric; values are means over things, 95 % intervals."""
        return table(self.rows)

    def _meanings(self) -> list[str]:
        metrics = list(dict.fromkeys(metric for row in self.rows.values() for metric in row))
        lines = [f"* **{COLUMNS[name]}**: {MEANINGS[name]}" for name in metrics if name in MEANINGS]
        return ["\n".join(lines)] if lines else []

    def _notes(self) -> list[str]:
        return ["\n".join(f"* **{name}**: {note}" for name, note in self.notes.items())] if self.notes else []

    def _comparisons(self) -> list[str]:
        """Return the paired comparisons as a table."""
        if not self.comparisons:
            return []
        lines = [["metric", "comparison", "difference", "p", "things"], ["---"] * 5]
        for metric, pairs in self.comparisons.items():
            for name, pair in pairs.items():
                value = f"{pair['value']:.3f} [{pair['low']:.3f}, {pair['high']:.3f}]"
                lines.append([COLUMNS.get(metric, metric), name, value, f"{pair['p']:.4f}", f"{pair['things']:.0f}"])
        explanation = (
            "Paired over things: 95 % bootstrap interval, p of the two-sided sign-flip permutation test, not corrected "
            'for the number of tests. "gap closed" is (PD - ZS) / (IQ - ZS), its p the share of draws without a gap.'
        )
        return ["## Comparisons", _markdown(lines), explanation]

    def _details(self) -> list[str]:
        lines = [
            f"* {row}: {key}: {_plain(value)}" for row, found in self.details.items() for key, value in found.items()
        ]
        return ["## What the numbers rest on", "\n".join(lines)] if lines else []

    def _thing_table(self) -> list[str]:
        """Return a table of every thing's score in each row, for the metric that tells most."""
        present = {metric for by_metric in self.things.values() for metric in by_metric}
        metric = next(
            (name for name in ("top5", "accuracy", "clip_picture", *sorted(present)) if name in present), None
        )
        if metric is None:
            return []
        columns = {name: by_metric[metric] for name, by_metric in self.things.items() if metric in by_metric}
        lines = [["thing", *columns], ["---"] * (len(columns) + 1)]
        for thing in sorted({thing for column in columns.values() for thing in column}):
            lines.append([thing, *(f"{c[thing]:.2f}" if thing in c else "" for c in columns.values())])
        return [f"## {metric} by thing", _markdown(lines)]


def table(rows: Mapping[str, Mapping[str, Interval]]) -> str:
    """Return rows as a Markdown table, one column a metric."""
    metrics = list(dict.fromkeys(metric for row in rows.values() for metric in row))
    metrics.sort(key=lambda name: list(COLUMNS).index(name) if name in COLUMNS else len(COLUMNS))
    lines = [["row", *(COLUMNS.get(name, name) for name in metrics), "sounds"], ["---"] * (len(metrics) + 2)]
    for name, row in rows.items():
        cells = [str(row[metric]) if metric in row else "" for metric in metrics]
        lines.append([name, *cells, str(max((v.n for v in row.values()), default=0))])
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
