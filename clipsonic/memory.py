"""The picture memory: from a query's embedding to a mean of those of the pictures that it is nearest to.

A text lies outside of what pictures fill of CLIP's space, and a photograph may lie outside of what the denoiser was
taught with. Projected onto a memory of its pictures they lie inside (DeCap: Li et al., arXiv 2303.03032, who project
pictures onto texts). Nothing is learnt for it, and nothing is drawn; what it remembers is in `training.memory`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipsonic.config import MemoryConfig
from clipsonic.storage import CONFIG_NAME, WEIGHTS_NAME, load_weights, save_part


def shares(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Return how much each key counts for each query: the softmax of their cosines.

    Args:
        queries: L2-normalised, shape (batch, embedding_dim).
        keys: L2-normalised, shape (size, embedding_dim).
        temperature: Cosines are divided by this.

    Returns:
        float32, shape (batch, size), on the keys' device; rows sum to 1.
    """
    with torch.autocast(keys.device.type, enabled=False):
        return (queries.to(keys.device).float() @ keys.float().T / temperature).softmax(dim=-1)


def recall(queries: Tensor, keys: Tensor, values: Tensor, temperature: float) -> Tensor:
    """Return the mean of the values, weighted by the softmax of how near each key is (Nadaraya-Watson regression).

    Args:
        queries: L2-normalised, shape (batch, embedding_dim).
        keys: L2-normalised, shape (size, embedding_dim).
        values: What each key stands for, shape (size, embedding_dim).
        temperature: Cosines are divided by this.

    Returns:
        L2-normalised, float32, shape (batch, embedding_dim), on the keys' device.
    """
    with torch.autocast(keys.device.type, enabled=False):
        return F.normalize(shares(queries, keys, temperature) @ values.float(), dim=-1)


class PictureMemory(nn.Module):
    """Embeddings of pictures to project queries onto.

    Attributes:
        pictures: L2-normalised embeddings of pictures or means of some, float32, shape (size, embedding_dim).
    """

    pictures: Tensor

    def __init__(self, config: MemoryConfig) -> None:
        """Make a memory of zeros, to be filled."""
        super().__init__()
        self.config = config
        self.register_buffer("pictures", torch.zeros(config.size, config.embedding_dim))

    @classmethod
    def of(cls, pictures: Tensor, temperature: float | None = None) -> Self:
        """Return a memory of these pictures.

        Args:
            pictures: Embeddings, shape (size, embedding_dim).
            temperature: See `MemoryConfig`; its default if left out.
        """
        size, embedding_dim = pictures.shape
        given = {} if temperature is None else {"temperature": temperature}
        memory = cls(MemoryConfig(embedding_dim=embedding_dim, size=size, **given))
        memory.pictures.copy_(F.normalize(pictures.float(), dim=-1))
        return memory

    def forward(self, embeddings: Tensor) -> Tensor:
        """Project embeddings onto the memory: a mean of the pictures, weighted by the softmax of their cosines.

        Args:
            embeddings: L2-normalised, float32, shape (batch, embedding_dim).

        Returns:
            L2-normalised, float32, shape (batch, embedding_dim).
        """
        return recall(embeddings, self.pictures, self.pictures, self.config.temperature)

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` (half precision) into `folder`."""
        save_part(self, self.config, folder)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Read a memory that `save` wrote.

        Raises:
            ConfigError: `config.json` is not a memory's.
            CheckpointError: The embeddings are missing, truncated or of another shape.
        """
        memory = cls(MemoryConfig.load(folder / CONFIG_NAME))
        load_weights(memory, folder / WEIGHTS_NAME)
        return memory.to(device).eval()
