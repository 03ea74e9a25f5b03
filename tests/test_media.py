"""Pictures of every kind, and everything that only looks like one."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsonic.errors import MediaError
from clipsonic.media import open_picture

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_formats_give_rgb(kind: str) -> None:
    picture = open_picture(encoded(Image.new("RGB", (40, 30), RED), kind))
    assert (picture.mode, picture.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(picture, dtype=int)[15, 20] - RED).max() < 12


def test_paths_arrays_and_images_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (4, 4), RED).save(path)
    array = np.full((4, 4, 3), RED, np.uint8)
    for source in (path, str(path), path.read_bytes(), array, Image.new("RGB", (4, 4), RED)):
        assert open_picture(source).getpixel((1, 1)) == RED
    assert open_picture(np.full((4, 4), 7, np.uint8)).getpixel((0, 0)) == (7, 7, 7)


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert open_picture(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4))
    assert open_picture(encoded(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_camera_rotation_is_applied() -> None:
    picture = Image.new("RGB", (40, 20), RED)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_picture(encoded(picture, "JPEG", exif=exif)).size == (20, 40)


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, BLUE)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_picture(data).getpixel((0, 0)) == RED


def test_sixteen_bits_are_scaled_and_cmyk_is_converted() -> None:
    grey = Image.fromarray(np.full((4, 4), 32896, np.uint16))
    assert open_picture(encoded(grey)).getpixel((0, 0)) == (128, 128, 128)
    assert open_picture(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG")).mode == "RGB"


@pytest.mark.parametrize("size", [(30_000, 30_000), (20_000, 10), (10_000, 10_000)])
def test_huge_pictures_are_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(MediaError, match=r"allowed: 16384 a side|too large"):
        open_picture(png_header(*size))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_truncated_pictures_are_told(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(MediaError, match="cut short|not a picture"):
        open_picture(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"<svg/>", b"%PDF-1.4", b"%!PS-Adobe-3.0 EPSF"])
def test_what_is_no_picture_is_told(data: bytes) -> None:
    with pytest.raises(MediaError, match="picture"):
        open_picture(data)


def test_missing_files_and_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"cannot read the picture gone.png: No such file"):
        open_picture(tmp_path / "gone.png")
    with pytest.raises(MediaError, match="is a folder"):
        open_picture(tmp_path)
    with pytest.raises(MediaError):
        open_picture("a\0b")


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_wrong_arrays_are_told(array: np.ndarray) -> None:
    with pytest.raises(MediaError, match="array of|0 x 0"):
        open_picture(array)
