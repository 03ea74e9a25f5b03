"""One evaluation from plan to report."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from clipsonic.evaluation.aisfx import AisfxEmbedder
from clipsonic.evaluation.bank import Bank, read_bank
from clipsonic.evaluation.clap import CHECKPOINT, Clap
from clipsonic.evaluation.corpus import choose_things, read_held
from clipsonic.evaluation.embedders import load_embedding
from clipsonic.evaluation.extra import read_extra
from clipsonic.evaluation.frechet import Reference
from clipsonic.evaluation.judge import Embed
from clipsonic.evaluation.measures import FadReference, Measured, Measures
from clipsonic.evaluation.page import Page
from clipsonic.evaluation.plots import plot_report
from clipsonic.evaluation.report import Report
from clipsonic.evaluation.rows import CHANCE, NOTES, REAL, Bench, Plan, Row
from clipsonic.evaluation.scores import ClapScorer, ClipScorer
from clipsonic.evaluation.sets import canonical_prompts
from clipsonic.evaluation.significance import compare
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.shards import read_labels


def evaluate(plan: Plan) -> Report:
    """Make sounds, measure them, and write the report, its plots and its page into `plan.out`.

    The report is written after every row, so that an interruption leaves what was measured.

    Raises:
        ClipSonicError: The model, the data or the output cannot be used.
    """
    pipeline = ClipSonicPipeline.from_pretrained(plan.model, device=plan.device)
    things = choose_things(read_labels(plan.data), plan.things)
    prompts = canonical_prompts(things)
    extras = {name: read_extra(folder, prompts, pipeline.sample_rate) for name, folder in plan.extras.items()}
    embed = AisfxEmbedder(device=pipeline.folder.accelerator.device).embed
    bank = read_bank(plan.data, embed)
    held = read_held(plan.data, things, plan.seeds)
    bench = Bench(plan=plan, pipeline=pipeline, things=things, held=held, bank=bank, extras=extras)
    report = Report(settings=_describe(bench))
    measures = _measures(bench, embed, prompts, report)
    page = Page(prompts)
    chance: Row | None = None
    for row in bench.rows():
        found = measures.measure(row.sounds, real=row.name == REAL)
        if row.understood is not None:
            found.add("condition", row.understood, row.sounds.labels)
        _add(report, row, found)
        page.add(row.name, row.sounds)
        if chance is None and row.of_corpus and row.name.split()[0] in pipeline.methods:
            chance = row
        report.write(plan.out)
    if chance is not None:
        shown = dict(zip(things, np.roll(np.array(things, dtype=object), 1), strict=True))
        report.rows[CHANCE] = measures.chance(chance.sounds, shown).intervals
        report.notes[CHANCE] = NOTES[CHANCE]
    report.comparisons = compare(report.things)
    report.write(plan.out)
    plot_report(report, plan.out / "plots")
    page.write(plan.out, report)
    return report


def _add(report: Report, row: Row, found: Measured) -> None:
    """Put what was measured of a row into the report."""
    report.rows[row.name], report.things[row.name] = found.intervals, found.things
    report.notes[row.name] = row.note
    report.left_out += [f"{row.name}: {line}" for line in (*row.left_out, *found.left_out)]
    if found.details:
        report.details[row.name] = found.details


def _measures(bench: Bench, embed: Embed, prompts: dict[str, str], report: Report) -> Measures:
    """Load what the metrics need; what this model cannot be measured by is left out with a line."""
    plan, model = bench.plan, bench.pipeline.folder
    template = next(iter(plan.settings.values())).template
    fad = _fad_reference(bench, embed, report) if "fad" in plan.metrics else None
    clip = clap = None
    if "clip" in plan.metrics:
        if "audio_clip" in model.index.parts:
            clip = ClipScorer(model, bench.held, prompts, template)
        else:
            report.left_out.append(
                f"clip: the model {model.index.name} has no audio_clip; train one to have Clip-Scores"
            )
    if "clap" in plan.metrics:
        clap = ClapScorer(Clap(plan.clap_model or CHECKPOINT, model.accelerator.device), prompts)
        report.settings["clap"] = f"{plan.clap_model or CHECKPOINT}, 48 kHz, the first 10 s, plain cosine"
    measures = Measures(bench.bank, embed, plan.metrics, fad, clip, clap)
    if measures.classifier is not None:
        report.settings["classifier"] = {
            "things": len(measures.classifier.classes),
            "training sounds": measures.classifier.count,
            "held-out accuracy": f"that of the row {REAL}",
        }
    if "copies" in plan.metrics:
        report.settings["copy check"] = {
            "two takes of one recording": round(measures.copies.take_similarity, 4),
            "nearest of another recording": round(measures.copies.other_similarity, 4),
        }
    return measures


def _fad_reference(bench: Bench, embed: Embed, report: Report) -> FadReference:
    """Fit the reference to the training sounds of the evaluated things."""
    plan, bank, resampling = bench.plan, bench.bank, "soxr_hq to 44,100 Hz"
    if plan.fad != "aisfx":
        other = load_embedding(plan.fad, bench.pipeline.folder.accelerator.device, plan.clap_model or CHECKPOINT)
        embed, resampling = other.embed, other.resampling
        bank = read_bank(plan.data, embed, other.name)
    rows = bank.rows_of(frozenset(bench.things))
    reference = Reference(bank.embeddings.numpy()[rows].astype(np.float64))
    size = bank.embeddings.shape[1]
    report.settings["fad"] = {
        "embedding": plan.fad,
        "reference": f"training sounds of the {len(bench.things)} things, at most two of a recording",
        "n": len(rows),
        "seconds": round(_seconds(bank, len(rows)), 1),
        "rank": reference.gaussian.rank,
        "dimensions": size,
        "resampling": resampling,
        "loudness": "every sound brought to -23 LUFS first",
    }
    if reference.gaussian.rank < size:
        report.left_out.append(
            f"fad: the reference's covariance has rank {reference.gaussian.rank} of {size} ({len(rows)} sounds): "
            "distances are biased; raise --things"
        )
    return FadReference(embed=embed, reference=reference, own=plan.fad == "aisfx")


def _seconds(bank: Bank, count: int) -> float:
    return bank.seconds * count / max(1, len(bank.keys))


def _describe(bench: Bench) -> dict[str, Any]:
    """Return what the report says of how it was made."""
    plan, folder = bench.plan, bench.pipeline.folder
    settings = {suffix.strip() or "all": dataclasses.asdict(value) for suffix, value in plan.settings.items()}
    return {
        "model": folder.index.name,
        "model_sha256": folder.sha256,
        "bank_recordings": len(set(bench.bank.sources)),
        "things": list(bench.things),
        "seeds": plan.seeds,
        "generation": settings,
        "sweep": _swept(plan),
    }


def _swept(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return, for each suffix of rows, the settings that differ between suffixes."""
    values = {suffix: dataclasses.asdict(settings) for suffix, settings in plan.settings.items() if suffix}
    first = next(iter(values.values()), {})
    differing = [name for name in first if any(own[name] != first[name] for own in values.values())]
    return {suffix: {name: own[name] for name in differing} for suffix, own in values.items()}
