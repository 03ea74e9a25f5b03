"""The comparison of vocoders: its baselines line up in time, its distances mean what they say."""

import json
import math
from pathlib import Path

import pytest
import torch

from clipsonic.audio import log_mel
from clipsonic.cli import build_parser
from clipsonic.config import MelConfig, VocoderConfig
from clipsonic.evaluation import vocoders
from clipsonic.shards import Index, Sample, ShardWriter
from clipsonic.vocoder import SpectralVocoder

MEL = MelConfig()


def test_griffin_lim_keeps_time_and_pitch() -> None:
    sound = torch.zeros(40 * MEL.hop_length)
    start = 20 * MEL.hop_length
    sound[start:] = 0.5 * torch.sin(2 * math.pi * 1000 / MEL.sample_rate * torch.arange(len(sound) - start))
    decoded = vocoders.griffin_lim(log_mel(sound[None], MEL), MEL)[0]
    assert decoded.shape == sound.shape
    onset = int((decoded.abs() > 0.2).nonzero()[0])
    assert abs(onset - start) < MEL.hop_length
    assert abs(int(torch.fft.rfft(decoded).abs().argmax()) - int(torch.fft.rfft(sound).abs().argmax())) <= 4


def test_distances_vanish_only_for_the_same_sound() -> None:
    sound = 0.1 * torch.randn(20000, generator=torch.Generator().manual_seed(0))
    assert vocoders.stft_distances(sound, sound) == (0, 0)
    convergence, distance = vocoders.stft_distances(0.5 * sound, sound)
    assert convergence == pytest.approx(0.5, abs=1e-3)
    assert distance == pytest.approx(math.log(2), abs=1e-2)


def test_command_writes_the_table(tmp_path: Path) -> None:
    torch.manual_seed(0)
    SpectralVocoder(VocoderConfig(dim=16, intermediate_dim=32, num_layers=1)).save(tmp_path / "model" / "vocoder")
    with ShardWriter(tmp_path / "sounds-test-000000.tar") as writer:
        for key in "ab":
            writer.write(Sample(key, 0.1 * torch.randn(9000).numpy(), (), {}, MEL.sample_rate))
    Index(settings={}, shards=(writer.entry(),)).write(tmp_path)
    arguments = [
        "evaluate-vocoder",
        "--model",
        str(tmp_path / "model"),
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path),
    ]
    arguments += ["--vocoders", "griffin-lim", "refinements", "model"]
    parsed = build_parser("evaluate-vocoder").parse_args(arguments)
    assert vocoders.run(parsed) == 0
    rows = json.loads((tmp_path / "vocoders.json").read_text())["rows"]
    assert list(rows) == [vocoders.CONTENDERS[name] for name in ("griffin-lim", "refinements", "model")]
    assert all(row[metric]["n"] == 2 for row in rows.values() for metric in vocoders.METRICS)
    assert (tmp_path / "vocoders.md").read_text().count("\n") == 5
