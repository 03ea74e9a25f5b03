"""The CLAP score: how near a sound is to its prompt in the space of a contrastive language-audio model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clipsonic.audio import resample
from clipsonic.errors import CheckpointError

CHECKPOINT = "laion/clap-htsat-unfused"
SAMPLE_RATE = 48000


class Clap:
    """Embeds sounds and texts with `transformers.ClapModel` (Wu et al., arXiv 2211.06687).

    The score of a sound is the plain cosine to its prompt's embedding, neither cut off at zero nor scaled. Scores of
    different checkpoints are not comparable.
    """

    def __init__(self, checkpoint: str = CHECKPOINT, device: str | torch.device = "cpu") -> None:
        """Load the model.

        Args:
            checkpoint: A hub id or a folder.
            device: Where to compute.

        Raises:
            CheckpointError: It cannot be had.
        """
        from transformers import AutoFeatureExtractor, AutoTokenizer, ClapModel

        self.device, self.checkpoint = torch.device(device), checkpoint
        try:
            self._model = ClapModel.from_pretrained(checkpoint).eval().to(self.device)
            self._extract = AutoFeatureExtractor.from_pretrained(checkpoint)
            self._tokenize = AutoTokenizer.from_pretrained(checkpoint)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(
                f"cannot load CLAP {checkpoint}: {reason}; connect to the hub, "
                "or give a downloaded folder as --clap-model"
            ) from error

    @torch.inference_mode()
    def embed(self, waveforms: Tensor, sample_rate: int) -> Tensor:
        """Embed sounds.

        Args:
            waveforms: Sound in [-1, 1], float32, shape (batch, samples); the first 10 s count.
            sample_rate: In Hz.

        Returns:
            L2-normalised embeddings, float32, shape (batch, dim), on the CPU.
        """
        sounds = list(resample(waveforms.numpy(), sample_rate, SAMPLE_RATE))
        # A sound longer than the window is otherwise cropped at random.
        sounds = [sound[: int(self._extract.nb_max_samples)] for sound in sounds]
        features = self._extract(sounds, sampling_rate=SAMPLE_RATE, return_tensors="pt").to(self.device)
        return _normalised(self._model.get_audio_features(**features))

    @torch.inference_mode()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Embed texts, L2-normalised, float32, shape (texts, dim), on the CPU."""
        tokens = self._tokenize(texts, padding=True, return_tensors="pt").to(self.device)
        return _normalised(
            self._model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        )


def _normalised(features: object) -> Tensor:
    """Return features as unit vectors; transformers wraps them in an output object since version 5."""
    tensor = getattr(features, "pooler_output", features)
    if not isinstance(tensor, Tensor):
        raise CheckpointError(
            f"the CLAP model gave {type(features).__name__}, expected embeddings; update transformers"
        )
    return F.normalize(tensor.float(), dim=-1).cpu()
