"""What the denoiser learns from, computed once per corpus and CLIP: log-mels and embeddings of the frames."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from clipsonic.audio import log_mel
from clipsonic.clip import ClipEncoder
from clipsonic.config import MelConfig
from clipsonic.device import Accelerator
from clipsonic.errors import DataError
from clipsonic.shards import Index, Sample, clip_sha256, read_samples
from clipsonic.storage import write_whole

BATCH = 64
T = TypeVar("T")


class FrameSoundDataset(Dataset[dict[str, Tensor]]):
    """Pairs of a sound and the CLIP image embeddings of its video's frames; nothing else of a sample is read.

    An item is `mel` (natural log, float32, shape (n_mels, frames)) and `embeddings` (L2-normalised, float32, shape
    (pictures, embedding_dim)).
    """

    def __init__(self, mels: Tensor, embeddings: Tensor) -> None:
        """Hold float16 tensors of shapes (samples, n_mels, frames) and (samples, pictures, embedding_dim)."""
        self.mels, self.embeddings = mels, embeddings

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self.mels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one video's mel and embeddings."""
        return {"mel": self.mels[index].float(), "embeddings": self.embeddings[index].float()}


def load_features(
    shards: Path, clip_folder: Path, mel: MelConfig, *, pictures: int, split: str = "train"
) -> FrameSoundDataset:
    """Read the features of a split from the cache in the shards' folder, computing them first if they are not there.

    Args:
        shards: What `prepare` wrote.
        clip_folder: The CLIP part whose image embeddings are wanted.
        mel: The mel settings.
        pictures: How many frames of each video to embed, evenly spaced.
        split: Which shards.

    Raises:
        DataError: The shards are missing or damaged.
        CheckpointError: CLIP cannot be loaded.
    """
    path = shards / "cache" / f"{split}-{_fingerprint(shards, clip_folder, mel, pictures)}.safetensors"
    if not path.is_file():
        mels, embeddings = _compute(shards, clip_folder, mel, pictures, split)
        with write_whole(path) as temporary:
            save_file({"mels": mels, "embeddings": embeddings}, temporary)
    tensors = load_file(path)
    return FrameSoundDataset(tensors["mels"], tensors["embeddings"])


def evenly(count: int, most: int) -> list[int]:
    """Return the numbers of all of so many rows or, of more than `most`, those of an even selection."""
    kept = min(most, count)
    return [round(n * (count - 1) / max(kept - 1, 1)) for n in range(kept)]


def _fingerprint(shards: Path, clip_folder: Path, mel: MelConfig, pictures: int) -> str:
    """Name what the features depend on: the shards, CLIP's weights, the mel settings and the number of frames."""
    text = Index.read(shards).to_json() + clip_sha256(clip_folder) + mel.to_json() + str(pictures)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@torch.inference_mode()
def _compute(shards: Path, clip_folder: Path, mel: MelConfig, pictures: int, split: str) -> tuple[Tensor, Tensor]:
    stored = Index.read(shards).clip_sha256 == clip_sha256(clip_folder)
    embed = _stored_embeddings if stored else _Embedder(clip_folder)
    mels, embeddings = [], []
    samples = tqdm(read_samples(shards, split, frames=not stored), desc=f"{split} features", unit="clip")
    for batch in _batches(samples, BATCH):
        waveforms = torch.stack([torch.from_numpy(sample.waveform) for sample in batch])
        mels.append(log_mel(waveforms, mel).half())
        embeddings.append(embed(batch, pictures))
    return torch.cat(mels), torch.cat(embeddings)


def _chosen(count: int, pictures: int) -> slice:
    """Say which of a video's frames are taken: at most `pictures`, evenly spaced."""
    return slice(None, None, -(-count // pictures))


def _stored_embeddings(batch: list[Sample], pictures: int) -> Tensor:
    """Take what `prepare` computed with the same CLIP; float16, shape (samples, pictures, embedding_dim)."""
    arrays = [sample.embeddings for sample in batch if sample.embeddings is not None]
    if len(arrays) < len(batch):
        raise DataError("the shards' index names a CLIP, but a sample has no embeddings; prepare the shards again")
    return torch.stack([torch.from_numpy(array[_chosen(len(array), pictures)]) for array in arrays])


class _Embedder:
    """Embeds frames, for shards that hold no embeddings or those of another CLIP."""

    def __init__(self, clip_folder: Path) -> None:
        self._accelerator = Accelerator.choose("auto")
        self._clip = ClipEncoder.load(clip_folder, self._accelerator.device)

    def __call__(self, batch: list[Sample], pictures: int) -> Tensor:
        """Return float16 embeddings, shape (samples, pictures, embedding_dim)."""
        chosen = [frame for sample in batch for frame in sample.frames[_chosen(len(sample.frames), pictures)]]
        with self._accelerator.autocast():
            embedded = self._clip.encode_images(chosen)
        return embedded.half().cpu().unflatten(0, (len(batch), -1))


def _batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
