"""What an evaluation found: `report.json` for programs, `report.md` for people."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipsonic.storage import write_text


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A measured value with its 95 % interval, from `n` sounds."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """Return the value with its interval, such as `0.41 [0.33, 0.48]`."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass
class Report:
    """Rows of metrics, what they mean, and how they were made.

    Attributes:
        settings: What the evaluation was run with; plain JSON values.
        rows: For each row (a method, or a set of sounds) its metrics by name.
        notes: What each row is, for people.
        things: For each row and metric the value of every thing.
    """

    settings: dict[str, Any]
    rows: dict[str, dict[str, Interval]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    things: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write `report.json` and `report.md`.

        Raises:
            OutputError: The folder cannot be written to.
        """
        rows = {name: {key: dataclasses.asdict(v) for key, v in row.items()} for name, row in self.rows.items()}
        values = {"rows": rows, "settings": self.settings, "things": self.things}
        write_text(folder / "report.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        write_text(folder / "report.md", self.to_markdown())

    def to_markdown(self) -> str:
        """Return the report as Markdown: the table, what its rows are, each thing's scores, the settings."""
        parts = ["# Evaluation", self.table(), *self._notes(), *self._thing_table(), "## Settings"]
        parts.append("\n".join(f"* {key}: {_plain(value)}" for key, value in self.settings.items()))
        return "\n\n".join(parts) + "\n"

    def table(self) -> str:
        """Return the rows as a Markdown table, one column a metric."""
        metrics = list(dict.fromkeys(metric for row in self.rows.values() for metric in row))
        lines = [["row", *metrics, "sounds"], ["---"] * (len(metrics) + 2)]
        for name, row in self.rows.items():
            cells = [str(row[metric]) if metric in row else "" for metric in metrics]
            lines.append([name, *cells, str(max((v.n for v in row.values()), default=0))])
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def _notes(self) -> list[str]:
        return ["\n".join(f"* **{name}**: {note}" for name, note in self.notes.items())] if self.notes else []

    def _thing_table(self) -> list[str]:
        """Return a table of every thing's score in each row, for the widest metric."""
        if not self.things:
            return []
        metric = list(next(iter(self.things.values())))[-1]
        columns = {name: by_metric[metric] for name, by_metric in self.things.items() if metric in by_metric}
        lines = [["thing", *columns], ["---"] * (len(columns) + 1)]
        for thing in sorted({thing for column in columns.values() for thing in column}):
            lines.append([thing, *(f"{c[thing]:.2f}" if thing in c else "" for c in columns.values())])
        return [f"## {metric} by thing", "\n".join("| " + " | ".join(line) + " |" for line in lines)]


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
