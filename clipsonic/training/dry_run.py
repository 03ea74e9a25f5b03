"""What a full-size training would cost, told in seconds: the network is built without memory for its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from clipsonic.config import DenoiserConfig, PriorConfig
from clipsonic.denoiser import Denoiser
from clipsonic.device import fast_dtype
from clipsonic.errors import ConfigError
from clipsonic.prior import DiffusionPrior
from clipsonic.training.cost import matmul_peak
from clipsonic.training.recipe import Recipe

GPU_TFLOPS = {"A100": 312.0, "H100 SXM": 989.0, "RTX 4090": 165.0}
"""Dense bfloat16 peaks that the makers state."""
UTILISATION = 0.3
"""Share of the peak that training is taken to reach: an assumption, for no GPU was at hand."""
STATE_BYTES = 4 + 4 + 8 + 4
"""Of a parameter in float32: its value, its gradient, AdamW's two moments, and its average."""


def describe(part: str, recipe: Recipe) -> list[tuple[str, str]]:
    """Return what a training would take, as (what, how much).

    Args:
        part: "denoiser" or "prior".
        recipe: What would be trained and how.

    Raises:
        ConfigError: The part has no dry run, or the recipe is wrong.
    """
    network, forward = _build(part, recipe)
    training, batch = recipe.training, recipe.training.batch_size
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = forward(batch).square().mean()
        loss.backward()
    parameters = sum(p.numel() for p in network.parameters())
    clips = training.max_steps * batch * training.gradient_accumulation
    work = counter.get_total_flops() / batch
    here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = matmul_peak(here, fast_dtype(here.type))
    hours = [(f"hours on one {name}", work * clips / (UTILISATION * t * 1e12) / 3600) for name, t in GPU_TFLOPS.items()]
    hours.append((f"hours on this {here.type} ({peak / 1e9:.0f} GFLOP/s)", work * clips / (UTILISATION * peak) / 3600))
    return [
        ("part", part),
        ("parameters", f"{parameters / 1e6:.2f} M"),
        ("batch", f"{batch} clips, {training.gradient_accumulation} × before each step"),
        ("steps", f"{training.max_steps:,} ({clips:,} clips)"),
        ("forward and backward", f"{work / 1e9:.1f} GFLOP a clip, {work * clips / 1e18:.2f} EFLOP in all"),
        ("memory of weights, gradients, AdamW and average", f"{parameters * STATE_BYTES / 1e9:.2f} GB"),
        ("memory of activations in float32, before any reuse", f"{sum(kept) / 1e9:.2f} GB"),
        *((name, f"{value:,.1f}, at {UTILISATION:.0%} of the matrix-product peak (assumed)") for name, value in hours),
    ]


def _build(part: str, recipe: Recipe) -> tuple[nn.Module, Callable[[int], Tensor]]:
    """Return the network and its forward pass on a batch of nothing, both on the meta device."""
    meta: Any = {"device": "meta"}
    with torch.device("meta"):
        if part == "denoiser":
            config = DenoiserConfig.from_dict(recipe.model)
            denoiser = Denoiser(config)
            shape, size = (config.n_mels, config.frames), config.embedding_dim
            return denoiser, lambda batch: denoiser(
                torch.zeros(batch, *shape, **meta), torch.zeros(batch, **meta), torch.zeros(batch, size, **meta)
            )
        if part == "prior":
            size = recipe.model.get("embedding_dim", 512)
            prior = DiffusionPrior(PriorConfig.from_dict({"embedding_dim": size, **recipe.model}))
            return prior, lambda batch: prior(
                torch.zeros(batch, size, **meta), torch.zeros(batch, **meta), torch.zeros(batch, size, **meta)
            )
    raise ConfigError(f"there is no dry run of {part}; allowed: denoiser, prior")
