"""Random numbers of a step that do not depend on how many processes share its clips."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class SharedGenerator(torch.Generator):
    """A generator that runs in step in all processes, of which this is number `rank` of `ranks`."""

    rank: int = 0
    ranks: int = 1

    def share(self, rank: int, ranks: int) -> SharedGenerator:
        """Say which process this is, and return self."""
        self.rank, self.ranks = rank, ranks
        return self


def rows(draw: Callable[[int], Tensor], count: int, generator: torch.Generator) -> Tensor:
    """Return this process' rows of what is drawn for the clips of all processes.

    Clip `n` of process `rank` is clip `n * ranks + rank` of them all, which is how the loop deals them out; so
    several processes with a share of the batch each draw just what one with the whole batch would.

    Args:
        draw: Returns a tensor of so many rows, drawn from `generator`.
        count: This process' clips.
        generator: A `SharedGenerator`; any other stands for a single process.

    Returns:
        A tensor of `count` rows.
    """
    rank, ranks = getattr(generator, "rank", 0), getattr(generator, "ranks", 1)
    return draw(count * ranks)[rank::ranks]
