"""Shards: tar files of samples as videos would give them, in the WebDataset layout.

A folder holds `{split}-NNNNNN.tar` and an `index.json`. A sample is `KEY.flac` (its sound track), `KEY.0.jpg`,
`KEY.1.jpg` … (frames of its picture), `KEY.json` (where both come from; never what they show) and, where `prepare` had
a CLIP, `KEY.embeddings.npy` (the frames' embeddings; the index names that CLIP). The splits are "train" and "test",
and "sounds-train" and "sounds-test", which hold source recordings without frames. `labels.csv` beside them says what
each sample shows; only evaluation reads it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import webdataset
from numpy.typing import NDArray
from PIL import Image

from clipsonic.config import Config
from clipsonic.errors import ConfigError, DataError
from clipsonic.storage import sha256, write_text, write_whole

SPLITS = ("train", "test", "sounds-train", "sounds-test")
INDEX_NAME = "index.json"
LABELS_NAME = "labels.csv"
VERSION = 1
JPEG_QUALITY = 90
EMBEDDINGS_NAME = "embeddings.npy"


@dataclass(frozen=True)
class Sample:
    """One video, or one recording if it has no frames.

    Attributes:
        key: Name that is unique in the folder.
        waveform: Sound in [-1, 1], float32, shape (samples,).
        frames: RGB pictures in the order of time.
        provenance: Source recording, packages, paths, licences and attributions.
        sample_rate: Hz.
        embeddings: L2-normalised CLIP embeddings of the frames, float16, shape (frames, embedding_dim), if computed.
    """

    key: str
    waveform: NDArray[np.float32]
    frames: tuple[Image.Image, ...]
    provenance: dict[str, Any]
    sample_rate: int
    embeddings: NDArray[np.float16] | None = None


@dataclass(frozen=True)
class Label:
    """What a sample shows and the recording its sound comes from."""

    key: str
    label: str
    split: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Shard(Config):
    """One tar file of the index."""

    name: str
    samples: int
    sha256: str
    plan: str = ""
    """Fingerprint of what was to be written, to know whether it need be written again."""


@dataclass(frozen=True, kw_only=True)
class Index(Config):
    """What a folder of shards holds."""

    settings: dict[str, Any]
    shards: tuple[Shard, ...] = ()
    sample_rate: int = 22050
    version: int = VERSION
    counts: dict[str, int] = field(default_factory=dict)
    clip_sha256: str = ""
    """Which CLIP the embeddings in the shards come from (`clip_sha256`); empty if there are none."""

    @classmethod
    def read(cls, folder: Path) -> Index:
        """Read a folder's index.

        Raises:
            DataError: There is none, it is damaged, or another version wrote it.
        """
        try:
            index = cls.load(folder / INDEX_NAME)
        except ConfigError as error:
            raise DataError(f"{folder} is no folder of shards: {error}; make one with `clipsonic prepare`") from error
        if index.version != VERSION:
            raise DataError(f"{folder} holds shards of version {index.version}, expected {VERSION}; prepare it again")
        return index

    def write(self, folder: Path) -> None:
        """Write the index whole or not at all.

        Raises:
            OutputError: The folder cannot be written to.
        """
        write_text(folder / INDEX_NAME, self.to_json())


class ShardWriter:
    """Write one tar file; it appears under its name only when the block succeeds.

    The same samples always give the same bytes.
    """

    def __init__(self, path: Path) -> None:
        """Prepare to write `path`, which ends in `.tar`."""
        self.path = path
        self.count = 0

    def __enter__(self) -> ShardWriter:
        """Open a temporary file beside the final one."""
        self._whole = write_whole(self.path)
        self._writer = webdataset.TarWriter(str(self._whole.__enter__()), mtime=0.0, encoder=False)
        return self

    def __exit__(self, *error: Any) -> None:
        """Close the tar and give it its name, or drop it after an error."""
        self._writer.close()
        self._whole.__exit__(*error)

    def write(self, sample: Sample) -> None:
        """Add one sample."""
        self.write_files(sample.key, encode_sample(sample))

    def write_files(self, key: str, files: dict[str, bytes]) -> None:
        """Add one sample as `encode_sample` gives it."""
        self._writer.write({"__key__": key, **files})
        self.count += 1

    def entry(self, plan: str = "") -> Shard:
        """Return the index entry of the finished file."""
        return Shard(name=self.path.name, samples=self.count, sha256=sha256(self.path), plan=plan)


def encode_sample(sample: Sample) -> dict[str, bytes]:
    """Return the files that a shard holds of a sample, by what follows its key in their names."""
    sound = io.BytesIO()
    soundfile.write(sound, sample.waveform, sample.sample_rate, format="FLAC", subtype="PCM_16")
    files = {"flac": sound.getvalue()}
    for number, frame in enumerate(sample.frames):
        picture = io.BytesIO()
        frame.save(picture, "JPEG", quality=JPEG_QUALITY)
        files[f"{number}.jpg"] = picture.getvalue()
    if sample.embeddings is not None:
        files[EMBEDDINGS_NAME] = encode_embeddings(sample.embeddings)
    files["json"] = json.dumps(sample.provenance, sort_keys=True).encode()
    return files


def encode_embeddings(embeddings: NDArray[Any]) -> bytes:
    """Return embeddings, shape (frames, embedding_dim), as the bytes of a float16 `.npy` file."""
    file = io.BytesIO()
    np.save(file, embeddings.astype(np.float16), allow_pickle=False)
    return file.getvalue()


def decode_frames(files: dict[str, bytes]) -> tuple[Image.Image, ...]:
    """Return the RGB pictures of a sample's files in the order of time."""
    names = sorted((name for name in files if name.endswith(".jpg")), key=lambda name: int(name.partition(".")[0]))
    return tuple(Image.open(io.BytesIO(files[name])).convert("RGB") for name in names)


def clip_sha256(folder: Path) -> str:
    """Return what tells one CLIP folder's embeddings from another's.

    Args:
        folder: A CLIP folder with its weights, or with a `config.json` that names a model of open_clip's.

    Returns:
        The SHA-256 of the weights (of their SHA-256s if there are several files), or of the config if none are there.

    Raises:
        DataError: There is no CLIP in the folder.
    """
    paths = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("config.json"))
    if not paths:
        raise DataError(f"{folder} holds no CLIP: neither weights nor a config.json; give a model folder that has one")
    sums = [sha256(path) for path in paths]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def read_samples(folder: Path, split: str, *, frames: bool = True, sounds: bool = True) -> Iterator[Sample]:
    """Read a split's samples in the order they were written.

    Args:
        folder: Folder of shards.
        split: One of `SPLITS`.
        frames: Whether to decode the pictures.
        sounds: Whether to decode the sounds; without, waveforms have no samples.

    Yields:
        The samples.

    Raises:
        DataError: The split is unknown or absent, or a shard is damaged.
    """
    rate = Index.read(folder).sample_rate
    for path in _shard_paths(folder, split):
        try:
            for files in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False):
                yield _decode(files, rate, frames, sounds)
        except (OSError, ValueError, KeyError, tarfile.TarError, soundfile.LibsndfileError) as error:
            raise DataError(f"{path} is damaged: {error}; prepare the shards again") from error


def _shard_paths(folder: Path, split: str) -> list[Path]:
    if split not in SPLITS:
        raise DataError(f"there is no split {split!r}; allowed: {', '.join(SPLITS)}")
    paths = [folder / shard.name for shard in Index.read(folder).shards if shard.name.rsplit("-", 1)[0] == split]
    if not paths:
        raise DataError(f"{folder} has no {split} shards; prepare the corpus first")
    if missing := [path.name for path in paths if not path.is_file()]:
        raise DataError(f"{folder} lacks {', '.join(missing)}, which its index names; prepare the shards again")
    return paths


def _decode(files: dict[str, Any], rate: int, frames: bool, sounds: bool) -> Sample:
    waveform = np.zeros(0, dtype=np.float32)
    if sounds:
        waveform, rate = soundfile.read(io.BytesIO(files["flac"]), dtype="float32")
    embeddings = np.load(io.BytesIO(files[EMBEDDINGS_NAME])) if EMBEDDINGS_NAME in files else None
    pictures = decode_frames(files) if frames else ()
    return Sample(files["__key__"], waveform, pictures, json.loads(files["json"]), rate, embeddings)


def read_labels(folder: Path) -> dict[str, Label]:
    """Read what every sample shows, by key; for evaluation alone.

    Raises:
        DataError: `labels.csv` is missing or malformed.
    """
    path = folder / LABELS_NAME
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {
                row["key"]: Label(row["key"], row["label"], row["split"], row["source"]) for row in csv.DictReader(file)
            }
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}; prepare the shards again") from error


def write_labels(folder: Path, labels: Iterable[Label]) -> None:
    """Write what every sample shows beside the shards.

    Raises:
        OutputError: The folder cannot be written to.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "label", "split", "source"])
    writer.writerows([label.key, label.label, label.split, label.source] for label in labels)
    write_text(folder / LABELS_NAME, text.getvalue())
