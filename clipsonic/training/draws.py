"""Random numbers of a step that do not depend on how many processes and micro-batches share its clips."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class SharedGenerator(torch.Generator):
    """A generator that runs in step wherever a step's clips are shared out; this is share `rank` of `ranks`."""

    rank: int = 0
    ranks: int = 1

    def share(self, rank: int, ranks: int) -> SharedGenerator:
        """Say which share this is, and return self."""
        self.rank, self.ranks = rank, ranks
        return self


def rows(draw: Callable[[int], Tensor], count: int, generator: torch.Generator) -> Tensor:
    """Return a share's rows of what is drawn for all clips of the step.

    Clip `n` of share `rank` is clip `n * ranks + rank` of them all, which is how the loop deals them out; so several
    processes or micro-batches with a share of the batch each draw just what one with the whole batch would.

    Args:
        draw: Returns a tensor of so many rows, drawn from `generator`.
        count: The share's clips.
        generator: A `SharedGenerator`; any other stands for a single share.

    Returns:
        A tensor of `count` rows.
    """
    rank, ranks = getattr(generator, "rank", 0), getattr(generator, "ranks", 1)
    return draw(count * ranks)[rank::ranks]
