"""One evaluation from plan to report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsonic.config import TEXT_METHODS, GenerationSettings
from clipsonic.errors import DataError
from clipsonic.evaluation.aisfx import AisfxEmbedder
from clipsonic.evaluation.corpus import PROMPTS, Held, build_judge, choose_things, read_held
from clipsonic.evaluation.judge import Judge, Judged
from clipsonic.evaluation.report import Report
from clipsonic.evaluation.sets import (
    IMAGE_METHODS,
    Query,
    Sounds,
    copy_synthesis,
    file_queries,
    frame_queries,
    generate,
    prompt_queries,
    real_sounds,
)
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.shards import read_labels

_NOTES = {
    "real": "held-out real sounds",
    "vocoder": "the same sounds, made anew by the vocoder from their log-mels",
    "iq": "pictures: frames of held-out videos",
    "zs": "prompts that name the thing, through CLIP's text embedding as it is",
    "pd": "the same prompts, through the diffusion prior",
    "sd": "the same prompts, through the supervised prior",
    "chance": "generated sounds, each asked to be of every other thing instead of its own",
    "free-form": "prompts that name the thing in other words",
    "pictures": "real photographs that are in no training set",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to evaluate, and how.

    Attributes:
        model: Model folder or hub repository.
        data: Folder of shards.
        out: Folder for the sounds.
        methods: Methods to try; all the model has if empty.
        sets: Any of "corpus", "free-form", "pictures".
        things: How many things of the corpus to ask for.
        seeds: Sounds of each thing or prompt.
        limit: At most this many prompts and pictures of the other sets.
        prompts: CSV file of the free-form set; the package's own if None.
        pictures: CSV file of the pictures set.
        device: Where to compute.
        settings: Generation settings by the suffix of the rows they make.
    """

    model: str
    data: Path
    out: Path
    methods: tuple[str, ...]
    sets: tuple[str, ...]
    things: int
    seeds: int
    limit: int | None
    prompts: Path | None
    pictures: Path
    device: str
    settings: dict[str, GenerationSettings]


def evaluate(plan: Plan) -> Report:
    """Make sounds, judge them, and report.

    Raises:
        ClipSonicError: The model, the data or the output cannot be used.
    """
    pipeline = ClipSonicPipeline.from_pretrained(plan.model, device=plan.device)
    things = choose_things(read_labels(plan.data), plan.things)
    judge = build_judge(plan.data, AisfxEmbedder(device=pipeline.folder.accelerator.device).embed)
    report = Report(settings=_describe(plan, pipeline, judge, things))
    held = read_held(plan.data, things, plan.seeds)
    if "corpus" in plan.sets:
        _add(report, judge, "real", real_sounds(held), _NOTES["real"])
        _add(report, judge, "vocoder", copy_synthesis(pipeline, held), _NOTES["vocoder"])
    methods = plan.methods or pipeline.methods
    for suffix, settings in plan.settings.items():
        for group, queries, suited in _groups(plan, judge, held, things, methods):
            folder = plan.out / "sounds" / f"{group or 'corpus'}{suffix.replace(' ', '-')}"
            for method, sounds in generate(pipeline, queries, settings, suited, folder).items():
                note = _NOTES[group] + f" ({method})" if group else _NOTES[method]
                judged = _add(report, judge, f"{method}{'-' + group if group else ''}{suffix}", sounds, note)
                if not group:
                    report.rows[f"chance{suffix}"] = judged.by_chance()
    report.notes["chance"] = _NOTES["chance"]
    return report


def _groups(
    plan: Plan, judge: Judge, held: Sequence[Held], things: Sequence[str], methods: Sequence[str]
) -> Iterator[tuple[str, list[Query], list[str]]]:
    """Yield the sets asked for: name ("" for the corpus), queries, and the methods that suit them."""
    by_text = [method for method in methods if method in TEXT_METHODS]
    by_picture = [method for method in methods if method in IMAGE_METHODS]
    if "corpus" in plan.sets and by_picture:
        yield "", frame_queries(held, things, plan.seeds), by_picture
    if "corpus" in plan.sets and by_text:
        yield "", prompt_queries(things, plan.seeds), by_text
    if "free-form" in plan.sets and by_text:
        path = plan.prompts or PROMPTS / "free_form.csv"
        yield "free-form", _some(file_queries(path, "prompt", judge.things, plan.seeds), plan, path), by_text
    if "pictures" in plan.sets and by_picture:
        path = plan.pictures
        yield "pictures", _some(file_queries(path, "file", judge.things, plan.seeds), plan, path), by_picture


def _some(queries: list[Query], plan: Plan, path: Path) -> list[Query]:
    if not queries:
        raise DataError(f"{path} names nothing that {plan.data} holds; give labels of its labels.csv")
    return queries[: plan.limit]


def _add(report: Report, judge: Judge, row: str, sounds: Sounds, note: str) -> Judged:
    """Judge sounds and add them to the report as a row."""
    judged = judge.judge(sounds.waveforms, sounds.sample_rate, sounds.labels)
    scores = judged.scores()
    report.rows[row] = scores
    report.notes[row] = note
    report.things[row] = {metric: judged.by_thing(metric) for metric in scores}
    return judged


def _describe(plan: Plan, pipeline: ClipSonicPipeline, judge: Judge, things: Sequence[str]) -> dict[str, object]:
    """Return what the report says of how it was made."""
    settings = {suffix or "all": dataclasses.asdict(value) for suffix, value in plan.settings.items()}
    return {
        "model": pipeline.folder.index.name,
        "model_sha256": pipeline.folder.sha256,
        "bank_recordings": judge.sources,
        "things": list(things),
        "seeds": plan.seeds,
        "generation": settings,
    }
