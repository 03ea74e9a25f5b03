"""Sounds longer than what the network was trained on: overlapping windows denoised as one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from clipsonic.config import MelConfig

OVERLAP = 0.25
"""Share of a window that it has in common with the next, at least."""


@dataclass(frozen=True)
class Windows:
    """Where the network looks at a mel of any length (MultiDiffusion: Bar-Tal et al., arXiv 2302.08113, eq. 5).

    There is one noise and one mel for the whole length; at each step what the network predicts in every window is
    averaged, so that windows agree where they meet. The weights rise and fall over the overlap, as in Mixture of
    Diffusers (arXiv 2302.02412), so that no edge of a window shows.

    Attributes:
        frames: Length of the sound.
        size: Length of a window: the network's own.
        starts: First frame of each window; the last window may reach beyond a sound that is shorter than one window.
    """

    frames: int
    size: int
    starts: tuple[int, ...]

    @classmethod
    def cover(cls, frames: int, size: int, overlap: float = OVERLAP) -> Self:
        """Return as few windows as reach over `frames` with at least `overlap` of each in common, evenly spaced."""
        beyond = max(frames - size, 0)
        count = 1 + math.ceil(beyond / (size * (1 - overlap)))
        return cls(frames, size, tuple(round(beyond * k / max(count - 1, 1)) for k in range(count)))

    @classmethod
    def lasting(cls, duration_s: float, mel: MelConfig, size: int) -> Self:
        """Return the windows of a sound of so many seconds; 0 seconds stand for one window."""
        frames = math.ceil(round(duration_s * mel.sample_rate) / mel.hop_length)
        return cls.cover(frames or size, size)

    @property
    def span(self) -> int:
        """Frames that are denoised: the sound's, or a whole window if that is more."""
        return max(self.frames, self.size)

    @cached_property
    def weights(self) -> Tensor:
        """What a window's prediction counts at each frame, float32, shape (windows, size); sums to 1 over windows."""
        rows = torch.zeros(len(self.starts), self.span)
        for row, (start, before, after) in enumerate(zip(self.starts, *self._overlaps(), strict=True)):
            rows[row, start : start + self.size] = _ramps(self.size, before, after)
        rows /= rows.sum(0)
        return torch.stack([row[s : s + self.size] for row, s in zip(rows, self.starts, strict=True)])

    def cut(self, whole: Tensor) -> Tensor:
        """Cut a mel, shape (1, n_mels, span), into windows, shape (windows, n_mels, size)."""
        return torch.cat([whole[..., start : start + self.size] for start in self.starts])

    def join(self, pieces: Tensor) -> Tensor:
        """Average windows, shape (windows, n_mels, size), into one mel, shape (1, n_mels, span)."""
        if len(pieces) == 1:
            return pieces
        whole = torch.zeros(1, pieces.shape[1], self.span)
        for piece, weight, start in zip(pieces, self.weights, self.starts, strict=True):
            whole[0, :, start : start + self.size] += weight * piece
        return whole

    def _overlaps(self) -> tuple[list[int], list[int]]:
        """Return the frames each window shares with the one before and the one after."""
        shared = [a + self.size - b for a, b in zip(self.starts, self.starts[1:], strict=False)]
        return [0, *shared], [*shared, 0]


def _ramps(size: int, before: int, after: int) -> Tensor:
    """Return weights that rise over `before` frames and fall over `after`, never zero, shape (size,)."""
    weights = torch.ones(size)
    for edge, flip in ((before, False), (after, True)):
        ramp = torch.sin(math.pi / 2 * (torch.arange(edge) + 0.5) / max(edge, 1)).square()
        if flip:
            weights[size - edge :] *= ramp.flip(0)
        else:
            weights[:edge] *= ramp
    return weights
