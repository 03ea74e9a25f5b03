"""Pretrained towers out of two free Python wheels, as an untrained `open_clip` model.

EfficientNet-Lite2 (Apache-2.0) sees, all-MiniLM-L6-v2 (Apache-2.0) reads; only the projections into the
shared space start from nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clipsonic.clip import TEXT_TOWER_CONFIG, TOKENIZER_FILES, build_model
from clipsonic.errors import CheckpointError, ConfigError, DataError
from clipsonic.storage import write_text


def image_weights(towers: Path) -> tuple[list[Tensor], Tensor]:
    """Read EfficientNet-Lite2's weights.

    Args:
        towers: What `prepare pairs` unpacked the towers into.

    Returns:
        The trunk's tensors in order, and the classifier's weights, float32, shape (1000, 1280).

    Raises:
        DataError: There are no such weights.
    """
    path = _find(towers, "efficientnet-lite2-*.pth")
    tensors = list(torch.load(path, map_location="cpu", weights_only=True).values())
    return tensors[:-2], tensors[-2]


def fill_image_tower(trunk: nn.Module, tensors: list[Tensor]) -> None:
    """Give a timm trunk the weights of another implementation that lists the same layers in the same order.

    Raises:
        CheckpointError: The number or the shapes of the tensors differ.
    """
    names = list(trunk.state_dict())
    if len(names) != len(tensors):
        raise CheckpointError(f"the image tower has {len(names)} tensors, the weights {len(tensors)}; take Lite2's")
    try:
        trunk.load_state_dict(dict(zip(names, tensors, strict=True)))
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the image tower: {str(error).splitlines()[-1]}") from error


def split_trunk(trunk: Any, blocks: int) -> tuple[nn.Module, nn.Module]:
    """Part a trunk of timm's EfficientNet family in two, which share its weights.

    Args:
        trunk: Pixels (batch, 3, height, width) to features (batch, width).
        blocks: How many of its last stages go into the second part, with all that follows them.

    Returns:
        What sees pixels, and what makes features of that; with no blocks the second changes nothing.

    Raises:
        ConfigError: The trunk is of another family or has not so many stages.
    """
    if not blocks:
        return trunk, nn.Identity()
    stages = getattr(trunk, "blocks", ())
    if not hasattr(trunk, "conv_head") or not 0 < blocks < len(stages):
        raise ConfigError(
            f"task.image_blocks is {blocks}; allowed: 0, or fewer than the {len(stages)} stages of an EfficientNet"
        )
    lower = nn.Sequential(trunk.conv_stem, trunk.bn1, *stages[:-blocks])
    return lower, nn.Sequential(*stages[-blocks:], trunk.conv_head, trunk.bn2, trunk.global_pool)


def copy_text_files(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files and the text tower's config from one CLIP folder to another.

    Raises:
        OutputError: The folder cannot be written to.
    """
    for name in (*TOKENIZER_FILES, TEXT_TOWER_CONFIG):
        if (source / name).is_file():
            write_text(folder / name, (source / name).read_text(encoding="utf-8"))


def build_pretrained(model_config: dict[str, Any], towers: Path, folder: Path) -> nn.Module:
    """Build the open_clip model with both towers pretrained and new projections.

    Args:
        model_config: open_clip's `model_cfg`.
        towers: What `prepare pairs` unpacked the towers into.
        folder: CLIP folder that receives the tokenizer and the text tower's config.

    Raises:
        DataError: A tower lacks its weights.
        CheckpointError: The weights do not fit `model_config`.
    """
    source = _find(towers, "model/tokenizer.json").parent
    copy_text_files(source, folder)
    write_text(folder / TEXT_TOWER_CONFIG, (source / "config.json").read_text(encoding="utf-8"))
    model: Any = build_model(model_config, folder)
    fill_image_tower(model.visual.trunk, image_weights(towers)[0])
    missing, unexpected = model.text.transformer.load_state_dict(load_file(source / "model.safetensors"), strict=False)
    if missing or set(unexpected) - {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}:
        raise CheckpointError(f"the text tower's weights do not fit: {[*missing, *unexpected][:3]}; take MiniLM-L6's")
    return model


def _find(towers: Path, pattern: str) -> Path:
    path = next(towers.rglob(pattern), None)
    if path is None:
        raise DataError(f"there is no {pattern} under {towers}; run prepare pairs again")
    return path


def class_features(
    classifier: Tensor, classes: Sequence[int], features: Tensor, views: int, generator: torch.Generator
) -> Tensor:
    """Make up features of some of ImageNet's classes, of which there are no pictures, from the classifier's weights.

    For a linear classifier of Gaussian classes with a common covariance, a class' weights are that covariance's
    inverse times its mean; multiplying by the covariance of real features gives the mean's direction back.

    Args:
        classifier: Weights of all classes, shape (1000, width).
        classes: Which are asked for.
        features: Features of real pictures, float32, shape (pictures, views, width).
        views: How many variations of each class.
        generator: Draws the variations: differences between views of real pictures.

    Returns:
        float32, shape (len(classes), views, width).
    """
    mean = features.mean(dim=(0, 1))
    centred = features[:, 0] - mean
    directions = classifier @ (centred.T @ centred / len(centred))
    directions = (directions - directions.mean(dim=0))[list(classes)]
    directions = directions * (centred.norm(dim=1).mean() / directions.norm(dim=1, keepdim=True))
    between = (features - features.mean(dim=1, keepdim=True)).flatten(0, 1)
    drawn = between[torch.randint(len(between), (len(classes), views), generator=generator)]
    return (mean + directions[:, None] + drawn).clamp(min=0)
