"""Scores that compare a sound with what was asked for: Clip-Score and CLAP score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipsonic.audio import normalize_loudness
from clipsonic.checkpoint import ModelFolder
from clipsonic.evaluation.clap import Clap
from clipsonic.evaluation.corpus import Held
from clipsonic.evaluation.sets import Sounds
from clipsonic.media import open_picture

Array = NDArray[np.float64]


class ClipScorer:
    """Clip-Score (Sheffer & Adi, arXiv 2211.03089): the cosine of a sound, embedded into CLIP's space, to a query.

    Not multiplied by 100. Each sound is compared with a picture of its thing (`clip_picture`) and with the thing's
    prompt (`clip_prompt`), whatever it was made from, so that all rows share their yardsticks: pictures and texts lie
    apart in CLIP's space, and cosines to one kind are no measure of cosines to the other. A sound that was asked for
    by a picture or a prompt of its own is compared with that one. One model embeds the sounds of all rows.
    """

    def __init__(self, model: ModelFolder, held: Sequence[Held], prompts: Mapping[str, str], template: str) -> None:
        """Embed what sounds are compared with.

        Args:
            model: Has the part "audio_clip".
            held: Held-out videos; their frames stand for their things.
            prompts: Each thing's own prompt.
            template: What prompts are read in.

        Raises:
            CheckpointError: A part cannot be loaded.
        """
        self._clip, self._listener, self._template = model.part("clip"), model.part("audio_clip"), template
        self._texts = {thing: self._text(prompt) for thing, prompt in prompts.items()}
        self._frames: dict[str, list[Tensor]] = {}
        for video in held:
            self._frames.setdefault(video.label, []).append(self._clip.encode_images([video.frame])[0].cpu())

    def scores(self, sounds: Sounds) -> dict[str, Array]:
        """Return the two scores of each sound, shape (sounds,); nan where there is nothing to compare with."""
        own = self._embed(sounds)
        seen: dict[str, int] = {}
        pictures, texts = np.full(len(own), np.nan), np.full(len(own), np.nan)
        for row, (sound, label) in enumerate(zip(own, sounds.labels, strict=True)):
            number = seen[label] = seen.get(label, -1) + 1
            picture = sounds.pictures[row] if sounds.pictures else None
            prompt = sounds.prompts[row] if sounds.prompts else None
            if picture is not None:
                pictures[row] = float(sound @ self._clip.encode_images([open_picture(picture)])[0].cpu())
            elif frames := self._frames.get(label):
                pictures[row] = float(sound @ frames[number % len(frames)])
            text = self._text(prompt) if prompt is not None else self._texts.get(label)
            if text is not None:
                texts[row] = float(sound @ text)
        return {"clip_picture": pictures, "clip_prompt": texts}

    def _embed(self, sounds: Sounds) -> Tensor:
        levelled = [normalize_loudness(waveform, sounds.sample_rate) for waveform in sounds.waveforms]
        return torch.cat([self._listener.embed(torch.from_numpy(w)[None], sounds.sample_rate) for w in levelled])

    def _text(self, prompt: str) -> Tensor:
        return self._clip.encode_text([self._template.replace("{}", prompt)])[0].cpu()


class ClapScorer:
    """The CLAP score of sounds to their own prompt, or to their thing's."""

    def __init__(self, clap: Clap, prompts: Mapping[str, str]) -> None:
        """Take the model, and each thing's own prompt."""
        self._clap, self._prompts = clap, dict(prompts)

    def scores(self, sounds: Sounds) -> Array:
        """Return the cosine of each sound to its prompt, shape (sounds,); nan where it has none."""
        asked = sounds.prompts or [None] * len(sounds.labels)
        texts = [prompt or self._prompts.get(label) for prompt, label in zip(asked, sounds.labels, strict=True)]
        known = sorted({text for text in texts if text is not None})
        rows = dict(zip(known, self._clap.embed_texts(known), strict=True)) if known else {}
        values = np.full(len(texts), np.nan)
        for row, text in enumerate(texts):
            if text is not None:
                waveform = torch.from_numpy(sounds.waveforms[row])[None]
                values[row] = float(self._clap.embed(waveform, sounds.sample_rate)[0] @ rows[text])
        return values
