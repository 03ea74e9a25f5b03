"""Results for people: `report.md` with the paragraph that ITU-T P.800.2 asks for, plots and CSV tables."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from clipsonic.listening.analyze import Results, write_ratings
from clipsonic.listening.screening import Screened
from clipsonic.listening.sets import ListeningSet
from clipsonic.listening.statistics import Comparison, Mean
from clipsonic.listening.tables import write_csv
from clipsonic.storage import write_text, write_whole

_METHODS = {
    "acr": "absolute category rating (ACR), five-point scales from 1 (bad) to 5 (excellent)",
    "preference": "paired comparison (A/B preference)",
    "mushra": "multiple stimuli with hidden reference and anchors (after ITU-R BS.1534), 0 to 100",
}


def write_report(folder: Path, listening_set: ListeningSet, results: Results) -> None:
    """Write `results.json`, `report.md`, the CSV tables and the plots into a folder.

    Raises:
        OutputError: The folder cannot be written to.
    """
    write_text(folder / "results.json", results.to_json())
    rows = [{"system": n, "scale": s} | asdict(m) for n, row in results.systems.items() for s, m in row.items()]
    write_csv(folder / "mos.csv", ["system", "scale", *(f.name for f in fields(Mean))], rows)
    write_csv(folder / "prompts.csv", PROMPT_COLUMNS, prompt_rows(listening_set, results))
    write_csv(folder / "tests.csv", [f.name for f in fields(Comparison)], (t.to_dict() for t in results.tests))
    write_csv(folder / "screened.csv", [f.name for f in fields(Screened)], map(asdict, results.screened))
    write_ratings(folder / "ratings.csv", results.ratings)
    for scale in scales_of(results):
        plot(folder / f"mos-{scale}.png", results, scale)
    write_text(folder / "report.md", to_markdown(listening_set, results))


PROMPT_COLUMNS = ("item", "prompt", "picture", "system", "scale", "mos", "low", "high", "n", "listeners", "sd")


def prompt_rows(listening_set: ListeningSet, results: Results) -> list[dict[str, Any]]:
    """Return the per-prompt table with what was asked."""
    items = listening_set.items
    return [
        row | {"prompt": items[row["item"]].prompt, "picture": items[row["item"]].picture} for row in results.prompts
    ]


def scales_of(results: Results) -> list[str]:
    """Return the scales that have means, in their order."""
    return list(dict.fromkeys(scale for row in results.systems.values() for scale in row))


def plot(path: Path, results: Results, scale: str) -> None:
    """Draw the systems' means on one scale with their intervals as a PNG.

    Raises:
        OutputError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    rows = [(name, row[scale]) for name, row in results.systems.items() if scale in row]
    figure = Figure(figsize=(1.5 + 0.9 * len(rows), 3.6), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, mean) in enumerate(rows):
        low, high = mean.mos - (mean.low or mean.mos), (mean.high or mean.mos) - mean.mos
        axes.errorbar(place, mean.mos, yerr=[[low], [high]], fmt="o", capsize=5, color="#4338ca")
    axes.set_xticks(range(len(rows)), [_no_math(name) for name, _ in rows])
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylim(*((0, 100) if any(mean.mos > 5 for _, mean in rows) else (1, 5)))
    axes.set_ylabel(f"{_no_math(scale)}, mean with 95 % interval")
    axes.grid(axis="y", alpha=0.3)
    with write_whole(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _no_math(text: str) -> str:
    """Keep matplotlib from reading formulas into names."""
    return text.replace("$", r"\$")


def to_markdown(listening_set: ListeningSet, results: Results) -> str:
    """Return the report as Markdown; nothing that people typed is read as markup."""
    parts = [f"# {escape(listening_set.manifest.title)}", paragraph(listening_set, results)]
    if results.systems:
        parts += ["## Mean opinion scores", _table(MOS_HEADER, _mos_lines(results))]
        parts += [f"![{scale}](mos-{scale}.png)" for scale in scales_of(results)]
    if results.tests:
        parts += ["## Differences between systems", _table(TEST_HEADER, _test_lines(results))]
    parts += ["## Listeners left out", _screened(results), "## By prompt"]
    header = ("item", "prompt", "system", "scale", "MOS", "95 % interval", "ratings")
    parts.append(
        _table(
            header,
            [
                (r["item"], escape(r["prompt"] or r["picture"]), r["system"], r["scale"])
                + (f"{r['mos']:.2f}", span(r["low"], r["high"]), str(r["n"]))
                for r in prompt_rows(listening_set, results)
            ],
        )
    )
    return "\n\n".join(parts) + "\n"


MOS_HEADER = ("system", "scale", "MOS", "95 % interval (t)", "over listeners and prompts", "ratings", "listeners", "SD")
TEST_HEADER = ("scale", "systems", "test", "difference", "95 % interval", "pairs", "p", "p (Holm)")


def _mos_lines(results: Results) -> list[tuple[str, ...]]:
    return [
        (name, scale, f"{m.mos:.2f}", span(m.low, m.high), span(m.boot_low, m.boot_high))
        + (str(m.n), str(m.listeners), "–" if m.sd is None else f"{m.sd:.2f}")
        for name, row in results.systems.items()
        for scale, m in row.items()
    ]


def _test_lines(results: Results) -> list[tuple[str, ...]]:
    return [
        (t.scale, f"{t.a} − {t.b}", f"{t.kind}, by {t.unit}", f"{t.difference:+.2f}", span(t.low, t.high))
        + (str(t.n), _p(t.p), _p(t.p_holm))
        for t in results.tests
    ]


def paragraph(listening_set: ListeningSet, results: Results) -> str:
    """Return what ITU-T P.800.2 says must be known of a MOS: method, scales, listeners, stimuli, statistics."""
    manifest = listening_set.manifest
    designs = sorted({rating.design for rating in results.ratings})
    tested = [item for item in manifest.items if item.kind == "test"]
    left = len(results.screened)
    seconds = manifest.samples / manifest.sample_rate
    alphas = [f"{scale} {alpha:.2f}" for scale, alpha in results.agreement.items() if alpha is not None]
    text = [
        f"Subjective test. Method: {'; '.join(_METHODS[design] for design in designs)}.",
        "Scales: " + "; ".join(f"{scale.name} (“{scale.question}”)" for scale in manifest.scales) + "."
        if "acr" in designs
        else "",
        f"{results.listeners} listeners gave {len(results.ratings)} ratings that count; {left} more were left out.",
        f"Stimuli: {len(tested)} prompts or pictures, {len(listening_set.systems)} systems "
        f"({', '.join(listening_set.systems)}), {seconds:.2f} s each, {manifest.sample_rate} Hz, "
        f"{'mono' if manifest.channels == 1 else f'{manifest.channels} channels'}, brought to "
        f"{manifest.loudness_lufs:g} LUFS (ITU-R BS.1770).",
        "Intervals are 95 % t intervals with standard errors clustered by listener; tests are paired, two-sided and "
        "Holm-corrected for each scale.",
        f"Agreement (Krippendorff's alpha, interval): {', '.join(alphas)}." if alphas else "",
        "Listeners' number and kind, headphones, room and language are the organiser's to add; a MOS holds for "
        "the stimuli and listeners of this test and must not be compared with one of another test.",
        *manifest.notes,
    ]
    return escape(" ".join(part for part in text if part))


def _screened(results: Results) -> str:
    if not results.screened:
        return "None."
    return "\n".join(f"* {escape(entry.listener)}: {escape(entry.reason)}" for entry in results.screened)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *lines])


def span(low: float | None, high: float | None) -> str:
    """Return an interval such as "[2.10, 2.90]", or a dash."""
    return "–" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, in a table too."""
    for mark in "\\`*_[]|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(html.escape(text, quote=False).split())
