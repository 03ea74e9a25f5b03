"""How well texts and pictures of unseen concepts find each other, and how far apart the two kinds lie."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def retrieval(queries: Tensor, targets: Tensor, name: str) -> dict[str, float]:
    """Return the share of queries whose own target is the nearest, and among the five and the ten nearest.

    Args:
        queries: L2-normalised, shape (concepts, embedding_dim).
        targets: The same concepts in the same order.
        name: What the figures are called.
    """
    similarity = queries @ targets.T
    better = (similarity > similarity.diagonal()[:, None]).sum(dim=1)
    return {f"{name}_r{k}": (better < k).float().mean().item() for k in (1, 5, 10)}


def modality_gap(texts: Tensor, pictures: Tensor) -> dict[str, float]:
    """Measure how far apart the two kinds of embeddings lie (Liang et al., 2022).

    Args:
        texts: L2-normalised, shape (concepts, embedding_dim), at least two concepts.
        pictures: The same concepts in the same order.

    Returns:
        Distance of the two means, mean cosine of the pairs and of other concepts' pairs, and how often a linear
        classifier that learnt from every other concept tells the kinds apart.
    """
    similarity = texts @ pictures.T
    others = (similarity.sum() - similarity.trace()) / (similarity.numel() - len(similarity))
    return {
        "gap_distance": (texts.mean(dim=0) - pictures.mean(dim=0)).norm().item(),
        "paired_cosine": similarity.diagonal().mean().item(),
        "unpaired_cosine": others.item(),
        "gap_separable": _separability(texts, pictures),
    }


def _separability(texts: Tensor, pictures: Tensor) -> float:
    """Fit a ridge classifier on even concepts and return its accuracy on odd ones."""
    inputs = F.pad(torch.cat([texts, pictures]), (0, 1), value=1.0)
    kinds = torch.cat([torch.ones(len(texts)), -torch.ones(len(pictures))])
    learnt = (torch.arange(len(texts)) % 2 == 0).repeat(2)
    known = inputs[learnt]
    weights = torch.linalg.solve(known.T @ known + 0.1 * torch.eye(inputs.shape[1]), known.T @ kinds[learnt])
    return ((inputs[~learnt] @ weights).sign() == kinds[~learnt]).float().mean().item()
