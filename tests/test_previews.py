"""What it costs that visitors see a spectrogram grow, on the shipped model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from time import perf_counter

import numpy as np

from clipsonic.output import Callback, ClipSonicOutput, Progress
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.ui import cards
from clipsonic.ui.runs import Report, watch

MINI = Path(__file__).parents[1] / "checkpoints" / "mini"
ALLOWED = 0.05


def test_previews_take_less_than_a_twentieth_of_a_run(record_property: Callable[[str, object], None]) -> None:
    pipeline = ClipSonicPipeline.from_pretrained(MINI, device="cpu")
    pipeline("a dog barking", methods=("zs", "pd"), num_inference_steps=1)
    order = cards.places({"prompt"}, ("zs", "pd"), 1)
    spent = shown = 0.0

    def run(callback: Callback) -> ClipSonicOutput:
        def timed(progress: Progress) -> None:
            look = progress.preview

            def preview() -> np.ndarray:
                nonlocal spent
                start = perf_counter()
                mels = look()
                spent += perf_counter() - start
                return mels

            callback(replace(progress, preview=preview if look else None))

        return pipeline("a dog barking", methods=("zs", "pd"), callback=timed)

    start = perf_counter()
    for event in watch(run, Event()):
        if isinstance(event, Report) and event.preview is not None:
            drawing = perf_counter()
            cards.preview(cards.empty(order), order, event.preview, pipeline.folder.index.mel)
            spent += perf_counter() - drawing
            shown += 1
    share = spent / (perf_counter() - start)
    record_property("share", share)
    assert shown >= 2
    assert share < ALLOWED, f"{shown:.0f} previews took {share:.1%} of the run"
