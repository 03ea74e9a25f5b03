"""Labels for those variants that learn from them; the image-trained model never comes here.

CLIP-TTA and CLAP-TTA are the paper's supervised baselines: the denoiser is conditioned on the embedding of a text made
of each sound's label. SD's prior learns from the corpus' own names and frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from clipsonic.errors import DataError
from clipsonic.shards import read_labels, read_samples

BATCH = 64


def labels_in_order(shards: Path, split: str) -> list[str]:
    """Return the label of every sample of a split, in the order of the features.

    Raises:
        DataError: The labels or the shards are missing, or a sample has no label.
    """
    labels = read_labels(shards)
    keys = [sample.key for sample in read_samples(shards, split, frames=False, sounds=False)]
    if missing := [key for key in keys if key not in labels or not labels[key].label]:
        raise DataError(f"{shards} has no label for {missing[0]}; this recipe learns from labels, add it to labels.csv")
    return [labels[key].label for key in keys]


def text_conditions(
    shards: Path, split: str, embed: Callable[[Sequence[str]], Tensor], templates: Sequence[str]
) -> Tensor:
    """Embed the labels of a split in every template.

    Args:
        shards: What `prepare` wrote.
        split: Which samples.
        embed: Texts to L2-normalised embeddings, float32, shape (texts, embedding_dim).
        templates: Texts with {} where the label goes.

    Returns:
        L2-normalised, float16, shape (samples, templates, embedding_dim): as the frames of a video would come.

    Raises:
        DataError: A sample has no label.
    """
    labels = labels_in_order(shards, split)
    names = sorted(set(labels))
    texts = [template.replace("{}", name) for name in names for template in templates]
    rows = torch.cat([embed(texts[start : start + BATCH]).cpu() for start in range(0, len(texts), BATCH)])
    number = torch.tensor([names.index(label) for label in labels])
    return rows.unflatten(0, (len(names), len(templates)))[number].half()
