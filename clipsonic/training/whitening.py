"""Whitening: a first layer that sees embeddings whose coordinates are uncorrelated and equally strong.

CLIP's image embeddings of one corpus fill a few directions of their space: the covariance's largest eigenvalue may
be hundreds of times its median, and gradient descent then learns what the weak directions say hundreds of times more
slowly. A linear layer behind a whitening map is the same function with better conditioned weights; afterwards both
are folded into one plain layer, so that the finished model knows nothing of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHRINKAGE = 0.1
"""Share of the mean variance that every direction is given, so that directions nearly empty are not blown up."""


class WhitenedLinear(nn.Module):
    """A linear layer behind a fixed whitening map: `weight @ whiten @ (x - mean) + bias`."""

    mean: Tensor
    whiten: Tensor

    def __init__(self, linear: nn.Linear, samples: Tensor, *, same_function: bool) -> None:
        """Measure the samples and take the place of a plain layer.

        Args:
            linear: The plain layer, in_features → out_features.
            samples: Inputs as training sees them, float32, shape (samples, in_features).
            same_function: Begin as the function that `linear` is; otherwise with its weights as they are, behind the
                map, as suits a new layer.
        """
        super().__init__()
        mean, whiten, colour = _maps(samples)
        self.register_buffer("mean", mean)
        self.register_buffer("whiten", whiten)
        weight, bias = linear.weight.detach().double(), linear.bias.detach().double()
        if same_function:
            weight, bias = weight @ colour, bias + weight @ mean.double()
        self.weight, self.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (..., in_features) to (..., out_features)."""
        with torch.autocast(inputs.device.type, enabled=False):
            white = F.linear(inputs.float() - self.mean, self.whiten)
        return F.linear(white, self.weight, self.bias)

    @torch.no_grad()
    def fold(self) -> nn.Linear:
        """Return the plain layer that is the same function."""
        weight = self.weight.double() @ self.whiten.double()
        bias = self.bias.double() - weight @ self.mean.double()
        linear = nn.Linear(weight.shape[1], weight.shape[0], device=self.weight.device)
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
        return linear


def _maps(samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean, the whitening map (float32) and its inverse (float64), all symmetric but the first."""
    exact = samples.double()
    mean = exact.mean(dim=0)
    variances, directions = torch.linalg.eigh(torch.cov(exact.T, correction=0))
    variances = variances.clamp(min=0)
    average = variances.mean().clamp(min=1e-12)
    variances = (1 - SHRINKAGE) * variances + SHRINKAGE * average
    whiten = directions * variances.rsqrt() @ directions.T
    colour = directions * variances.sqrt() @ directions.T
    return mean.float(), whiten.float(), colour
