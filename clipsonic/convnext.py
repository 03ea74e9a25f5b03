"""A convolutional network at the mel's own resolution, as a light network for the refiner."""

from __future__ import annotations

from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.normalization import AdaLayerNormContinuous
from torch import Tensor, nn
from torch.nn import functional as F

from clipsonic.transformer import TIME_CHANNELS, zero

CONVOLUTION = 5


class MelConvNeXt(nn.Module):
    """ConvNeXt (Liu et al., 2022) over small patches of a mel, its condition scaling and shifting every block.

    Detail is local and much the same in every band: a few bands × frames are one position, no position is ever dropped,
    and one filter serves them all. Each value has a way past the blocks, as in a `MelTransformer`.
    """

    def __init__(self, channels: int, rows: int, width: int, layers: int) -> None:
        """Build the network with random weights; it begins as zero everywhere.

        Args:
            channels: Values of one patch.
            rows: Patches above one another; each has a part of its input of its own, for bands differ.
            width: Channels of one position.
            layers: Blocks.
        """
        super().__init__()
        self.into = nn.Linear(channels, width)
        self.row = nn.Parameter(nn.init.normal_(self.into.weight.new_empty(rows, 1, width), std=0.02))
        self.time = Timesteps(TIME_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_mlp = TimestepEmbedding(TIME_CHANNELS, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(layers))
        self.norm = _norm(width)
        self.out = nn.Linear(width, channels)
        self.skip = nn.Linear(width, channels)
        for layer in (self.out, self.skip):
            zero(layer)

    def forward(self, patches: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Map patches (batch, channels, rows, columns) to as many; times are (batch,), conditions (batch, width)."""
        cells = self.into(patches.permute(0, 2, 3, 1)) + self.row
        given = self.time_mlp(self.time(timestep).to(cells.dtype)) + condition
        for block in self.blocks:
            cells = block(cells, given)
        made = self.out(self.norm(cells.flatten(1, 2), given)).unflatten(1, cells.shape[1:3]).permute(0, 3, 1, 2)
        return made + self.skip(F.silu(given))[:, :, None, None] * patches


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, CONVOLUTION, padding="same", groups=width)
        self.norm = _norm(width)
        self.feed = FeedForward(width, activation_fn="gelu-approximate")

    def forward(self, cells: Tensor, given: Tensor) -> Tensor:
        """Mix each position (batch, rows, columns, width) with its neighbours, then its channels with each other."""
        near = self.convolution(cells.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        mixed = self.feed(self.norm(near.flatten(1, 2), given))
        return cells + mixed.view_as(cells)


def _norm(width: int) -> AdaLayerNormContinuous:
    norm = AdaLayerNormContinuous(width, width, elementwise_affine=False, eps=1e-6)
    zero(norm.linear)
    return norm
