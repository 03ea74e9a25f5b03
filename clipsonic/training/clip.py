"""CLIP: pictures and names drawn together, the towers locked as in LiT (arXiv 2111.07991) but for what a recipe frees.

The recipe `mini` trains both projections and the last stages of the image tower, which knows photographs and has to
learn drawings; what the stages below see is computed once. `mini-text` teaches the text tower of a finished model
while everything on the image side is locked, so that embeddings of pictures, which the denoiser was trained on, never
change.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from clipsonic.clip import ClipEncoder, build_preprocess, build_tokenizer, read_open_clip_config, save_clip
from clipsonic.config import Config
from clipsonic.device import Accelerator
from clipsonic.errors import ConfigError
from clipsonic.training.alignment import modality_gap, retrieval
from clipsonic.training.captions import EVALUATED, captions_of
from clipsonic.training.convert import (
    build_pretrained,
    class_features,
    copy_text_files,
    image_weights,
    split_trunk,
)
from clipsonic.training.features import evenly
from clipsonic.training.loop import Task
from clipsonic.training.recipe import Recipe
from clipsonic.training.views import PictureName, features_of, read_pairs

CAPTION_TOKENS = 32
STANDARD_FEATURES = 4096
"""So many features at most are measured to standardise them."""
LARGEST_CUT = 0.25
"""The largest share of a map's sides that is cut off at random."""


@dataclass(frozen=True, kw_only=True)
class ClipTaskConfig(Config):
    """What of CLIP is trained, and on what."""

    text_tower: bool = False
    """Train the text tower, with the image side locked; otherwise both projections, with the text tower locked."""
    image_blocks: int = 0
    """Last stages of the image tower that are trained with the projections; the ImageNet classes, of which there are
    no pictures, are then left out. 0 locks it whole."""
    views: int = 3
    """Views of each picture whose features are kept."""
    captions: int = 4
    """Captions of each picture; the first two are the plainest."""
    plain_share: float = 0.4
    """How often one of the two plainest captions is drawn."""
    class_weight: float = 0.3
    """How often an ImageNet class, which has no picture, is drawn, against 1 for a picture."""
    dropout: float = 0.5
    """Of image features."""
    temperature: float = 20.0
    """The cosine's factor at the beginning."""


class PairDataset(Dataset[dict[str, Tensor]]):
    """A picture's features, or maps, in a random view, with a random caption of it."""

    def __init__(self, pairs: list[PictureName], features: Tensor, config: ClipTaskConfig) -> None:
        """Write the captions.

        Args:
            pairs: What is to be learnt.
            features: Of each pair, float16, shape (len(pairs), views, ...).
            config: How captions and pairs are drawn.
        """
        self.features, self.plain_share = features, config.plain_share
        numbers: dict[str, int] = {}
        self.of_pair = [[numbers.setdefault(c, len(numbers)) for c in _some(pair, config.captions)] for pair in pairs]
        self.captions = list(numbers)
        concepts: dict[str, int] = {}
        self.concepts = torch.tensor([concepts.setdefault(pair.names[0], len(concepts)) for pair in pairs])
        # Names that many pictures share come up more often, but not as often as they have pictures.
        rarity = torch.bincount(self.concepts).float()[self.concepts].rsqrt()
        self.weights = rarity * torch.tensor([1.0 if p.class_index is None else config.class_weight for p in pairs])

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.of_pair)

    def __getitem__(self, n: int) -> dict[str, Tensor]:
        """Return one pair: features, float32; numbers of the caption and of the concept."""
        captions = self.of_pair[n]
        plain = len(EVALUATED)
        caption = random.choice(
            captions[:plain] if random.random() < self.plain_share else captions[plain:] or captions
        )
        features = self.features[n, random.randrange(self.features.shape[1])].float()
        return {"features": features, "caption": torch.tensor(caption), "concept": self.concepts[n]}


class ClipTask(Task):
    """Contrast each picture with the names of the others in the batch; pictures of one name are all right."""

    part = "clip"
    dataset: PairDataset
    model: Any

    def __init__(self, model: Any, open_clip_config: dict[str, Any], folder: Path, config: ClipTaskConfig) -> None:
        """Lock what stays as it is.

        Args:
            model: An open_clip model with a timm image tower and a Hugging Face text tower.
            open_clip_config: Its `model_cfg` and `preprocess_cfg`.
            folder: CLIP folder with the tokenizer's files.
            config: What is trained.
        """
        super().__init__()
        self.model, self.open_clip_config, self.folder, self.config = model, open_clip_config, folder, config
        self.tokenizer = build_tokenizer(open_clip_config["model_cfg"]["text_cfg"], folder)
        self.preprocess = build_preprocess(open_clip_config["preprocess_cfg"])
        self.model.requires_grad_(False)
        if config.text_tower and config.image_blocks:
            raise ConfigError("task.text_tower locks the image side; leave out task.image_blocks or train them first")
        self.upper = split_trunk(model.visual.trunk, config.image_blocks)[1].to(memory_format=torch.channels_last)
        for module in self.upper.modules():
            # Depthwise filters stay: few weights, whose gradients take half of the time on a CPU.
            if not isinstance(module, nn.Conv2d) or module.groups == 1:
                for weight in module.parameters(recurse=False):
                    weight.requires_grad_(True)
        if config.text_tower:
            self.model.text.requires_grad_(True)
            self.model.text.transformer.embeddings.requires_grad_(False)
        else:
            self.image_head = nn.Linear(model.visual.head.proj.in_features, model.visual.head.proj.out_features)
            self.text_head = nn.Linear(model.text.proj.in_features, model.text.proj.out_features, bias=False)
            self.model.logit_scale.data.fill_(math.log(config.temperature))
        self.model.logit_scale.requires_grad_(True)

    def prepare(self, pairs: list[PictureName], features: Tensor) -> None:
        """Take the data.

        Args:
            pairs: All of them.
            features: Of each what the locked part of the image tower makes, float16, shape (len(pairs), views, ...).
        """
        chosen = [n for n, pair in enumerate(pairs) if pair.split == "train"]
        self.dataset = PairDataset([pairs[n] for n in chosen], features[chosen], self.config)
        heldout = [n for n, pair in enumerate(pairs) if pair.split == "test"]
        self.heldout = [pairs[n].names[0] for n in heldout]
        self.heldout_features = features[heldout, 0].float()
        self.tokens = self.tokenizer(self.dataset.captions)[:, :CAPTION_TOKENS]
        if not self.config.text_tower:
            every = self.dataset.features.flatten(0, 1)
            seen = self._see(every[evenly(len(every), STANDARD_FEATURES)])
            self.image_shift, self.image_scale = seen.mean(dim=0), seen.std(dim=0) + 1e-3
            pooled = self._pooled()
            self.text_shift, self.text_scale = pooled.mean(dim=0), pooled.std(dim=0) + 1e-2
            self.pooled = (pooled - self.text_shift) / self.text_scale

    def train(self, mode: bool = True) -> Self:
        """Go into training mode, but for the image tower's batch norms, whose statistics are of many more pictures."""
        super().train(mode)
        self.upper.eval()
        return self

    @torch.no_grad()
    def _see(self, features: Tensor) -> Tensor:
        """Return what the trained part of the image tower makes of the locked part's, float32, shape (batch, width)."""
        with Accelerator.choose("cpu").autocast():
            return torch.cat([self.upper(share.float()).float() for share in features.split(256)])

    @torch.inference_mode()
    def _pooled(self) -> Tensor:
        """Return what the locked text tower makes of every caption, float32, shape (captions, width)."""
        rows = []
        order = self.tokens.count_nonzero(dim=1).argsort()
        for share in self.tokens[order].split(512):
            tokens = share[:, : int(share.count_nonzero(dim=1).max())]
            mask = (tokens != 0).long()
            with Accelerator.choose("cpu").autocast():
                seen = self.model.text.transformer(input_ids=tokens, attention_mask=mask)
            rows.append(self.model.text.pooler(seen, mask).float())
        return torch.cat(rows)[order.argsort()].clone()

    def loss(self, batch: dict[str, Tensor], phase: str, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the symmetric cross entropy over the batch's cosines."""
        pictures = self._embed_pictures(self._vary(batch["features"], generator))
        texts = self._embed_captions(batch["caption"])
        scale = self.model.logit_scale.exp()
        logits = scale * F.normalize(pictures.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T
        same = (batch["concept"][:, None] == batch["concept"]).float()
        target = same / same.sum(dim=1, keepdim=True)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return loss, {"loss": loss.item(), "temperature": scale.item()}

    def _vary(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Mirror a batch of maps, all or none, and cut it to a random part; features (batch, width) stay."""
        if not self.config.image_blocks:
            return features
        mirrored, cut, top, left = torch.rand(4, generator=generator, device=features.device).tolist()
        rows, columns = (side - round(cut * LARGEST_CUT * side) for side in features.shape[2:])
        top, left = round(top * (features.shape[2] - rows)), round(left * (features.shape[3] - columns))
        part = features[:, :, top : top + rows, left : left + columns]
        return (part.flip(3) if mirrored < 0.5 else part).contiguous(memory_format=torch.channels_last)

    def _embed_pictures(self, features: Tensor) -> Tensor:
        features = self.upper(features)
        if self.config.text_tower:
            return self.model.visual.head(features)
        standard = (features - self.image_shift.to(features.device)) / self.image_scale.to(features.device)
        return self.image_head(F.dropout(standard, self.config.dropout, self.training))

    def _embed_captions(self, captions: Tensor) -> Tensor:
        if not self.config.text_tower:
            return self.text_head(self.pooled.to(captions.device)[captions])
        tokens = self.tokens.to(captions.device)[captions]
        return self.model.text(tokens[:, : int(tokens.count_nonzero(dim=1).max())])

    @torch.no_grad()
    def fold(self) -> None:
        """Write the trained projections into the model, with the standardisation they were trained behind."""
        if self.config.text_tower:
            return
        weight = self.image_head.weight.cpu() / self.image_scale
        self.model.visual.head.proj.weight.copy_(weight)
        self.model.visual.head.proj.bias.copy_(self.image_head.bias.cpu() - weight @ self.image_shift)
        self.model.text.proj.weight.copy_(self.text_head.weight.cpu() / self.text_scale)
        # The projection has no bias: the mean is taken off where the text tower's last layer adds its own.
        last = self.model.text.transformer.encoder.layer[-1].output.LayerNorm
        if not hasattr(self, "original_bias"):
            self.original_bias = last.bias.clone()
        last.bias.copy_(self.original_bias.cpu() - self.text_shift)

    def save(self, folder: Path) -> None:
        """Write the CLIP folder into the model folder."""
        self.fold()
        copy_text_files(self.folder, folder / self.part)
        save_clip(self.model, self.open_clip_config, folder / self.part)

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Measure retrieval and the modality gap on the held-out concepts, with a plain and with the paper's prompt."""
        self.fold()
        model = self.model.cpu().eval()
        pictures = F.normalize(model.visual.head(self._see(self.heldout_features)), dim=-1)
        figures: dict[str, float] = {"concepts": len(self.heldout)}
        for name, template in zip(("name", "photo"), EVALUATED, strict=True):
            tokens = self.tokenizer([template.format(concept) for concept in self.heldout])
            texts = F.normalize(model.encode_text(tokens).float(), dim=-1)
            figures |= retrieval(texts, pictures, f"{name}_to_picture") | retrieval(
                pictures, texts, f"picture_to_{name}"
            )
            figures |= {f"{name}_{key}": value for key, value in modality_gap(texts, pictures).items()}
        return figures


def _some(pair: PictureName, count: int) -> list[str]:
    """Return the plainest captions of a pair and, for a start of variety, a fixed choice of the others."""
    captions = captions_of(pair)
    plain, others = captions[: len(EVALUATED)], captions[len(EVALUATED) :]
    return plain + random.Random(pair.names[0]).sample(others, min(len(others), count - len(plain)))


def build(recipe: Recipe, data: Path, base: Path | None) -> ClipTask:
    """Make the task from its recipe.

    Args:
        recipe: Its `model` is open_clip's configuration, used for a new model.
        data: What `prepare pairs` wrote.
        base: Model folder whose `clip` is taught further; needed to train the text tower.

    Raises:
        ConfigError: The recipe trains the text tower and there is no base, or stages that the image tower lacks.
        DataError: The pairs or the towers are missing.
        CheckpointError: The base's CLIP cannot be read.
    """
    config = ClipTaskConfig.from_dict(recipe.task)
    if config.text_tower:
        if base is None:
            raise ConfigError("this recipe teaches an existing CLIP; name its model folder with --base")
        folder = base / ClipTask.part
        open_clip_config = read_open_clip_config(folder)
        model: Any = ClipEncoder.load(folder).model
    else:
        folder, open_clip_config = data / "towers" / "clip", recipe.model
        model = build_pretrained(open_clip_config["model_cfg"], data / "towers", folder)
    torch.manual_seed(recipe.training.seed)
    random.seed(recipe.training.seed)
    task = ClipTask(model, open_clip_config, folder, config)
    pairs = sorted(read_pairs(data), key=lambda pair: pair.class_index is not None)
    if config.image_blocks:
        pairs = [pair for pair in pairs if pair.class_index is None]
    locked = split_trunk(model.visual.trunk, config.image_blocks)[0]
    task.prepare(pairs, all_features(data, pairs, locked, task.preprocess, config.views))
    return task


def all_features(data: Path, pairs: list[PictureName], trunk: nn.Module, preprocess: Any, views: int) -> Tensor:
    """Return features of the pictures, then of the classes, float16, shape (len(pairs), views, ...)."""
    pictures = [pair for pair in pairs if pair.class_index is None]
    seen = features_of(data, pictures, trunk, preprocess, views)
    indices = [pair.class_index for pair in pairs if pair.class_index is not None]
    if not indices:
        return seen
    _, classifier = image_weights(data / "towers")
    made_up = class_features(classifier, indices, seen.float(), views, torch.Generator().manual_seed(0))
    return torch.cat([seen, made_up.half()])
