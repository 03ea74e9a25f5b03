"""A diffusion transformer over the columns of a mel, as a light network for the denoiser."""

from __future__ import annotations

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero
from torch import Tensor, nn
from torch.nn import functional as F

TIME_CHANNELS = 256
CONVOLUTION = 7


class MelTransformer(nn.Module):
    """DiT (Peebles & Xie, 2023) over a sequence of mel patches, its condition scaling and shifting every block.

    With patches as high as the mel, one position holds some frames of all bands: the sequence is short, and where a
    band lies is a matter of weights, not of position. The blocks are diffusers'; a depthwise convolution before each
    attention tells neighbours from strangers.

    A patch may hold more values than a token: then the noise, which fills all of them, does not pass through the
    blocks. What goes past them, each value by a factor of time and condition, leaves to the blocks what is not noise.
    """

    def __init__(self, channels: int, positions: int, width: int, layers: int, head_dim: int) -> None:
        """Build the network with random weights; it begins as zero everywhere.

        Args:
            channels: Values of one patch.
            positions: The longest sequence.
            width: The size of a token, a multiple of `head_dim`.
            layers: Blocks.
            head_dim: The size of an attention head.
        """
        super().__init__()
        self.into = nn.Linear(channels, width)
        self.position = nn.Parameter(torch.randn(positions, width) * 0.02)
        self.time = Timesteps(TIME_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_mlp = TimestepEmbedding(TIME_CHANNELS, width)
        self.blocks = nn.ModuleList(_Block(width, head_dim) for _ in range(layers))
        self.norm = AdaLayerNormContinuous(width, width, elementwise_affine=False, eps=1e-6)
        self.out = nn.Linear(width, channels)
        self.skip = nn.Linear(width, channels)
        for layer in (self.norm.linear, self.out, self.skip):
            zero(layer)

    def forward(self, patches: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Map patches (batch, channels, rows, columns) to as many; times are (batch,), conditions (batch, width)."""
        rows, columns = patches.shape[2:]
        tokens = self.into(patches.flatten(2).transpose(1, 2)) + self.position[: rows * columns]
        given = self.time_mlp(self.time(timestep).to(tokens.dtype)) + condition
        for block in self.blocks:
            tokens = block(tokens, given)
        made = self.out(self.norm(tokens, given)).transpose(1, 2).unflatten(2, (rows, columns))
        return made + self.skip(F.silu(given))[:, :, None, None] * patches


class _Block(nn.Module):
    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.norm = AdaLayerNormZero(width)
        self.convolution = nn.Conv1d(width, width, CONVOLUTION, padding="same", groups=width)
        self.attention = Attention(width, heads=width // head_dim, dim_head=head_dim, bias=True)
        self.feed_norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.feed = FeedForward(width, activation_fn="gelu-approximate")
        zero(self.norm.linear)

    def forward(self, tokens: Tensor, given: Tensor) -> Tensor:
        """Attend, then transform each token; both are scaled, shifted and gated by what is given."""
        normed, gate, feed_shift, feed_scale, feed_gate = self.norm(tokens, emb=given)
        near = normed + self.convolution(normed.transpose(1, 2)).transpose(1, 2)
        tokens = tokens + gate[:, None] * self.attention(near)
        normed = self.feed_norm(tokens) * (1 + feed_scale[:, None]) + feed_shift[:, None]
        return tokens + feed_gate[:, None] * self.feed(normed)


def zero(layer: nn.Linear) -> None:
    """Make a layer begin as zero everywhere."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
