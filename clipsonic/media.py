"""Safe decoding of what people hand in: pictures and sounds of any kind, never trusted."""

from __future__ import annotations

import io
import os
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageOps, UnidentifiedImageError

from clipsonic.config import MAX_DURATION_S
from clipsonic.errors import MediaError

Picture = str | Path | bytes | Image.Image | np.ndarray
"""A path, a file's bytes, a PIL image, or a uint8 array of shape (height, width) or (height, width, 3 or 4)."""

SoundSource = str | Path | bytes | tuple[np.ndarray, int]
"""A path, a file's bytes, or a float32 waveform of shape (samples,) with its sample rate in Hz."""

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
MAX_PICTURE_PIXELS = 50_000_000
MAX_PICTURE_SIDE = 16_384
MAX_PICTURE_BYTES = 100_000_000
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 768_000
MAX_AMPLITUDE = 2**31
"""Some write whole numbers of 32 bits as floats; far beyond, networks have no numbers for it."""
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, MemoryError, RuntimeError),
    *(LookupError, TypeError, ArithmeticError, struct.error),
)
"""What Pillow's decoders raise on a file that does not keep to its format."""
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
            check_plain(path, name)
            if path.stat().st_size > MAX_PICTURE_BYTES:
                raise MediaError(f"{name} is over {MAX_PICTURE_BYTES // 10**6} MB; give a smaller picture")
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            if isinstance(error, MediaError):
                raise
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            raise MediaError(f"cannot read the picture {name}: {reason}; give a path to a picture file") from error
    if not data:
        raise MediaError(f"{name} is empty; give a picture file")
    return data


def check_plain(path: Path, name: str) -> None:
    """Refuse what is there but would never end, or never begin, when read: devices, pipes, folders.

    Raises:
        MediaError: It is one of these.
    """
    if path.exists() and not path.is_file():
        raise MediaError(f"{name} is a folder or no plain file; give a path to a file")


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
    except _DAMAGED as error:
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


@dataclass(frozen=True, eq=False)
class Sound:
    """A decoded sound.

    Attributes:
        waveform: Sound in [-1, 1], one channel, float32, shape (samples,).
        sample_rate: In Hz.
    """

    waveform: np.ndarray
    sample_rate: int


def open_sound(source: SoundSource, max_duration_s: float = MAX_DURATION_S) -> Sound:
    """Decode the beginning of one sound, mixed down to one channel.

    Args:
        source: See `SoundSource`; of files, WAV, FLAC, Ogg, MP3 and whatever else libsndfile knows.
        max_duration_s: What lies beyond is not read.

    Returns:
        The sound.

    Raises:
        MediaError: It is missing, is no sound, is empty, or holds what is no number or beyond `MAX_AMPLITUDE`.
    """
    if isinstance(source, tuple):
        sound = _sound_of_array(*source, max_duration_s)
    else:
        sound = _sound_of_file(source, max_duration_s)
    if not sound.waveform.size:
        raise MediaError("the sound is empty; give a longer one")
    if not np.isfinite(sound.waveform).all():
        raise MediaError("the sound holds values that are not numbers; give another")
    if (peak := float(np.abs(sound.waveform).max())) > MAX_AMPLITUDE:
        raise MediaError(f"the sound's values reach {peak:.3g}; allowed: {MAX_AMPLITUDE:,} at most, and usual is 1")
    return sound


def _sound_of_array(waveform: np.ndarray, sample_rate: int, max_duration_s: float) -> Sound:
    array = np.asarray(waveform)
    rate_fits = isinstance(sample_rate, int) and MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.floating) or not rate_fits:
        raise MediaError(
            f"the sound is an array of {array.dtype} and shape {array.shape} at {sample_rate!r} Hz; expected float32 "
            f"of shape (samples,) at {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
        )
    return Sound(array[: round(max_duration_s * sample_rate)].astype(np.float32), sample_rate)


def _sound_of_file(source: str | Path | bytes, max_duration_s: float) -> Sound:
    name = "the sound" if isinstance(source, bytes) else Path(source).name
    try:
        if not isinstance(source, bytes):
            check_plain(Path(source), name)
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            rate = file.samplerate
            if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
                raise MediaError(f"{name} has {rate} samples a second; allowed: {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}")
            samples = file.read(round(max_duration_s * rate), dtype="float32", always_2d=True)
    except (OSError, TypeError, ValueError, soundfile.LibsndfileError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"cannot read {name} as a sound: {error}; give a WAV, FLAC, Ogg or MP3 file") from error
    return Sound(np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32)), rate)
