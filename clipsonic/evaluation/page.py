"""A page to listen to: `index.html` beside the sounds, which works from a folder or any web server."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from clipsonic.audio import write_audio
from clipsonic.evaluation.report import COLUMNS, Report
from clipsonic.evaluation.sets import Sounds
from clipsonic.media import open_picture
from clipsonic.storage import slug, write_text, write_whole

SHOWN = 2
"""Sounds of each thing and row."""
THUMBNAIL = 128
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222;
  background: #fff }
table { border-collapse: collapse; display: block; overflow-x: auto } th, td { padding: .3rem .6rem; text-align: left;
  border-bottom: 1px solid #ddd; vertical-align: top } audio { width: 13rem; height: 2.2rem; display: block }
img.frame { height: 64px; display: block } img.plot { max-width: 100% }
thead th { position: sticky; top: 0; background: #fff }
@media (prefers-color-scheme: dark) { body, thead th { background: #181818; color: #eee }
  th, td { border-color: #444 } }
"""


class _Clip:
    """A sound of the page: in a file already, or kept until the page is written."""

    def __init__(self, sounds: Sounds, row: int) -> None:
        self.file = sounds.files[row] if sounds.files else None
        self.waveform: np.ndarray = sounds.waveforms[row]
        self.sample_rate = sounds.sample_rate
        self.prompt = sounds.prompts[row] if sounds.prompts else None
        self.picture: Image.Image | None = None
        if sounds.pictures and (picture := sounds.pictures[row]) is not None:
            self.picture = open_picture(picture).copy()
            self.picture.thumbnail((THUMBNAIL, THUMBNAIL))


class Page:
    """Collects the first sounds of every row."""

    def __init__(self, prompts: Mapping[str, str]) -> None:
        """Begin a page.

        Args:
            prompts: The things and their prompts, in the order they are to be shown.
        """
        self._prompts = dict(prompts)
        self._clips: dict[str, dict[str, list[_Clip]]] = {}

    def add(self, row: str, sounds: Sounds) -> None:
        """Take the first sounds of each thing of a row."""
        own: dict[str, list[_Clip]] = {}
        for number, label in enumerate(sounds.labels):
            if len(own.setdefault(label, [])) < SHOWN:
                own[label].append(_Clip(sounds, number))
        self._clips[row] = own

    def write(self, folder: Path, report: Report) -> None:
        """Write `index.html`, and what it shows that does not lie in the folder yet.

        Raises:
            OutputError: The folder cannot be written to.
        """
        things = list(dict.fromkeys([*self._prompts, *(thing for own in self._clips.values() for thing in own)]))
        body = [f"<h1>Evaluation of {html.escape(str(report.settings.get('model', '')))}</h1>", _figures(report)]
        plots = sorted((folder / "plots").glob("*.png"))
        body += [
            f'<img class="plot" loading="lazy" src="plots/{quote(p.name)}" alt="{html.escape(p.stem)}">' for p in plots
        ]
        body += ["<h2>Sounds</h2><table><thead><tr><th>thing</th>"]
        body += [f"<th>{html.escape(row)}</th>" for row in self._clips] + ["</tr></thead><tbody>"]
        for thing in things:
            title = html.escape(thing)
            if prompt := self._prompts.get(thing):
                title += f"<br><small>{html.escape(prompt)}</small>"
            cells = (self._cell(folder, row, thing) for row in self._clips)
            body.append(f"<tr><th>{title}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
        body.append("</tbody></table>")
        head = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>'
        head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
        write_text(
            folder / "index.html",
            f"{head}<style>{_STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n",
        )

    def _cell(self, folder: Path, row: str, thing: str) -> str:
        parts = []
        for number, clip in enumerate(self._clips[row].get(thing, [])):
            stem = f"{slug(row)}-{slug(thing)}-{number}"
            if clip.picture is not None:
                picture = folder / "pictures" / f"{stem}.jpg"
                with write_whole(picture) as temporary:
                    clip.picture.save(temporary, "JPEG")
                parts.append(f'<img class="frame" loading="lazy" src="{_link(folder, picture)}" alt="the query">')
            if clip.prompt and clip.prompt != self._prompts.get(thing):
                parts.append(f"<small>{html.escape(clip.prompt)}</small>")
            file = clip.file
            if file is None or not file.resolve().is_relative_to(folder.resolve()):
                file = folder / "sounds" / "extra" / f"{stem}.flac"
                write_audio(file, clip.waveform, clip.sample_rate)
            parts.append(f'<audio controls preload="none" src="{_link(folder, file)}"></audio>')
        return "".join(parts)


def _link(folder: Path, file: Path) -> str:
    """Return a file's address relative to the page."""
    return html.escape(quote(os.path.relpath(file, folder)))


def _figures(report: Report) -> str:
    """Return the report's table as HTML."""
    metrics = [name for name in COLUMNS if any(name in row for row in report.rows.values())]
    lines = ["<table><thead><tr><th>row</th>", *(f"<th>{html.escape(COLUMNS[name])}</th>" for name in metrics)]
    lines.append("</tr></thead><tbody>")
    for name, row in report.rows.items():
        cells = "".join(f"<td>{html.escape(str(row[m])) if m in row else ''}</td>" for m in metrics)
        note = html.escape(report.notes.get(name, ""))
        lines.append(f'<tr><th title="{note}">{html.escape(name)}</th>{cells}</tr>')
    return "".join(lines) + "</tbody></table>"
