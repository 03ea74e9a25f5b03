"""What a run of `prepare` wrote, what it skipped and why, and where its time went."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipsonic.data.clips import STAGES, Cut, Video
from clipsonic.data.sources import Found
from clipsonic.storage import write_text


class Report:
    """Grows while a run goes on; `write` puts it beside the shards as `report.json` and `report.csv`."""

    def __init__(self, found: Found) -> None:
        """Begin with the videos that the list names and the folder lacks."""
        self.found = found
        self.reasons = {source: ("", reason) for source, reason in found.missing.items()}
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.cut = 0
        """Clips that this run cut, not those of earlier ones."""
        self.rows: list[dict[str, Any]] = []
        self.counts: dict[str, int] = {}
        self.wall_s = 0.0

    def skip_video(self, video: Video, reason: str) -> None:
        """Note that a video gives no clip."""
        self.reasons[video.source] = (video.path, reason)

    def count(self, cut: Cut) -> None:
        """Add the time that some clips took."""
        self.cut += len(cut.files)
        for stage, seconds in cut.seconds.items():
            self.seconds[stage] += seconds

    def finish(self, finished: Iterable[Any], counts: dict[str, int], wall_s: float) -> None:
        """Make the table out of the finished shards: a row a video."""
        self.counts, self.wall_s = counts, wall_s
        rows: dict[str, dict[str, Any]] = {}
        for unit, skipped in ((unit, item.skipped) for item in finished for unit in item.plan.units):
            video = unit.video
            new = {"video": video.source, "path": video.path, "split": video.split, "clips": 0, "skipped": 0}
            row = rows.setdefault(f"{video.source} {video.path}", {**new, "reason": []})
            reasons = [skipped[clip.key] for clip in unit.clips if clip.key in skipped]
            row["clips"] += len(unit.clips) - len(reasons)
            row["skipped"] += len(reasons)
            row["reason"] += reasons
        for source, (path, reason) in self.reasons.items():
            rows[f"{source} {path} skipped"] = {
                "video": source,
                "path": path,
                "split": "",
                "clips": 0,
                "skipped": 0,
                "reason": [reason],
            }
        self.rows = [rows[name] for name in sorted(rows)]

    def write(self, out: Path) -> None:
        """Write both files whole.

        Raises:
            OutputError: The folder cannot be written to.
        """
        text = io.StringIO()
        writer = csv.DictWriter(
            text, ["video", "path", "split", "clips", "skipped", "reason"], lineterminator="\n", escapechar="\\"
        )
        writer.writeheader()
        writer.writerows({**row, "reason": "; ".join(row["reason"])} for row in self.rows)
        write_text(out / "report.csv", text.getvalue().encode("utf-8", "replace").decode())
        values = {
            "dataset": self.found.dataset,
            "clips": self.counts,
            "videos": sum(row["clips"] > 0 for row in self.rows),
            "videos_skipped": sum(row["clips"] == 0 for row in self.rows),
            "clips_skipped": sum(row["skipped"] for row in self.rows),
            "reasons": dict(Counter(_kind(reason) for row in self.rows for reason in row["reason"]).most_common()),
            "this_run": {
                "clips": self.cut,
                "wall_s": round(self.wall_s, 2),
                "stage_s": {stage: round(seconds, 2) for stage, seconds in self.seconds.items()},
            },
            "skipped": [row for row in self.rows if row["reason"]],
        }
        write_text(out / "report.json", json.dumps(values, indent=2) + "\n")

    def summary(self, out: Path) -> list[str]:
        """Return what the command says at its end: what there is, what is not, how fast it was and why."""
        counts = ", ".join(f"{count} {split}" for split, count in self.counts.items())
        lines = [f"{counts} clips in {out}"]
        videos, clips = (sum(row["clips"] == 0 for row in self.rows), sum(row["skipped"] for row in self.rows))
        if videos or clips:
            lines.append(f"skipped {videos} videos, and {clips} clips; {out / 'report.csv'} says why")
        if self.cut:
            spent = sum(self.seconds.values())
            shares = ", ".join(f"{stage} {seconds / spent:.0%}" for stage, seconds in self.seconds.items())
            rate = self.cut / self.wall_s
            lines.append(
                f"{self.cut} clips in {self.wall_s:.1f} s: {rate:.2f} clips/s; of the processes' time: {shares}"
            )
        return lines


def _kind(reason: str) -> str:
    """Return a reason without the numbers and names that differ from case to case."""
    return re.sub(
        r"-?\d+(\.\d+)?", "N", reason.split(": no video named")[0] if ": no video" not in reason else "no file"
    )
