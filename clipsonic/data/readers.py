"""Sounds and pictures out of unpacked packages, whatever container they lie in.

A path is a file under the package's root, `container!inner` for Qt resources (`.rcc`), OpenTTD sound sets
(`.cat`), zip files (`.pk3`, `.zip`), Doom WADs (`.wad`) and Iconify's icon sets (`.json`), or `U+XXXX` for an emoji of
the package's colour font.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from fontTools.ttLib import TTFont, TTLibError
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from resvg_py import svg_to_bytes

from clipsonic.errors import DataError

EMOJI_FONT = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
SVG_SIZE = 512
"""Pixels of the longer side that a drawing without pixels is rendered to."""


def read_bytes(root: Path, path: str) -> bytes:
    """Return one file's content.

    Args:
        root: Folder a package was unpacked into.
        path: A plain path, `container!inner`, or `U+XXXX`.

    Raises:
        DataError: There is no such file, or its container is damaged.
    """
    try:
        if path.startswith("U+"):
            return _font_bitmaps(root / EMOJI_FONT)[int(path[2:], 16)]
        container, _, inner = path.partition("!")
        if not inner:
            return (root / path).read_bytes()
        return _CONTAINERS[Path(container).suffix](root / container, inner)
    except (
        OSError,
        KeyError,
        ValueError,
        IndexError,
        struct.error,
        zlib.error,
        zipfile.BadZipFile,
        TTLibError,
    ) as error:
        raise DataError(f"cannot read {path} under {root}: {error}; check the manifest against the package") from error


def read_sound(root: Path, path: str) -> tuple[NDArray[np.float32], int]:
    """Read a sound and mix it down to one channel.

    Args:
        root: Folder a package was unpacked into.
        path: See `read_bytes`.

    Returns:
        Waveform in [-1, 1], float32, shape (samples,), and its rate in Hz.

    Raises:
        DataError: There is no such file, or it is not a sound.
    """
    content = read_bytes(root, path)
    if ".wad!" in path:
        return _doom_sound(content)
    try:
        waveform, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise DataError(f"{path} under {root} is not a sound: {error}; take it out of the manifest") from error
    return waveform.mean(axis=1), rate


def read_picture(root: Path, path: str) -> Image.Image:
    """Read a picture with its transparency.

    Args:
        root: Folder a package was unpacked into.
        path: See `read_bytes`; SVG drawings are rendered `SVG_SIZE` pixels large.

    Returns:
        RGBA picture.

    Raises:
        DataError: There is no such file, or it is not a picture.
    """
    content = read_bytes(root, path)
    try:
        if path.endswith(".svg"):
            content = svg_to_bytes(svg_string=content.decode("utf-8"), width=SVG_SIZE)
        picture: Image.Image = Image.open(io.BytesIO(content))
        return picture.convert("RGBA")
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} under {root} is not a picture: {error}; take it out of the manifest") from error


def composite(picture: Image.Image, background: Image.Image | tuple[int, int, int]) -> Image.Image:
    """Lay a picture with transparency over a background.

    Args:
        picture: RGBA picture.
        background: An opaque colour, or a picture that is stretched to the same size.

    Returns:
        RGB picture of the same size.
    """
    if isinstance(background, Image.Image):
        below = background.convert("RGBA").resize(picture.size, Image.Resampling.BICUBIC)
    else:
        below = Image.new("RGBA", picture.size, (*background, 255))
    return Image.alpha_composite(below, picture).convert("RGB")


def list_qt_resource(path: Path) -> list[str]:
    """Return the names of the files inside a Qt resource, sorted."""
    return sorted(_qt_resource(path))


@lru_cache(maxsize=4)
def _font_bitmaps(path: Path) -> dict[int, bytes]:
    """Return the PNG picture of every code point of a CBDT colour font."""
    with TTFont(path, lazy=True) as font:
        glyphs = font["CBDT"].strikeData[0]
        return {code: glyphs[name].imageData for code, name in font.getBestCmap().items() if name in glyphs}


@lru_cache(maxsize=64)
def _qt_resource(path: Path) -> dict[str, bytes]:
    """Unpack a Qt binary resource: a tree of names, each leaf pointing at stored or deflated data."""
    content = path.read_bytes()
    magic, version, tree, data, names = struct.unpack_from(">4sIIII", content)
    if magic != b"qres":
        raise ValueError("not a Qt resource")
    node_size = 22 if version >= 2 else 14
    files: dict[str, bytes] = {}

    def visit(node: int, prefix: str) -> None:
        name_offset, flags = struct.unpack_from(">IH", content, tree + node * node_size)
        length = struct.unpack_from(">H", content, names + name_offset)[0]
        start = names + name_offset + 6
        name = prefix + (content[start : start + 2 * length].decode("utf-16-be") if node else "")
        first, second = struct.unpack_from(">II", content, tree + node * node_size + 6)
        if flags & 2:
            for child in range(second, second + first):
                visit(child, f"{name}/" if node else "")
        else:
            files[name] = _qt_data(content, data + second, flags)

    visit(0, "")
    return files


def _qt_data(content: bytes, offset: int, flags: int) -> bytes:
    length = struct.unpack_from(">I", content, offset)[0]
    stored = content[offset + 4 : offset + 4 + length]
    if flags & 4:
        raise ValueError("zstd-compressed Qt resources are not supported")
    return zlib.decompress(stored[4:]) if flags & 1 else stored


def _openttd_entry(path: Path, inner: str) -> bytes:
    """Return one WAV of an OpenTTD sound set; each is preceded by a byte-counted name."""
    content = path.read_bytes()
    offset, length = struct.unpack_from("<II", content, 8 * int(inner))
    name_start = (offset & 0x7FFFFFFF) + 1
    start = name_start + content[name_start - 1]
    return content[start : start + length]


def _zip_entry(path: Path, inner: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(inner)


def _wad_lump(path: Path, inner: str) -> bytes:
    content = path.read_bytes()
    magic, count, directory = struct.unpack_from("<4sII", content)
    if magic not in (b"IWAD", b"PWAD"):
        raise ValueError("not a WAD")
    for entry in range(count):
        offset, length, name = struct.unpack_from("<II8s", content, directory + 16 * entry)
        if name.rstrip(b"\0").decode("latin-1") == inner:
            return content[offset : offset + length]
    raise KeyError(inner)


@lru_cache(maxsize=4)
def read_icon_set(path: Path) -> dict[str, Any]:
    """Return an Iconify set: its `icons` by their names, and the `width` and `height` of those that have none."""
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def _iconify_icon(path: Path, inner: str) -> bytes:
    """Return one icon of an Iconify set as an SVG file; `inner` is its name and ".svg"."""
    icons = read_icon_set(path)
    icon = icons["icons"][inner.removesuffix(".svg")]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
    box = f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}"'
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"<svg {links} {box}>{icon['body']}</svg>".encode()


def _doom_sound(lump: bytes) -> tuple[NDArray[np.float32], int]:
    """Read a Doom sound: 8-bit samples with 16 of padding at either end."""
    kind, rate, count = struct.unpack_from("<HHI", lump)
    if kind != 3:
        raise DataError(f"a Doom sound lump has format {kind}, expected 3; take it out of the manifest")
    samples = np.frombuffer(lump, dtype=np.uint8, offset=8, count=count)[16:-16]
    return (samples.astype(np.float32) - 128.0) / 128.0, rate


_CONTAINERS = {
    ".rcc": lambda path, inner: _qt_resource(path)[inner],
    ".cat": _openttd_entry,
    ".pk3": _zip_entry,
    ".zip": _zip_entry,
    ".wad": _wad_lump,
    ".json": _iconify_icon,
}
