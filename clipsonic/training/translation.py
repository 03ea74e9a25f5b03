"""Another CLIP for a trained denoiser: its first layer learns to read the new embeddings as those it knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipsonic.denoiser import Denoiser

RIDGE = 0.01
"""Penalty on the map, as if the new embeddings had noise of norm 0.1."""
SMALLEST = 0.01
"""Directions that the map shrinks to less than this share of its largest are not undone."""


@torch.no_grad()
def translate(denoiser: Denoiser, new: Tensor, old: Tensor) -> float:
    """Let a denoiser that was trained with one CLIP begin with another: fold a linear map into its first layer.

    What a linear map cannot tell is left to training. "No condition" becomes the embedding that the map takes to it.

    Args:
        denoiser: Changed in place.
        new: L2-normalised embeddings of the frames by the new CLIP, shape (frames, embedding_dim).
        old: Of the same frames by the CLIP that the denoiser was trained with.

    Returns:
        The share of the old embeddings' variance that the map tells.
    """
    inputs, targets = (denoiser.scale(F.normalize(e.float(), dim=-1)).double() for e in (new, old))
    input_mean, target_mean = inputs.mean(dim=0), targets.mean(dim=0)
    inputs, targets = inputs - input_mean, targets - target_mean
    penalty = RIDGE * torch.eye(inputs.shape[1], dtype=torch.float64)
    linear = torch.linalg.solve(inputs.T @ inputs / len(inputs) + penalty, inputs.T @ targets / len(inputs)).T
    first: Any = denoiser.embedding_mlp[0]
    weight = first.weight.double()
    first.bias.copy_(first.bias.double() + weight @ (target_mean - linear @ input_mean))
    first.weight.copy_(weight @ linear)
    nothing = denoiser.scale(denoiser.null_embedding.double())
    undone = input_mean + torch.linalg.pinv(linear, rtol=SMALLEST) @ (nothing - target_mean)
    denoiser.null_embedding.copy_(undone / denoiser.scale(torch.ones(())))
    return 1 - ((targets - inputs @ linear.T).square().sum() / targets.square().sum()).item()
