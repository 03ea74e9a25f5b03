"""Files and texts that mean harm, made from seeds: the same ones every time, none of them kept in the repository."""

from __future__ import annotations

import io
import itertools
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import av
import numpy as np
import soundfile
from PIL import Image

CUTS = (0.02, 0.2, 0.5, 0.8, 0.98)
FLIPS = range(6)
NOT_MEDIA: dict[str, bytes] = {
    "empty": b"",
    "one-byte": b"\x00",
    "zeros": b"\0" * 4096,
    "html": b"<html><script>fetch('http://127.0.0.1/')</script></html>",
    "svg-xxe": b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg">&e;</svg>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch pwned) (w) file\n",
    "mvg": b"push graphic-context\nimage over 0,0 0,0 '|touch pwned'\npop graphic-context\n",
    "pickle": b"cos\nsystem\n(S'touch pwned'\ntR.",
    "shell": b"#!/bin/sh\ntouch pwned\n",
    "zip": b"PK\x03\x04" + b"\0" * 60,
    "elf": b"\x7fELF" + b"\0" * 60,
    "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
    "dash": b'<?xml version="1.0"?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>',
}


class Case(NamedTuple):
    """One file."""

    name: str
    data: bytes


def cut_and_flipped(name: str, data: bytes) -> Iterator[Case]:
    """Give a good file's beginnings, and copies with a few bits turned over."""
    for share in CUTS:
        yield Case(f"cut-{share:g}.{name}", data[: max(1, int(len(data) * share))])
    for seed in FLIPS:
        draw = np.random.default_rng(seed)
        flipped = bytearray(data)
        for place in draw.integers(0, len(data), 1 + 4 * seed):
            flipped[place] ^= 1 << int(draw.integers(8))
        yield Case(f"flipped-{seed}.{name}", bytes(flipped))


def noise(seeds: int) -> Iterator[Case]:
    """Give bytes that mean nothing."""
    for seed in range(seeds):
        yield Case(f"noise-{seed}.bin", np.random.default_rng(seed).bytes(2 + 700 * seed))


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, pixels: bytes = b"") -> bytes:
    """Return a PNG that claims a size and holds next to nothing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def good_pictures() -> dict[str, bytes]:
    """Return a small picture in every format that is read."""
    array = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    found = {}
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, kind)
        found[kind.lower()] = buffer.getvalue()
    return found


def pictures() -> Iterator[Case]:
    """Give pictures that mean harm."""
    good = good_pictures()
    for kind, data in good.items():
        yield from cut_and_flipped(kind, data)
        yield Case(f"wrong-suffix-{kind}.wav", data)
        yield Case(f"polyglot-{kind}.zip", data + b"PK\x05\x06" + b"\0" * 18)
        yield Case(f"polyglot-{kind}.php", data + b"<?php system('touch pwned'); ?>")
    for width, height in itertools.product((0, 1, 65_535, 2**31 - 1), repeat=2):
        yield Case(f"bomb-{width}x{height}.png", png(width, height))
    bomb = zlib.compress(b"\0" * 50_000_000, 9)
    yield Case("text-bomb.png", png(8, 8, chunk(b"zTXt", b"a\0\0" + bomb)))
    yield Case("itxt-bomb.png", png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)))
    yield Case("profile-bomb.png", png(8, 8, chunk(b"iCCP", b"a\0\0" + bomb)))
    yield Case("pixel-bomb.png", png(8, 8, pixels=b"\0" * 20_000_000))
    yield Case("many-chunks.png", png(8, 8, *[chunk(b"tEXt", b"a\0b")] * 5000))
    yield Case("huge.ppm", b"P6 99999 99999 255\n")
    yield Case("nonsense.ppm", b"P6 -1 99999999999999999999 255\n" + b"0" * 99)
    yield Case("huge.bmp", good["bmp"][:18] + struct.pack("<ii", 2**31 - 1, -(2**31)) + good["bmp"][26:])
    yield Case("huge.gif", good["gif"][:6] + struct.pack("<HH", 65535, 65535) + good["gif"][10:])
    frame = good["jpeg"].index(b"\xff\xc0")
    yield Case("huge.jpeg", good["jpeg"][: frame + 5] + b"\xff\xff\xff\xff" + good["jpeg"][frame + 9 :])
    for orientation in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x010E] = "A" * 60_000
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif, icc_profile=b"\xff" * 500, comment=b"%n" * 100)
        yield Case(f"metadata-{orientation}.jpeg", buffer.getvalue())
    yield from (Case(f"{name}.png", data) for name, data in NOT_MEDIA.items())
    yield from noise(8)


def good_sounds() -> dict[str, bytes]:
    """Return a short sound in every format that is written."""
    wave = 0.3 * np.sin(np.arange(8000) * 0.1)
    found = {}
    for kind in ("WAV", "FLAC", "OGG", "MP3"):
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, 16000, format=kind)
        found[kind.lower()] = buffer.getvalue()
    return found


def wav(channels: int, rate: int, bits: int, data: bytes, claimed: int | None = None, coding: int = 1) -> bytes:
    """Return a WAV whose header says what it likes."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", coding, channels & 0xFFFF, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    size = len(data) if claimed is None else claimed
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def sounds() -> Iterator[Case]:
    """Give sounds that mean harm."""
    good = good_sounds()
    for kind, data in good.items():
        yield from cut_and_flipped(kind, data)
        yield Case(f"wrong-suffix-{kind}.png", data)
        yield Case(f"polyglot-{kind}.html", data + NOT_MEDIA["html"])
        yield Case(f"long-tag-{kind}.mp3", b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + data)
    for channels, rate in itertools.product((0, 1, 1024, 65_535), (0, 1, 22_050, 2**32 - 1)):
        yield Case(f"header-{channels}-{rate}.wav", wav(channels, rate, 16, b"\1\0" * 64))
    yield Case("claims-4-gigabytes.wav", wav(1, 22050, 16, b"\1\0" * 64, claimed=2**32 - 1))
    yield Case("no-samples.wav", wav(1, 22050, 16, b""))
    for value in (math.nan, math.inf, -math.inf, 1e38):
        yield Case(f"values-{value}.wav", wav(1, 22050, 32, struct.pack("<f", value) * 64, coding=3))
    yield from (Case(f"{name}.wav", data) for name, data in NOT_MEDIA.items())
    yield from noise(8)


def good_videos() -> dict[str, bytes]:
    """Return a short video in several containers."""
    return {kind: video(kind, 6) for kind in ("mp4", "avi", "matroska", "mpegts")}


def video(kind: str, frames: int) -> bytes:
    """Return a silent video of 64 × 48 pixels."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            picture = np.full((48, 64, 3), 40 * number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def videos() -> Iterator[Case]:
    """Give videos that mean harm."""
    for kind, data in good_videos().items():
        yield from cut_and_flipped(kind, data)
        yield Case(f"wrong-suffix-{kind}.jpg", data)
        yield Case(f"polyglot-{kind}.html", data + NOT_MEDIA["html"])
    yield from (Case(f"a-picture-{kind}.mp4", data) for kind, data in good_pictures().items())
    yield from (Case(f"a-sound-{kind}.mp4", data) for kind, data in good_sounds().items())
    yield from (Case(f"{name}.mp4", data) for name, data in NOT_MEDIA.items())
    yield from noise(8)


def prompts() -> list[str]:
    """Return texts that mean harm, or only look like it."""
    marks = [chr(code) for code in (*range(32), 0x7F, *range(0x80, 0xA0))]
    marks += [chr(code) for code in (0x200B, 0x200D, 0x200E, 0x202A, 0x202E, 0x2066, 0x2069, 0xFEFF, 0xFFFE, 0x10FFFF)]
    marks += [chr(code) for code in (0xD800, 0xDBFF, 0xDC00, 0xDFFF)]
    attacks = [
        "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "{}", "{0}", "{prompt!r}", "{{7*7}}", "${7*7}",
        "%s%n%x", "'; DROP TABLE ratings; --", '" OR 1=1', "../../etc/passwd", "..\\..\\boot.ini", "/etc/passwd",
        "file:///etc/passwd", "$(touch pwned)", "`touch pwned`", "| touch pwned", "; touch pwned", "&& touch pwned",
        "-rf", "--help", "CON", "NUL", "a" * 500, "é" * 500, "🔊" * 500, "a\u0300" * 250, "ﷺ" * 500,
        "\u202eabc", "שלום",
        "مرحبا", "😀", "👩‍👩‍👧‍👦", "１２３", "ß", "İ", "ﬁ", "nan", "NaN", "Infinity", "null", "undefined", "true", "0",
        "-1", "1e309",
        "data:text/html,<b>", "javascript:alert(1)", "=cmd|'/c calc'!A0", "@SUM(1)", "[CLS] [SEP] [MASK]",
        "<|endoftext|>", "<start_of_text>", "__class__.__mro__", "{prompt.__class__.__init__.__globals__}",
        "\\x00\\n", "%00", "%2e%2e%2f", "a\nb\nSet-Cookie: x=1", "a\r\n\r\nHTTP/1.1 200 OK", '{"fn_index": 0}',
    ]  # fmt: skip
    return [f"a dog{mark}barks" for mark in marks] + attacks


NOT_TEXT: tuple[Any, ...] = (
    None, 0, -1, 1.5, math.nan, True, b"a", [], {}, ["a"], {"path": "/etc/passwd"}, "", " ", "\n\t", "a" * 501,
    "a" * 1_000_000, [[[[]]]], object,
)  # fmt: skip
"""What is no prompt."""

HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, math.nan, math.inf, -math.inf, -1, 2**63, 10**400, 1e308, "25", "NaN", "", [], {}, "{}{}", "a" * 10_000,
    b"1", 0.5, [1], {"a": 1}, "\0", object(),
)  # fmt: skip
"""What settings are set to."""


def payloads() -> Iterator[tuple[str, Any]]:
    """Give a setting's name and a value for it, for every setting there is."""
    from clipsonic.config import GenerationSettings

    for name in GenerationSettings().to_dict():
        yield from ((name, value) for value in HOSTILE_VALUES)


def deep_json(depth: int) -> bytes:
    """Return JSON of that many brackets."""
    return b'{"data": ' + b"[" * depth + b"]" * depth + b"}"


MEDIA: dict[str, Callable[[], Iterator[Case]]] = {"picture": pictures, "sound": sounds, "video": videos}
