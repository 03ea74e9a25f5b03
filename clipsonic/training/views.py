"""What a frozen image tower sees: its features of every picture in several views, computed once and kept."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from clipsonic.device import fast_dtype
from clipsonic.errors import DataError
from clipsonic.storage import sha256, write_whole

CACHE = "cache"
VIEW_SIZE = 288
"""Pixels of the square that a view is drawn on."""


@dataclass(frozen=True, kw_only=True)
class PictureName:
    """One line of `pairs.jsonl`, as training needs it."""

    key: str
    names: tuple[str, ...]
    tags: tuple[str, ...]
    gloss: str
    split: str
    class_index: int | None


def read_pairs(folder: Path) -> list[PictureName]:
    """Read what `prepare pairs` wrote.

    Raises:
        DataError: The file is missing or damaged.
    """
    path = folder / "pairs.jsonl"
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [
            PictureName(
                key=r["key"],
                names=tuple(r["names"]),
                tags=tuple(r["tags"]),
                gloss=r["gloss"],
                split=r["split"],
                class_index=r["class_index"],
            )
            for r in records
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path}: {error}; run prepare pairs again") from error


def view(picture: Image.Image, index: int, rng: random.Random) -> Image.Image:
    """Draw a picture as a square photograph of it might show it.

    Args:
        picture: RGBA picture.
        index: View 0 is the whole picture on white; the others vary in place, scale, background, colour and side.
        rng: Where the variations come from.

    Returns:
        RGB picture, VIEW_SIZE × VIEW_SIZE pixels.
    """
    scale = 1.0 if index == 0 else rng.uniform(0.55, 1.25)
    plain = index == 0 or rng.random() < 0.3
    canvas = Image.new("RGBA", (VIEW_SIZE, VIEW_SIZE), (255, 255, 255, 255)) if plain else _background(rng)
    if index and rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    if index and rng.random() < 0.25:
        picture = picture.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, expand=True)
    factor = scale * VIEW_SIZE / max(picture.size)
    size = (max(8, round(picture.width * factor)), max(8, round(picture.height * factor)))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    room = [VIEW_SIZE - side for side in picture.size]
    place = [r // 2 if index == 0 else round(rng.uniform(min(0, r), max(0, r))) for r in room]
    canvas.paste(picture, (place[0], place[1]), picture)
    return canvas.convert("RGB")


def _background(rng: random.Random) -> Image.Image:
    """Return a gradient between two random colours."""
    first, second = ((rng.randrange(256), rng.randrange(256), rng.randrange(256), 255) for _ in range(2))
    mask = Image.linear_gradient("L").resize((VIEW_SIZE, VIEW_SIZE)).rotate(rng.choice((0, 90, 180, 270)))
    one, other = (Image.new("RGBA", (VIEW_SIZE, VIEW_SIZE), colour) for colour in (first, second))
    return Image.composite(one, other, mask)


class _Views(Dataset[Tensor]):
    """Every view of every picture, ready for the image tower."""

    def __init__(self, files: list[Path], views: int, preprocess: Callable[[Image.Image], Tensor]) -> None:
        self.files, self.views, self.preprocess = files, views, preprocess

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, n: int) -> Tensor:
        """Return one picture's views, float32, shape (views, 3, height, width)."""
        rng = random.Random(self.files[n].stem)
        with Image.open(self.files[n]) as picture:
            rgba = picture.convert("RGBA")
        return torch.stack([self.preprocess(view(rgba, index, rng)) for index in range(self.views)])


def features_of(
    folder: Path, pairs: list[PictureName], trunk: nn.Module, preprocess: Callable[[Any], Tensor], views: int
) -> Tensor:
    """Return what a frozen trunk makes of all pictures, from the cache in the folder or computed into it.

    Args:
        folder: What `prepare pairs` wrote.
        pairs: Its records that have pictures.
        trunk: The image tower or its lower part: pixels (batch, 3, height, width) to features (batch, width) or to
            maps (batch, channels, rows, columns).
        preprocess: Picture to the tower's input.
        views: How many views of each picture.

    Returns:
        Features or maps, float16, shape (len(pairs), views, ...).

    Raises:
        DataError: A picture is missing.
        OutputError: The cache cannot be written.
    """
    path = folder / CACHE / f"features-{_fingerprint(folder, trunk, views)}.safetensors"
    try:
        return load_file(path)["features"]
    except (OSError, SafetensorError):
        pass  # no cache yet, or one cut short: it is made below
    files = [folder / "pictures" / f"{pair.key}.png" for pair in pairs]
    if absent := [file for file in files if not file.is_file()]:
        raise DataError(f"{absent[0]} is missing; run prepare pairs again")
    features = _compute(trunk, _Views(files, views, preprocess))
    with write_whole(path) as temporary:
        save_file({"features": features}, temporary)
    return features


def _fingerprint(folder: Path, trunk: nn.Module, views: int) -> str:
    """Name what the features depend on: the pairs, the trunk's weights and the number of views."""
    known = hashlib.sha256(f"{sha256(folder / 'pairs.jsonl')} {views}".encode())
    for tensor in trunk.state_dict().values():
        known.update(tensor.detach().float().cpu().numpy().tobytes())
    return known.hexdigest()[:16]


@torch.no_grad()  # inference mode would keep the traced tower from being fused
def _compute(trunk: nn.Module, dataset: _Views) -> Tensor:
    """Run the tower in the fastest precision; on a CPU traced and fused, which is several times as fast as it is."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tower: Any = copy.deepcopy(trunk).eval()
    dtype = fast_dtype(device.type)
    tower.to(device=device, dtype=dtype, memory_format=torch.channels_last)
    rows: list[Tensor] = []
    for batch in tqdm(DataLoader(dataset, batch_size=16, num_workers=1), desc="pictures", unit="batch"):
        pixels = batch.flatten(0, 1).to(device, dtype).contiguous(memory_format=torch.channels_last)
        if not rows and device.type == "cpu":
            tower = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(tower, pixels)))
        rows.append(tower(pixels).half().cpu().unflatten(0, batch.shape[:2]))
    return torch.cat(rows)
