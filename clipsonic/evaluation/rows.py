"""The rows of the paper's table: what each is, and how its sounds come about."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from clipsonic.config import GenerationSettings
from clipsonic.errors import DataError
from clipsonic.evaluation.bank import DEFAULT_CACHE, Bank
from clipsonic.evaluation.corpus import PROMPTS, Held
from clipsonic.evaluation.extra import Extra
from clipsonic.evaluation.making import ORACLE, UNCONDITIONAL, Maker
from clipsonic.evaluation.nearest import Gallery
from clipsonic.evaluation.sets import (
    Query,
    Sounds,
    copy_synthesis,
    file_queries,
    frame_queries,
    prompt_queries,
    real_sounds,
    sound_queries,
)
from clipsonic.evaluation.understood import Array, Understanding
from clipsonic.methods import AUDIO_METHODS, IMAGE_METHODS, METHODS
from clipsonic.pipeline import ClipSonicPipeline

REAL, VOCODER, RETRIEVAL, CHANCE = "real", "vocoder", "retrieval", "chance"
BASELINES = (VOCODER, ORACLE, UNCONDITIONAL, RETRIEVAL)
ROWS = (*METHODS, *BASELINES)
"""What `--methods` takes; the rows "real" and "chance" are always there."""
NOTES = {
    REAL: "held-out real sounds",
    VOCODER: "copy-synthesis: the same sounds, made anew by the vocoder from their log-mels",
    "iq": "pictures: frames of held-out videos",
    "mq": "the same pictures, projected onto the picture memory",
    "zs": "prompts that name the thing, through CLIP's text embedding as it is",
    "pd": "the same prompts, through the diffusion prior",
    "sd": "the same prompts, through the supervised prior",
    "mp": "the pictures that the prior looks the same prompts up as, projected onto the picture memory",
    "aq": "held-out sounds as queries, through the audio → CLIP encoder",
    ORACLE: "the mean of the thing's frames in the judge's bank, found by its label: no query is misunderstood",
    UNCONDITIONAL: "the null embedding: the model hears nothing of the query",
    "retrieval-iq": "the training sounds whose frames are nearest in CLIP's space to the pictures of iq",
    "retrieval-zs": "the same for the prompts of zs",
    CHANCE: "the first generated row, each sound asked to be of another thing, for the judge of all others",
    "free-form": "prompts that name the thing in other words",
    "pictures": "real photographs that are in no training set",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to evaluate, and how.

    Attributes:
        model: Model folder or hub repository.
        data: Folder of shards.
        out: Folder for report and sounds.
        methods: Rows of `ROWS` to make; all that the model can do if empty.
        metrics: Those of `measures.METRICS` to take.
        sets: Any of "corpus", "free-form", "pictures".
        things: How many things of the corpus to ask for.
        seeds: Sounds of each thing or prompt.
        limit: At most this many prompts and pictures of the other sets.
        prompts: CSV file of the free-form set; the package's own if None.
        pictures: CSV file of the pictures set.
        device: Where to compute.
        settings: Generation settings by the suffix of the rows they make.
        systems: Other models by row name, each with the method it is asked by.
        extras: Folders of other systems' sounds by row name.
        fad: The embedding of the Fréchet distance.
        clap_model: Hub id or folder of the CLAP model.
    """

    model: str
    data: Path
    out: Path
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    sets: tuple[str, ...]
    things: int
    seeds: int
    limit: int | None
    prompts: Path | None
    pictures: Path
    device: str
    settings: dict[str, GenerationSettings]
    systems: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    extras: dict[str, Path] = dataclasses.field(default_factory=dict)
    fad: str = "aisfx"
    clap_model: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One row of the table.

    Attributes:
        name: Unique in the report.
        sounds: What is measured.
        note: What it is, for people.
        left_out: What of it could not be measured.
        understood: For each sound 1 where its query was, see `understood`, and 0 where not; None if nobody looked.
        of_corpus: Whether it asks for the corpus's things as the other rows do, so that they can be compared in pairs.
    """

    name: str
    sounds: Sounds
    note: str
    left_out: tuple[str, ...] = ()
    understood: Array | None = None
    of_corpus: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """What all rows draw from.

    Attributes:
        plan: What was asked for.
        pipeline: The model.
        things: The things of the corpus that are asked for.
        held: Their held-out videos.
        bank: The training sounds.
        extras: What `plan.extras` gave.
    """

    plan: Plan
    pipeline: ClipSonicPipeline
    things: list[str]
    held: list[Held]
    bank: Bank
    extras: dict[str, Extra]

    @property
    def folder(self) -> Path:
        """Where sounds go."""
        return self.plan.out / "sounds"

    @cached_property
    def gallery(self) -> Gallery:
        """The training frames, embedded when they are first asked for."""
        return Gallery(self.plan.data, self.pipeline.folder, self.bank, DEFAULT_CACHE)

    @cached_property
    def understanding(self) -> Understanding | None:
        """What tells which conditions were understood, if that is to be measured."""
        return Understanding(self.pipeline, self.gallery) if "condition" in self.plan.metrics else None

    def wants(self, row: str) -> bool:
        """Return whether a baseline of the corpus is to be made."""
        return "corpus" in self.plan.sets and (not self.plan.methods or row in self.plan.methods)

    def methods(self, pipeline: ClipSonicPipeline) -> list[str]:
        """Return the model's methods that are to be tried."""
        asked = [method for method in self.plan.methods if method in METHODS]
        return asked if self.plan.methods else list(pipeline.methods)

    def rows(self) -> Iterator[Row]:
        """Make the rows, one after the other; the real sounds come first.

        Raises:
            ClipSonicError: A model, the data or the output cannot be used.
        """
        yield Row(name=REAL, sounds=real_sounds(self.held, self.folder / REAL), note=NOTES[REAL])
        if self.wants(VOCODER):
            made = copy_synthesis(self.pipeline, self.held, self.folder / VOCODER)
            yield Row(name=VOCODER, sounds=made, note=NOTES[VOCODER])
        maker = Maker(self.pipeline, self.folder)
        for suffix, settings in self.plan.settings.items():
            for group, queries, methods in self._groups(self.methods(self.pipeline)):
                for method, sounds in maker.make(queries, settings, methods, group or "corpus").items():
                    name = f"{method}{'-' + group if group else ''}{suffix}"
                    note = f"{NOTES[group]} ({method})" if group else NOTES[method]
                    found = self.understanding.hits(queries, settings, method) if self.understanding else None
                    yield Row(name=name, sounds=sounds, note=note, understood=found, of_corpus=not group)
        base = next(iter(self.plan.settings.values()))
        if self.wants(UNCONDITIONAL):
            made = maker.make(self._asked("zs"), base, [UNCONDITIONAL], "corpus")[UNCONDITIONAL]
            made = dataclasses.replace(made, prompts=[], pictures=[])
            yield Row(name=UNCONDITIONAL, sounds=made, note=NOTES[UNCONDITIONAL])
        if self.wants(ORACLE):
            told = [Query(label=t, embedding=self.gallery.centre(t), seeds=self.plan.seeds) for t in self.things]
            yield Row(name=ORACLE, sounds=maker.make(told, base, [ORACLE], "corpus")[ORACLE], note=NOTES[ORACLE])
        yield from self._retrieved(base)
        yield from self._systems(base)
        for name, extra in self.extras.items():
            note = f"another system's sounds, from {self.plan.extras[name]}"
            yield Row(name=name, sounds=extra.sounds, note=note, left_out=tuple(extra.left_out))

    def _retrieved(self, settings: GenerationSettings) -> Iterator[Row]:
        if not self.wants(RETRIEVAL):
            return
        for method in ("iq", "zs"):
            name = f"{RETRIEVAL}-{method}"
            sounds = self.gallery.retrieve(self._asked(method), settings, self.folder / name)
            yield Row(name=name, sounds=sounds, note=NOTES[name])

    def _systems(self, settings: GenerationSettings) -> Iterator[Row]:
        for name, (model, method) in self.plan.systems.items():
            pipeline = ClipSonicPipeline.from_pretrained(model, device=self.plan.device)
            maker = Maker(pipeline, self.folder / "systems" / name)
            sounds = maker.make(self._asked(method), settings, [method], "corpus")[method]
            note = f"the model {pipeline.folder.index.name}, asked by {method}"
            yield Row(name=name, sounds=sounds, note=note)

    def _asked(self, method: str) -> list[Query]:
        """Return how the corpus's things are asked for by a method."""
        if method in IMAGE_METHODS:
            return frame_queries(self.held, self.things, self.plan.seeds)
        if method in AUDIO_METHODS:
            return sound_queries(self.held, self.things, self.plan.seeds)
        return prompt_queries(self.things, self.plan.seeds)

    def _groups(self, methods: Sequence[str]) -> Iterator[tuple[str, list[Query], list[str]]]:
        """Yield the sets asked for: name ("" for the corpus), queries, and the methods that suit them."""
        plan, known = self.plan, {label for label in self.bank.labels if label}
        kinds = [IMAGE_METHODS, AUDIO_METHODS]
        by_picture, by_sound = ([m for m in methods if m in kind] for kind in kinds)
        by_text = [m for m in methods if m not in (*IMAGE_METHODS, *AUDIO_METHODS)]
        for suited in (by_picture, by_text, by_sound):
            if "corpus" in plan.sets and suited:
                yield "", self._asked(suited[0]), suited
        if "free-form" in plan.sets and by_text:
            path = plan.prompts or PROMPTS / "free_form.csv"
            yield "free-form", self._some(file_queries(path, "prompt", known, plan.seeds), path), by_text
        if "pictures" in plan.sets and by_picture:
            path = plan.pictures
            yield "pictures", self._some(file_queries(path, "file", known, plan.seeds), path), by_picture

    def _some(self, queries: list[Query], path: Path) -> list[Query]:
        if not queries:
            raise DataError(f"{path} names nothing that {self.plan.data} holds; give labels of its labels.csv")
        return queries[: self.plan.limit]
