"""A head start for the condition: before denoising, its layers learn to tell how a picture's sound will look.

A denoiser learns what an embedding means only through the noise, by many thousands of clips. What the spectrum of a
sound is like on average can be learnt from its pictures directly, in seconds; no text or label is needed for it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 256
LEARNING_RATE = 1e-3
CHUNK = 512


def describe(mel: Tensor) -> Tensor:
    """Return the mean, spread and mean change of every band over time, float32, shape (batch, 3 * n_mels)."""
    change = (mel[..., 1:] - mel[..., :-1]).abs()
    return torch.cat([mel.mean(dim=-1), mel.std(dim=-1), change.mean(dim=-1)], dim=-1)


def pretrain(
    layers: nn.Module, mels: Tensor, condition: Callable[[Tensor, torch.Generator], Tensor], *, steps: int, seed: int
) -> float:
    """Train the layers that take an embedding to a condition, so that a linear map tells `describe` from it.

    Args:
        layers: Takes embeddings (batch, embedding_dim) to conditions (batch, width).
        mels: Log-mels of all sounds, shape (sounds, n_mels, frames).
        condition: Takes indices of sounds, shape (batch,), and a generator to what `layers` take.
        steps: How long to train.
        seed: For all that is random.

    Returns:
        The share of the descriptions' variance that is told, over the last tenth of the steps.
    """
    generator = torch.Generator().manual_seed(seed)
    described = torch.cat([describe(chunk.float()) for chunk in mels.split(CHUNK)])
    described = (described - described.mean(dim=0)) / described.std(dim=0).clamp(min=1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.LazyLinear(described.shape[1])
        head(F.silu(layers(condition(torch.arange(2), generator))))
    parameters = [*layers.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
    errors = []
    for _ in range(steps):
        chosen = torch.randint(len(mels), (BATCH,), generator=generator)
        loss = F.mse_loss(head(F.silu(layers(condition(chosen, generator)))), described[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        errors.append(loss.item())
    last = errors[-max(1, steps // 10) :]
    return 1 - sum(last) / len(last)
