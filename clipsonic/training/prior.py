"""The prior: from what CLIP makes of a caption to what it makes of the picture. No sound is involved."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipsonic.clip import ClipEncoder
from clipsonic.config import Config, GenerationSettings, MelConfig, PriorConfig
from clipsonic.errors import ConfigError, DataError
from clipsonic.prior import DiffusionPrior
from clipsonic.training.alignment import modality_gap, retrieval
from clipsonic.training.captions import EVALUATED
from clipsonic.training.clip import ClipTaskConfig, PairDataset
from clipsonic.training.draws import rows
from clipsonic.training.features import evenly, load_features
from clipsonic.training.loop import Task
from clipsonic.training.recipe import Recipe
from clipsonic.training.views import PictureName, features_of, read_pairs

SOURCES = ("pairs", "corpus")


@dataclass(frozen=True, kw_only=True)
class PriorTaskConfig(Config):
    """What the prior's loss and data need."""

    views: int = 3
    """Views of each picture."""
    captions: int = 6
    """Captions of each picture."""
    condition_drop: float = 0.1
    """Share of pairs that are trained without a text, for classifier-free guidance."""
    source: str = "pairs"
    """Where texts and pictures come from: "pairs", as the paper's PD, or "corpus", whose own names and frames make the
    supervised prior of the method sd."""
    text_noise: float = 0.3
    """Norm of the Gaussian noise added to the unit-norm text embeddings, so that near texts draw alike."""
    names: int = 0
    """At most so many of the pictures' names are kept in the prior, which then looks texts up among them."""


class PriorTask(Task):
    """Denoise image embeddings given the embedding of a caption, predicting the clean embedding."""

    part = "prior"
    draws_rows = True
    dataset: PairDataset

    def __init__(self, model: PriorConfig, task: PriorTaskConfig, dataset: PairDataset, texts: Tensor) -> None:
        """Make a new prior.

        Args:
            model: The prior's size.
            task: What the loss needs.
            dataset: Pairs whose "features" are L2-normalised image embeddings.
            texts: L2-normalised embeddings of the dataset's captions, float32, shape (captions, embedding_dim).
        """
        super().__init__()
        self.config, self.dataset = task, dataset
        self.part = "prior" if task.source == "pairs" else "supervised_prior"
        self.prior = DiffusionPrior(model)
        inside = dataset.features.flatten(0, 1).float() * model.scale
        self.prior.transformer.clip_mean.data.copy_(inside.mean(dim=0, keepdim=True))
        self.prior.transformer.clip_std.data.copy_(inside.std(dim=0, keepdim=True))
        self.register_buffer("texts", texts, persistent=False)
        if model.names:
            called, seen = names_of(dataset, texts)
            kept = evenly(len(called), len(model.names))
            self.prior.name_texts.copy_(called[kept])
            self.prior.name_pictures.copy_(seen[kept])
        self.heldout: tuple[dict[str, Tensor], Tensor] | None = None

    def loss(self, batch: dict[str, Tensor], phase: str, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the mean squared error of the predicted embedding in the prior's space."""
        clean = self.prior.standardize(batch["features"])
        draw: Any = {"generator": generator, "device": clean.device}
        text: Tensor = self.texts[batch["caption"]]  # type: ignore[index]
        clips, dim = text.shape
        blur = rows(lambda count: torch.randn(count, dim, **draw), clips, generator)
        kept = rows(lambda count: torch.rand(count, 1, **draw), clips, generator) >= self.config.condition_drop
        told = self.prior.look_up(F.normalize(text + blur * self.config.text_noise / math.sqrt(dim), dim=-1)) * kept
        steps = self.prior.scheduler.config.num_train_timesteps
        times = rows(lambda count: torch.randint(steps, (count,), **draw), clips, generator)
        noise = rows(lambda count: torch.randn(count, dim, **draw), clips, generator)
        noisy = self.prior.scheduler.add_noise(clean, noise, times)
        loss = F.mse_loss(self.prior(noisy, times, told).float(), clean)
        return loss, {"loss": loss.item()}

    def save(self, folder: Path) -> None:
        """Write the prior into the model folder."""
        self.prior.save(folder / self.part)

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Compare raw texts and the prior's samples with the true pictures of held-out concepts."""
        if self.heldout is None:
            return {}
        texts, pictures = self.heldout
        prior, defaults = self.prior.cpu().eval(), GenerationSettings()
        figures: dict[str, float] = {"concepts": len(pictures)}
        for name, text in texts.items():
            drawn = prior.sample(
                text,
                num_inference_steps=defaults.prior_num_inference_steps,
                guidance_scale=defaults.prior_guidance_scale,
                generators=[torch.Generator().manual_seed(n) for n in range(len(text))],
            )
            figures |= _compare(text, pictures, f"{name}_text") | _compare(drawn, pictures, f"{name}_prior")
            if prior.config.names:
                figures |= _compare(prior.look_up(text), pictures, f"{name}_looked_up")
        prior.train()
        return figures


def names_of(dataset: PairDataset, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Return what pictures of one name are called and what they look like, on the whole.

    Args:
        dataset: Pairs whose "features" are L2-normalised image embeddings.
        texts: L2-normalised embeddings of the dataset's captions, float32, shape (captions, embedding_dim).

    Returns:
        The mean direction of each name's captions, every picture's counted, and that of its pictures in all views;
        each L2-normalised, float32, shape (names, embedding_dim).
    """
    captions = torch.stack([texts[numbers].mean(dim=0) for numbers in dataset.of_pair])
    pictures = dataset.features.float().mean(dim=1)
    empty = torch.zeros(int(dataset.concepts.max()) + 1, texts.shape[1])
    called, seen = (empty.index_add(0, dataset.concepts, rows) for rows in (captions, pictures))
    return F.normalize(called, dim=-1), F.normalize(seen, dim=-1)


def _compare(drawn: Tensor, pictures: Tensor, name: str) -> dict[str, float]:
    gap = {f"{name}_{key}": value for key, value in modality_gap(drawn, pictures).items()}
    return retrieval(drawn, pictures, f"{name}_to_picture") | gap


def build(recipe: Recipe, data: Path, base: Path | None) -> PriorTask:
    """Make the task from its recipe.

    Args:
        recipe: Its `model` is a `PriorConfig` without the embedding size, which is CLIP's.
        data: What `prepare pairs` wrote, or shards if the source is the corpus.
        base: Model folder whose `clip` embeds texts and pictures.

    Raises:
        ConfigError: There is no base.
        DataError: The pairs are missing.
        CheckpointError: CLIP cannot be read.
    """
    if base is None:
        raise ConfigError("a prior belongs to a CLIP; name the model folder that has it with --base")
    task = PriorTaskConfig.from_dict(recipe.task)
    if task.source not in SOURCES:
        raise ConfigError(f"task.source is {task.source!r}; allowed: {', '.join(SOURCES)}")
    clip = ClipEncoder.load(base / "clip")
    pairs, embeddings = (_pairs if task.source == "pairs" else _named_frames)(data, base, clip, task.views)
    torch.manual_seed(recipe.training.seed)
    random.seed(recipe.training.seed)
    chosen = [n for n, pair in enumerate(pairs) if pair.split == "train"]
    drawing = ClipTaskConfig(views=task.views, captions=task.captions)
    dataset = PairDataset([pairs[n] for n in chosen], embeddings[chosen].clone(), drawing)
    size = clip.embedding_dim
    called = list(dict.fromkeys(pairs[n].names[0] for n in chosen))
    names = [called[n] for n in evenly(len(called), task.names)]
    model = PriorConfig.from_dict({"embedding_dim": size, "scale": math.sqrt(size), "names": names, **recipe.model})
    result = PriorTask(model, task, dataset, _embed(clip, dataset.captions))
    test = [n for n, pair in enumerate(pairs) if pair.split == "test"]
    if len(test) < 2:
        return result
    named = {
        name: _embed(clip, [template.format(pairs[n].names[0]) for n in test])
        for name, template in zip(("name", "photo"), EVALUATED, strict=True)
    }
    result.heldout = (named, embeddings[test, 0].float().clone())
    return result


def _pairs(data: Path, base: Path, clip: ClipEncoder, views: int) -> tuple[list[PictureName], Tensor]:
    """Return what `prepare pairs` wrote and its pictures' embeddings, float16, shape (pairs, views, embedding_dim)."""
    pairs = [pair for pair in read_pairs(data) if pair.class_index is None]
    features = features_of(data, pairs, clip.model.visual.trunk, clip.preprocess, views)
    with torch.inference_mode():
        return pairs, F.normalize(clip.model.visual.head(features.float()), dim=-1).half()


def _named_frames(data: Path, base: Path, clip: ClipEncoder, views: int) -> tuple[list[PictureName], Tensor]:
    """Return the corpus' videos by their labels and their frames' embeddings, as `_pairs` does."""
    from clipsonic.training.labelled import labels_in_order

    pairs, rows = [], []
    for split in ("train", "test"):
        try:
            labels = labels_in_order(data, split)
        except DataError:
            if split == "train":
                raise
            continue  # a corpus need not have anything held out
        rows.append(load_features(data, base / "clip", MelConfig(), pictures=views, split=split).embeddings)
        named: Any = {"tags": (), "gloss": "", "split": split, "class_index": None}
        pairs += [PictureName(key=f"{split}-{n}", names=(label,), **named) for n, label in enumerate(labels)]
    return pairs, torch.cat(rows)


def _embed(clip: ClipEncoder, captions: list[str]) -> Tensor:
    """Embed many captions, those of a length together; float32, shape (captions, embedding_dim)."""
    order = sorted(range(len(captions)), key=lambda n: len(captions[n]))
    rows = [clip.encode_text([captions[n] for n in order[start : start + 256]]) for start in range(0, len(order), 256)]
    return torch.cat(rows)[torch.tensor(order).argsort()].clone()
