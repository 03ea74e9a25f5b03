"""Safe decoding of what people hand in: pictures of any kind, never trusted."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clipsonic.errors import MediaError

Picture = str | Path | bytes | Image.Image | np.ndarray
"""A path, a file's bytes, a PIL image, or a uint8 array of shape (height, width) or (height, width, 3 or 4)."""

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
MAX_PICTURE_PIXELS = 50_000_000
MAX_PICTURE_SIDE = 16_384
MAX_PICTURE_BYTES = 100_000_000
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def open_picture(source: Picture) -> Image.Image:
    """Decode one picture, upright and without transparency.

    An animation gives its first frame. Rotation noted by a camera (EXIF) is applied, transparency is laid on white,
    other colour spaces and depths become 8-bit RGB.

    Args:
        source: See `Picture`.

    Returns:
        An RGB image.

    Raises:
        MediaError: It is not a picture in an allowed format, is too large, or is cut short.
    """
    if isinstance(source, np.ndarray):
        return _flatten(_from_array(source))
    if isinstance(source, Image.Image):
        _check_size(source, "the picture")
        return _flatten(source)
    name = "the picture" if isinstance(source, bytes) else Path(source).name
    with warnings.catch_warnings():
        # Our own limit is stricter than Pillow's; what it warns of never reaches a decoder.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return _decode(io.BytesIO(_read(source, name)), name)


def _read(source: str | Path | bytes, name: str) -> bytes:
    """Return a file's bytes, unless it is missing, no file, or far too long."""
    if isinstance(source, bytes):
        data = source
    else:
        path = Path(source)
        try:
            if path.is_dir() or path.stat().st_size > MAX_PICTURE_BYTES:
                raise MediaError(f"{name} is a folder or over {MAX_PICTURE_BYTES // 10**6} MB; give a smaller picture")
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            if isinstance(error, MediaError):
                raise
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            raise MediaError(f"cannot read the picture {name}: {reason}; give a path to a picture file") from error
    if not data:
        raise MediaError(f"{name} is empty; give a picture file")
    return data


def _decode(file: io.BytesIO, name: str) -> Image.Image:
    """Decode a picture file, looking at its size before its pixels."""
    try:
        with Image.open(file, formats=PICTURE_FORMATS) as picture:
            _check_size(picture, name)
            picture.load()
            return _flatten(picture)
    except UnidentifiedImageError as error:
        raise MediaError(f"{name} is not a picture; allowed: {', '.join(PICTURE_FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"{name} is too large; {_limits()}") from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{name} is damaged or cut short ({error}); give a whole picture") from error


def _check_size(picture: Image.Image, name: str) -> None:
    width, height = picture.size
    if min(width, height) < 1 or max(width, height) > MAX_PICTURE_SIDE or width * height > MAX_PICTURE_PIXELS:
        raise MediaError(f"{name} is {width} x {height} pixels; {_limits()}")


def _limits() -> str:
    return f"allowed: {MAX_PICTURE_SIDE} a side and {MAX_PICTURE_PIXELS // 10**6} million in all; scale it down"


def _from_array(array: np.ndarray) -> Image.Image:
    """Wrap an array as an image."""
    channels_fit = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not channels_fit:
        raise MediaError(
            f"the picture is an array of {array.dtype} and shape {array.shape}; "
            "expected uint8 of shape (height, width) or (height, width, 3 or 4)"
        )
    picture = Image.fromarray(array) if array.size else Image.new("RGB", (0, 0))
    _check_size(picture, "the picture")
    return picture


def _flatten(picture: Image.Image) -> Image.Image:
    """Return an upright RGB copy, transparency laid on white."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in _SIXTEEN_BIT:
        # Pillow clips 16-bit greys at 255 instead of scaling them.
        return Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")
