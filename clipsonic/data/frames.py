"""Video frames out of still pictures: what a moving camera would see of the thing they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

SIZE = 256
"""Pixels of a frame's side."""
PHOTO_ALPHA = 250
Colour = tuple[int, int, int]


class BackgroundBook:
    """Photographs of places, to be put out of focus behind cut-out things."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Remember where the pictures are; they are opened when first needed."""
        self._paths = list(paths)
        self._pictures: dict[Path, Image.Image] = {}

    def open(self, random: np.random.Generator) -> Image.Image | None:
        """Return one of the pictures, small and RGB, or None if there are none."""
        if not self._paths:
            return None
        path = self._paths[random.integers(len(self._paths))]
        if path not in self._pictures:
            with Image.open(path) as picture:
                self._pictures[path] = picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        return self._pictures[path]


def make_frames(
    picture: Image.Image, count: int, random: np.random.Generator, backgrounds: BackgroundBook
) -> list[Image.Image]:
    """Film a still picture with a moving camera.

    A cut-out thing is put before a background and drifts, grows and turns a little; an opaque photograph is panned
    and zoomed. All frames share flip, colours and background.

    Args:
        picture: RGBA picture.
        count: Number of frames.
        random: Where all choices come from.
        backgrounds: Pictures of places.

    Returns:
        RGB pictures of `SIZE` × `SIZE` pixels.
    """
    if random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    alpha = np.asarray(picture.getchannel("A"))
    if float((alpha > PHOTO_ALPHA).mean()) > 0.98:
        frames = _film_photo(picture.convert("RGB"), count, random)
    else:
        frames = _film_cutout(picture, count, random, backgrounds)
    return _jitter(frames, random)


def _path(low: float, high: float, count: int, drift: float, random: np.random.Generator) -> np.ndarray:
    """Return `count` values from a random start towards a nearby end, within [low, high]."""
    start = random.uniform(low, high)
    end = np.clip(start + random.uniform(-drift, drift) * (high - low), low, high)
    values: np.ndarray = np.linspace(start, end, count)
    return values


def _film_photo(photo: Image.Image, count: int, random: np.random.Generator) -> list[Image.Image]:
    """Pan and zoom over an opaque picture; the shorter side is cropped to at most 60 %."""
    zooms = _path(0.6, 1.0, count, 0.5, random)
    across, down = _path(0.15, 0.85, count, 0.6, random), _path(0.2, 0.8, count, 0.6, random)
    frames = []
    for zoom, x, y in zip(zooms, across, down, strict=True):
        side = zoom * min(photo.size)
        left, top = x * (photo.width - side), y * (photo.height - side)
        box = (left, top, left + side, top + side)
        frames.append(photo.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0))
    return frames


def _film_cutout(
    picture: Image.Image, count: int, random: np.random.Generator, backgrounds: BackgroundBook
) -> list[Image.Image]:
    """Let a cut-out thing drift before a background that contrasts with it."""
    box = picture.getchannel("A").point(lambda value: 255 * (value > 16)).getbbox()
    thing = picture.crop(box) if box else picture
    background = _background(_mean_luminance(thing), random, backgrounds)
    scales = _path(0.55, 0.98, count, 0.3, random)
    turns = _path(-10, 10, count, 0.3, random)
    across, down = _path(0.0, 1.0, count, 0.5, random), _path(0.0, 1.0, count, 0.5, random)
    frames = []
    for scale, turn, x, y in zip(scales, turns, across, down, strict=True):
        frame = background.copy()
        ratio = scale * SIZE / max(thing.size)
        size = (max(1, round(thing.width * ratio)), max(1, round(thing.height * ratio)))
        drawn = thing.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        drawn = drawn.rotate(turn, Image.Resampling.BICUBIC, expand=True)
        place = (round(x * (SIZE - drawn.width)), round(y * (SIZE - drawn.height)))
        frame.paste(drawn, place, drawn)
        frames.append(frame)
    return frames


def _mean_luminance(thing: Image.Image) -> float:
    """Return the mean brightness of what is not transparent, 0 to 255."""
    pixels = np.asarray(thing.convert("RGBA"), dtype=np.float32)
    weights = pixels[..., 3]
    grey = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return float((grey * weights).sum() / max(float(weights.sum()), 1.0))


def _background(luminance: float, random: np.random.Generator, backgrounds: BackgroundBook) -> Image.Image:
    """Return a plain colour, a gradient or a place out of focus, lighter or darker than the thing."""
    kind = random.random()
    photo = backgrounds.open(random) if kind < 0.3 else None
    if photo is not None:
        scene = photo.filter(ImageFilter.GaussianBlur(random.uniform(1.5, 8)))
        return _shifted(scene, luminance, random)
    first, second = _contrasting_colour(luminance, random), _contrasting_colour(luminance, random)
    if kind < 0.6:
        return Image.new("RGB", (SIZE, SIZE), first)
    if kind < 0.72:
        return Image.new("RGB", (SIZE, SIZE), (255, 255, 255) if luminance < 190 else (30, 30, 30))
    ramp = Image.linear_gradient("L").rotate(float(random.choice([0, 90, 180, 270])))
    return Image.composite(Image.new("RGB", ramp.size, first), Image.new("RGB", ramp.size, second), ramp)


def _contrasting_colour(luminance: float, random: np.random.Generator) -> Colour:
    """Return a colour whose brightness differs by at least a quarter of the scale."""
    target = random.uniform(luminance + 64, 300) if luminance < 150 else random.uniform(-20, luminance - 64)
    tint = random.uniform(-45, 45, size=3)
    red, green, blue = np.clip(target + tint - tint.mean(), 0, 255).astype(int)
    return int(red), int(green), int(blue)


def _shifted(scene: Image.Image, luminance: float, random: np.random.Generator) -> Image.Image:
    """Brighten or darken a scene until the thing stands out."""
    mean = float(np.asarray(scene.convert("L")).mean())
    target = random.uniform(luminance + 50, 240) if luminance < 140 else random.uniform(20, luminance - 50)
    if abs(mean - luminance) > 50:
        return scene
    return ImageEnhance.Brightness(scene).enhance(max(0.15, min(target / max(mean, 1.0), 4.0)))


def _jitter(frames: list[Image.Image], random: np.random.Generator) -> list[Image.Image]:
    """Change brightness, contrast and saturation of all frames alike; now and then take away sharpness."""
    factors = random.uniform(0.75, 1.25), random.uniform(0.75, 1.25), random.uniform(0.6, 1.35)
    blur = random.uniform(0.3, 1.4) if random.random() < 0.2 else 0.0
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    result = []
    for frame in frames:
        for enhancer, factor in zip(enhancers, factors, strict=True):
            frame = enhancer(frame).enhance(factor)
        result.append(frame.filter(ImageFilter.GaussianBlur(blur)) if blur else frame)
    return result
