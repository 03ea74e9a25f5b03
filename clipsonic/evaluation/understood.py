"""Whether a query was understood, before anything sounds: what the denoiser takes its condition for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipsonic.conditioning import mean_direction
from clipsonic.config import GenerationSettings
from clipsonic.evaluation.making import asked
from clipsonic.evaluation.nearest import Gallery
from clipsonic.evaluation.sets import Query
from clipsonic.pipeline import ClipSonicPipeline

Array = NDArray[np.float64]


class Understanding:
    """Compares conditions with the means of the things' training frames, as the layers that read them see both.

    What is told apart here can still be drawn badly; what is not cannot be drawn rightly but by chance.
    """

    def __init__(self, pipeline: ClipSonicPipeline, gallery: Gallery) -> None:
        """Embed every thing that the gallery has frames of."""
        self._pipeline, self._things = pipeline, gallery.things
        self._centres = self._read(torch.stack([gallery.centre(thing) for thing in self._things]))

    def hits(self, queries: Sequence[Query], settings: GenerationSettings, method: str) -> Array:
        """Return for each sound of each query whether its condition is nearer to the right thing than to all others.

        Args:
            queries: All by prompts, by pictures or by sounds, of things that have training frames.
            settings: How; methods and seeds are replaced.
            method: One that suits such queries.

        Returns:
            0 or 1, shape (sounds,): queries in their order, each as often as it has seeds.

        Raises:
            ClipSonicError: The pipeline cannot do what was asked.
        """
        rows, labels = [], []
        for query in queries:
            for seed in range(query.seed, query.seed + query.seeds):
                one = dataclasses.replace(settings, methods=(method,), num_audios=1, seed=seed)
                rows.append(mean_direction(self._pipeline.embed(**asked([query]), settings=one)[0]))
                labels.append(query.label)
        nearest = torch.cdist(self._read(torch.stack(rows)), self._centres).argmin(dim=1)
        return np.array([self._things[n] == label for n, label in zip(nearest, labels, strict=True)], dtype=np.float64)

    @torch.inference_mode()
    def _read(self, embeddings: Tensor) -> Tensor:
        """Return what the denoiser's layers make of embeddings, on the CPU, float32, shape (rows, channels)."""
        denoiser = self._pipeline.folder.part("denoiser")
        return denoiser.embedding_mlp(denoiser.scale(embeddings.to(denoiser.null_embedding))).float().cpu()
