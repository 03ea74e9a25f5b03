"""Plots of a report: a bar a row, and heat maps or curves of what was swept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from clipsonic.evaluation.report import COLUMNS, Interval, Report
from clipsonic.storage import slug, write_text, write_whole

SWEEP_METRICS = ("fad", "accuracy", "top5", "clip_picture", "clip_prompt")
Point = dict[str, Any]


def plot_report(report: Report, folder: Path) -> list[Path]:
    """Write PNG files, and `sweep.json` if settings were swept.

    Returns:
        The PNG files.

    Raises:
        OutputError: The folder cannot be written to.
    """
    paths = []
    points = sweep_points(report)
    swept = {point["row"] for point in points}
    for metric in dict.fromkeys(metric for row in report.rows.values() for metric in row):
        rows = {name: row[metric] for name, row in report.rows.items() if metric in row and name not in swept}
        if rows:
            paths.append(_save(_bars(rows, COLUMNS.get(metric, metric)), folder / f"{metric}.png"))
    if points:
        write_text(folder / "sweep.json", json.dumps(points, indent=2, ensure_ascii=False) + "\n")
        for method in dict.fromkeys(point["method"] for point in points):
            paths += _plot_sweep([point for point in points if point["method"] == method], method, folder)
    return paths


def sweep_points(report: Report) -> list[Point]:
    """Return one entry a swept row: its name, its method, the settings that were swept, and its metrics."""
    swept = report.settings.get("sweep", {})
    points = []
    for name, row in report.rows.items():
        for suffix, values in swept.items():
            if suffix and name.endswith(suffix):
                metrics = {key: {"value": v.value, "low": v.low, "high": v.high, "n": v.n} for key, v in row.items()}
                points.append(
                    {"row": name, "method": name.removesuffix(suffix), "settings": values, "metrics": metrics}
                )
                break
    return points


def _plot_sweep(points: list[Point], method: str, folder: Path) -> list[Path]:
    """Plot each metric over one setting as a curve, over the first two of several as a heat map."""
    axes = {name: list(dict.fromkeys(point["settings"][name] for point in points)) for name in points[0]["settings"]}
    varied = [name for name, values in axes.items() if len(values) > 1]
    paths = []
    for metric in SWEEP_METRICS:
        present = [point for point in points if metric in point["metrics"]]
        if not present or not varied:
            continue
        if len(varied) == 1:
            figure = _curve(present, varied[0], metric, method)
        else:
            figure = _heat_map(present, varied[0], varied[1], metric, method)
        paths.append(_save(figure, folder / f"sweep-{slug(method)}-{metric}.png"))
    return paths


def _bars(rows: dict[str, Interval], title: str) -> Figure:
    figure = Figure(figsize=(7, 0.6 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    values = np.array([v.value for v in rows.values()])
    errors = [[max(0.0, v.value - v.low) for v in rows.values()], [max(0.0, v.high - v.value) for v in rows.values()]]
    places = np.arange(len(rows))[::-1]
    axes.barh(places, values, color="#7c9cc4")
    axes.errorbar(values, places, xerr=errors, fmt="none", ecolor="#222222", capsize=2.5, linewidth=1)
    axes.set_yticks(places, list(rows))
    axes.set_xlabel(f"{title}, 95 % intervals")
    return figure


def _curve(points: list[Point], name: str, metric: str, method: str) -> Figure:
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    found = [point["metrics"][metric] for point in points]
    settings = [point["settings"][name] for point in points]
    numeric = all(isinstance(value, int | float) for value in settings)
    places = settings if numeric else list(range(len(settings)))
    values = [v["value"] for v in found]
    errors = [[max(0, v["value"] - v["low"]) for v in found], [max(0, v["high"] - v["value"]) for v in found]]
    axes.errorbar(places, values, yerr=errors, marker="o", capsize=3)
    if not numeric:
        axes.set_xticks(places, [str(value) for value in settings], rotation=20, ha="right")
    axes.set_xlabel(name)
    axes.set_ylabel(COLUMNS.get(metric, metric))
    axes.set_title(method)
    return figure


def _heat_map(points: list[Point], across: str, down: str, metric: str, method: str) -> Figure:
    """Draw one cell a pair of settings: the mean over whatever else was swept."""
    columns = list(dict.fromkeys(point["settings"][across] for point in points))
    rows = list(dict.fromkeys(point["settings"][down] for point in points))
    cells = np.full((len(rows), len(columns)), np.nan)
    for r, row in enumerate(rows):
        for c, column in enumerate(columns):
            own = [p for p in points if p["settings"][across] == column and p["settings"][down] == row]
            if own:
                cells[r, c] = float(np.mean([point["metrics"][metric]["value"] for point in own]))
    figure = Figure(figsize=(2.5 + 0.9 * len(columns), 1.8 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(cells, aspect="auto", cmap="viridis")
    axes.set_xticks(range(len(columns)), [str(value) for value in columns], rotation=20, ha="right")
    axes.set_yticks(range(len(rows)), [str(value) for value in rows])
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    for (r, c), value in np.ndenumerate(cells):
        if np.isfinite(value):
            axes.text(
                c, r, f"{value:.3g}", ha="center", va="center", color="white", bbox={"color": "#00000066", "pad": 1}
            )
    axes.set_title(f"{method}: {COLUMNS.get(metric, metric)}")
    figure.colorbar(shown, ax=axes)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    with write_whole(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))
    return path
