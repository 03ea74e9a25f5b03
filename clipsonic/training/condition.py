"""Teach the layers that read an embedding to make of any picture what they make of it through the picture memory.

A denoiser is asked, while it learns, what its training frames sound like and nothing between them; a picture of later
lies between them. The memory knows what is there: the mean of the training videos near by. Here the layers learn that
from it, and then need no memory: knowledge distillation (Hinton et al., arXiv 1503.02531), the questions being mixtures
of two frames (mixup: Zhang et al., arXiv 1710.09412) and noise, as loud as needed to reach from pictures to where texts
lie (CapDec: Nukrai et al., arXiv 2211.00575). No label and no text is read, and no sound is needed.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipsonic.config import Config, MelConfig
from clipsonic.denoiser import Denoiser, mlp
from clipsonic.errors import CheckpointError, ConfigError
from clipsonic.memory import PictureMemory
from clipsonic.shards import Index
from clipsonic.training.denoiser import required
from clipsonic.training.draws import rows
from clipsonic.training.features import FrameSoundDataset, load_features
from clipsonic.training.loop import Task
from clipsonic.training.recipe import Recipe
from clipsonic.training.whitening import WhitenedLinear

NETWORKS = ("denoiser", "refiner")
"""Parts that have such layers."""


@dataclass(frozen=True, kw_only=True)
class ConditionTaskConfig(Config):
    """What is asked."""

    mixture: float = 0.5
    """A frame is mixed with another video's, of which up to this share is taken."""
    embedding_noise: float = 1.0
    """Gaussian noise of a norm up to this is added to the unit-norm mixtures."""
    widths: tuple[int, ...] = ()
    """Of the new hidden layers (`DenoiserConfig.embedding_widths`); without any they are as wide as the old ones."""
    projected: float = 0.25
    """Share of questions that are themselves projections, which keep their answers: the methods mp and mq ask them."""
    condition_drop: float = 0.1
    """Share of questions that are "no condition", which keeps its answer."""
    pictures: int = 2
    """Frames of each video that are embedded, as for the denoiser, whose cache of features is used."""


class _Layers(nn.Module):
    """A network's layers that read an embedding: as they are, and those that take their place."""

    null: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, network: Denoiser, widths: Sequence[int], frames: Tensor, projected: Tensor) -> None:
        """Begin anew, at random, behind a map that whitens the frames."""
        super().__init__()
        self.config = dataclasses.replace(
            network.config, embedding_widths=tuple(widths) or network.config.embedding_widths
        )
        self.network = (network,)  # not as a module: it is not trained
        self.teacher = copy.deepcopy(network.embedding_mlp).requires_grad_(False)
        layers = [layer for layer in network.embedding_mlp if isinstance(layer, nn.Linear)]
        hidden = widths or [layer.out_features for layer in layers[:-1]]
        self.student = mlp(layers[0].in_features, *hidden, layers[-1].out_features)
        self.student[0] = WhitenedLinear(self.student[0], network.scale(frames), same_function=False)  # type: ignore[arg-type]
        with torch.no_grad():
            told = self.teacher(network.scale(projected))
        self.register_buffer("null", network.null_embedding.detach().clone())
        self.register_buffer("mean", told.mean(dim=0))
        self.register_buffer("spread", told.std(dim=0).mean())
        self.register_load_state_dict_pre_hook(_resize_teacher)

    def forward(self, asked: Tensor, projected: Tensor, dropped: Tensor) -> Tensor:
        """Return the mean squared error of the conditions in units of their standard deviation.

        Args:
            asked: Embeddings, shape (batch, embedding_dim).
            projected: What the memory makes of them.
            dropped: Rows that stand for "no condition" instead, bool, shape (batch, 1).
        """
        scale = self.network[0].scale
        told = self.teacher(scale(torch.where(dropped, self.null, projected)))
        answer = self.student(scale(torch.where(dropped, self.null, asked)))
        return ((answer - told) / self.spread).square().mean()

    def share_told(self, layers: nn.Module, asked: Tensor, projected: Tensor) -> float:
        """Return how much of the variance of the old layers' answers to `projected` some layers' to `asked` tell."""
        scale = self.network[0].scale
        told = self.teacher(scale(projected))
        missed = (layers(scale(asked)) - told).square().sum()
        return 1 - (missed / (told - self.mean).square().sum()).item()

    def save(self, folder: Path) -> None:
        """Write the network with its new layers."""
        (network,) = self.network
        plain = copy.deepcopy(self.student)
        plain[0] = plain[0].fold()  # type: ignore[operator]
        network.embedding_mlp = plain.cpu()
        network.config = self.config
        network.save(folder)


def _resize_teacher(layers: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Make room for the old layers of a state: their network may since have been saved over, with new widths."""
    pattern = re.compile(re.escape(f"{prefix}teacher.") + r"\d+\.weight")
    weights = [state[name] for name in filter(pattern.fullmatch, state)]
    if weights:
        layers.teacher = mlp(weights[0].shape[1], *map(len, weights)).requires_grad_(False).to(weights[0].device)


class ConditionTask(Task):
    """Regression of what a network's layers make of projected embeddings, from the embeddings as they are."""

    part = "condition"
    draws_rows = True
    dataset: FrameSoundDataset

    def __init__(
        self,
        networks: Mapping[str, Denoiser],
        memory: PictureMemory,
        task: ConditionTaskConfig,
        dataset: FrameSoundDataset,
        seed: int,
    ) -> None:
        """Take the networks, by the names of their parts, and the memory that their layers are to learn from."""
        super().__init__()
        self.config, self.dataset, self.memory = task, dataset, memory
        self.heldout: Tensor | None = None
        frames = F.normalize(dataset.embeddings.flatten(0, 1).float(), dim=-1)
        projected = memory(frames)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = {name: _Layers(network, task.widths, frames, projected) for name, network in networks.items()}
        self.layers = layers
        self.trained = nn.ModuleDict(layers)

    def loss(self, batch: dict[str, Tensor], phase: str, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the networks' mean error."""
        asked = self._ask(batch["embeddings"], generator)
        draw: Any = {"generator": generator, "device": asked.device}
        draws = rows(lambda count: torch.rand(count, 2, **draw), len(asked), generator)
        dropped, itself = draws[:, :1] < self.config.condition_drop, draws[:, 1:] < self.config.projected
        projected = self.memory(asked)
        asked = torch.where(itself, projected, asked)
        errors = {name: layers(asked, projected, dropped) for name, layers in self.layers.items()}
        return torch.stack(list(errors.values())).mean(), {f"{n}_loss": error.item() for n, error in errors.items()}

    def _ask(self, embeddings: Tensor, generator: torch.Generator) -> Tensor:
        """Pick a frame of each video, mix it with some other video's and blur it; (batch, embedding_dim)."""
        batch, pictures, dim = embeddings.shape
        draw: Any = {"generator": generator, "device": embeddings.device}

        def drawn(make: Callable[[int], Tensor]) -> Tensor:
            return rows(make, batch, generator)

        frame, other_frame = (drawn(lambda count: torch.randint(pictures, (count,), **draw)).cpu() for _ in range(2))
        other_video = drawn(lambda count: torch.randint(len(self.dataset), (count,), **draw)).cpu()
        chosen = embeddings[torch.arange(batch), frame]
        other = self.dataset.embeddings[other_video, other_frame].to(chosen)
        share = drawn(lambda count: torch.rand(count, 1, **draw)) * self.config.mixture
        level = drawn(lambda count: torch.rand(count, 1, **draw)) * self.config.embedding_noise
        noise = drawn(lambda count: torch.randn(count, dim, **draw)) * dim**-0.5
        return F.normalize(F.normalize(torch.lerp(chosen, other, share), dim=-1) + level * noise, dim=-1)

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Say how much of the variance of what the memory makes of held-out frames is told, before and now."""
        if self.heldout is None:
            return {}
        asked = self.heldout.to(self.memory.pictures.device)
        projected = self.memory(asked)
        figures: dict[str, float] = {"heldout_frames": len(asked)}
        for name, layers in self.layers.items():
            figures[f"{name}_told_before"] = layers.share_told(layers.teacher, asked, projected)
            figures[f"{name}_told"] = layers.share_told(layers.student, asked, projected)
        return figures

    @property
    def replaces(self) -> tuple[str, ...]:
        """The networks, with their new layers."""
        return tuple(self.layers)

    def save(self, folder: Path) -> None:
        """Write the networks."""
        for name, layers in self.layers.items():
            layers.save(folder / name)


def build(recipe: Recipe, data: Path, base: Path | None) -> ConditionTask:
    """Return the task of a recipe, on the frames of the shards `data`, for the networks of the model folder `base`.

    Raises:
        ConfigError: No base model is given, or the recipe describes a network.
        DataError: The shards cannot be read.
        CheckpointError: The base lacks a denoiser or a memory that fits it.
    """
    base = required(base, ConditionTask.part)
    if recipe.model:
        raise ConfigError(
            f"the recipe sets model.{next(iter(recipe.model))}; the networks are the base's: leave it out"
        )
    task = ConditionTaskConfig.from_dict(recipe.task)
    if not (base / "memory").is_dir():
        raise CheckpointError(f"{base} has no memory to learn from; fill one with `train memory` first")
    memory = PictureMemory.load(base / "memory")
    networks = {name: Denoiser.load(base / name) for name in NETWORKS if name == "denoiser" or (base / name).is_dir()}
    dataset = load_features(data, base / "clip", MelConfig(), pictures=task.pictures)
    size = dataset.embeddings.shape[-1]
    sizes = {"memory": memory.config.embedding_dim, **{n: v.config.embedding_dim for n, v in networks.items()}}
    for name, found in sizes.items():
        if found != size:
            raise CheckpointError(f"the {name}'s embedding_dim is {found}, the data's {size}; train it anew")
    result = ConditionTask(networks, memory, task, dataset, recipe.training.seed)
    if Index.read(data).counts.get("test", 0):
        test = load_features(data, base / "clip", MelConfig(), pictures=task.pictures, split="test")
        result.heldout = F.normalize(test.embeddings.flatten(0, 1).float(), dim=-1)
    return result
