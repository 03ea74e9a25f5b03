"""The embeddings that a Fréchet distance can be taken in; all but aiSFX are fetched when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipsonic.audio import resample
from clipsonic.errors import CheckpointError
from clipsonic.evaluation.aisfx import AisfxEmbedder
from clipsonic.evaluation.clap import CHECKPOINT, Clap
from clipsonic.evaluation.judge import Embed

EMBEDDINGS = ("aisfx", "vggish", "clap", "panns")
_VGGISH_RATE = 16000
_PANNS_RATE = 32000


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """One of `EMBEDDINGS`.

    Attributes:
        name: What tells its caches apart.
        embed: One vector a sound, float32, shape (batch, dim).
        resampling: What it does to the sample rate.
    """

    name: str
    embed: Embed
    resampling: str


def load_embedding(name: str, device: str | torch.device = "cpu", clap: str = CHECKPOINT) -> Embedding:
    """Load an embedding.

    Args:
        name: One of `EMBEDDINGS`.
        device: Where to compute.
        clap: Hub id or folder of the CLAP model.

    Raises:
        CheckpointError: Its package or weights cannot be had.
    """
    if name == "aisfx":
        return Embedding(name=name, embed=AisfxEmbedder(device=device).embed, resampling="soxr_hq to 44,100 Hz")
    if name == "clap":
        model = Clap(clap, device)
        return Embedding(name=f"clap-{clap}".replace("/", "-"), embed=model.embed, resampling="soxr_hq to 48,000 Hz")
    if name == "vggish":
        return Embedding(name=name, embed=_load_vggish(), resampling="soxr_hq to 16,000 Hz; no PCA, means over frames")
    return Embedding(name=name, embed=_load_panns(device), resampling="soxr_hq to 32,000 Hz")


def _load_vggish() -> Embed:
    """Load VGGish (Hershey et al., arXiv 1609.09430) as the published toolkits do, without its PCA."""
    model: Any = _or_explain(
        lambda: torch.hub.load("harritaylor/torchvggish", "vggish", trust_repo=True),
        "vggish",
        "connect to the network once, and pip install resampy",
    )
    model.postprocess = False
    model.eval()

    @torch.inference_mode()
    def embed(waveforms: Tensor, sample_rate: int) -> Tensor:
        sounds = resample(waveforms.numpy(), sample_rate, _VGGISH_RATE)
        # One frame lasts 0.96 s; a shorter sound would give none.
        sounds = np.pad(sounds, ((0, 0), (0, max(0, _VGGISH_RATE - sounds.shape[1]))))
        return torch.stack([model(sound, _VGGISH_RATE).reshape(-1, 128).mean(0).float().cpu() for sound in sounds])

    return embed


def _load_panns(device: str | torch.device) -> Embed:
    """Load PANNs' CNN14 (Kong et al., arXiv 1912.10211)."""

    def load() -> Any:
        from panns_inference import AudioTagging

        return AudioTagging(checkpoint_path=None, device=str(device))

    model = _or_explain(load, "panns", "pip install panns-inference, and connect to the network once")

    def embed(waveforms: Tensor, sample_rate: int) -> Tensor:
        sounds = resample(waveforms.numpy(), sample_rate, _PANNS_RATE)
        return torch.from_numpy(np.asarray(model.inference(sounds)[1], dtype=np.float32))

    return embed


def _or_explain(load: Callable[[], Any], name: str, advice: str) -> Any:
    """Load third-party code and weights; whatever goes wrong in there is told in one line."""
    try:
        return load()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"the embedding {name} cannot be loaded: {reason}; {advice}, or use --fad aisfx"
        ) from error
