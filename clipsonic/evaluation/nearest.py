"""What stands at either end of the table: the nearest training sound, which learns nothing, and what an oracle sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from clipsonic.audio import write_audio
from clipsonic.checkpoint import ModelFolder
from clipsonic.config import GenerationSettings
from clipsonic.errors import DataError
from clipsonic.evaluation.bank import DEFAULT_CACHE, Bank, fingerprint, read_cached
from clipsonic.evaluation.sets import Query, Sounds
from clipsonic.media import open_picture
from clipsonic.shards import read_samples
from clipsonic.storage import slug, write_whole

BATCH = 32


class Gallery:
    """The first frames of the bank's training sounds."""

    def __init__(self, folder: Path, model: ModelFolder, bank: Bank, cache: Path = DEFAULT_CACHE) -> None:
        """Embed the frames, or take their embeddings from `cache`.

        Args:
            folder: Folder of shards.
            model: Its CLIP embeds frames and queries.
            bank: Says which sounds can be retrieved.
            cache: Folder for the embeddings.

        Raises:
            DataError: The shards cannot be read or have no frames.
        """
        self._folder, self._clip, self._bank = folder, model.part("clip"), bank
        path = cache.expanduser() / f"frames-{fingerprint(folder)}-{model.part_sha256('clip')[:16]}.safetensors"
        kept = read_cached(path)
        if kept is None:
            kept = self._embed()
            with write_whole(path) as temporary:
                save_file(kept, temporary)
        self._keys = [key for key in bank.keys if key in kept]
        if not self._keys:
            raise DataError(
                f"{folder} has no training frames; leave out the methods retrieval and oracle and the metric condition"
            )
        self._frames = torch.stack([kept[key] for key in self._keys])
        self._labels = dict(zip(bank.keys, bank.labels, strict=True))

    def _embed(self) -> dict[str, Tensor]:
        wanted, keys, frames = set(self._bank.keys), [], []
        kept: dict[str, Tensor] = {}
        samples = tqdm(read_samples(self._folder, "train", sounds=False), desc="frames", unit="", disable=None)
        for sample in samples:
            if sample.key in wanted and sample.frames:
                keys.append(sample.key)
                frames.append(sample.frames[0])
            if len(frames) == BATCH:
                kept |= dict(zip(keys, self._clip.encode_images(frames).cpu().clone(), strict=True))
                keys, frames = [], []
        if frames:
            kept |= dict(zip(keys, self._clip.encode_images(frames).cpu().clone(), strict=True))
        return {key: row.contiguous().clone() for key, row in kept.items()}

    @property
    def things(self) -> list[str]:
        """The things that there are frames of."""
        return sorted({label for key in self._keys if (label := self._labels[key])})

    def centre(self, label: str) -> Tensor:
        """Return the mean of a thing's frames, one of each of its sounds in the bank.

        Returns:
            L2-normalised, float32, shape (embedding_dim,).

        Raises:
            DataError: There is no frame of it.
        """
        own = [row for key, row in zip(self._keys, self._frames, strict=True) if self._labels[key] == label]
        if not own:
            raise DataError(f"{self._folder} has no training frame of {label!r}; leave out the method oracle")
        return F.normalize(torch.stack(own).mean(dim=0), dim=0)

    def retrieve(self, queries: Sequence[Query], settings: GenerationSettings, folder: Path) -> Sounds:
        """Answer each query by training sounds, the first seed by the nearest, the second by the next, and so on.

        Args:
            queries: All by prompts or all by pictures.
            settings: Says in which template prompts are read.
            folder: Where to write the sounds.

        Raises:
            DataError: The shards cannot be read.
        """
        asked: dict[bytes, int] = {}
        chosen = []
        for query in queries:
            embedding = self._query(query, settings)
            order = (self._frames @ embedding).argsort(descending=True, stable=True).tolist()
            first = asked.get(embedding.numpy().tobytes(), 0)
            asked[embedding.numpy().tobytes()] = first + query.seeds
            chosen += [(query, self._keys[order[n % len(order)]]) for n in range(first, first + query.seeds)]
        waveforms, rate = self._read({key for _, key in chosen})
        sounds = Sounds(waveforms=[], labels=[], sample_rate=rate)
        for number, (query, key) in enumerate(chosen):
            path = folder / f"{slug(query.label)}-{number:03d}-{slug(key)}.flac"
            write_audio(path, waveforms[key], rate)
            sounds.add(query, waveforms[key], path)
        return sounds

    def _query(self, query: Query, settings: GenerationSettings) -> Tensor:
        if query.image is not None:
            return self._clip.encode_images([open_picture(query.image)])[0].cpu()
        return self._clip.encode_text([settings.template.replace("{}", query.prompt or "")])[0].cpu()

    def _read(self, keys: set[str]) -> tuple[dict[str, np.ndarray], int]:
        found, rate = {}, 0
        for sample in read_samples(self._folder, "train", frames=False):
            if sample.key in keys:
                found[sample.key], rate = sample.waveform, sample.sample_rate
            if len(found) == len(keys):
                break
        return found, rate
