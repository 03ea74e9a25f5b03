"""The vocoder: shapes, framing, determinism, files, and BigVGAN in the hub's layout."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from clipsonic.audio import log_mel
from clipsonic.config import MelConfig, VocoderConfig
from clipsonic.errors import CheckpointError, ConfigError
from clipsonic.vocoder import BigVGANVocoder, SpectralVocoder, load_vocoder

MEL = MelConfig()
TINY = VocoderConfig(dim=16, intermediate_dim=32, num_layers=2, refinements=2)


def tone(frames: int = 48, frequency: float = 440.0) -> torch.Tensor:
    seconds = torch.arange(frames * MEL.hop_length) / MEL.sample_rate
    return 0.5 * torch.sin(2 * math.pi * frequency * seconds)


@pytest.fixture
def vocoder() -> SpectralVocoder:
    torch.manual_seed(0)
    return SpectralVocoder(TINY).eval()


def test_inverse_stft_undoes_the_stft(vocoder: SpectralVocoder) -> None:
    sound = torch.randn(2, 20 * MEL.hop_length)
    assert torch.allclose(vocoder.istft(vocoder.stft(sound)), sound, atol=1e-4)


def test_frames_are_those_of_the_mel(vocoder: SpectralVocoder) -> None:
    """A click lies in the frames of the spectrum that it lies in in the mel."""
    sound = torch.zeros(1, 20 * MEL.hop_length)
    sound[0, 10 * MEL.hop_length] = 1
    loud_mel = log_mel(sound, MEL)[0].amax(0) > MEL.log_floor + 1
    loud_spectrum = vocoder.stft(sound)[0].abs().amax(0) > 1e-3
    assert torch.equal(loud_mel, loud_spectrum)


@pytest.mark.parametrize("frames", [1, 7, 352])
def test_sound_is_frames_times_hop_long_and_bounded(vocoder: SpectralVocoder, frames: int) -> None:
    decoded = vocoder.decode(torch.full((2, MEL.n_mels, frames), 3.0))
    assert decoded.shape == (2, frames * MEL.hop_length)
    assert decoded.dtype == torch.float32
    assert decoded.abs().max() <= 1


def test_same_mel_same_sound_whatever_else_is_in_the_batch(vocoder: SpectralVocoder) -> None:
    mel = log_mel(torch.stack((tone(), tone(frequency=1000))), MEL)
    together = vocoder.decode(mel)
    assert torch.equal(vocoder.decode(mel), together)
    assert torch.allclose(vocoder.decode(mel[1:]), together[1:], atol=1e-4)


def test_silence_stays_silent(vocoder: SpectralVocoder) -> None:
    assert vocoder.decode(torch.full((1, MEL.n_mels, 32), MEL.log_floor)).abs().max() < 1e-3


def test_level_goes_through(vocoder: SpectralVocoder) -> None:
    """Even untrained, the refinements bring the mel out at its level."""
    vocoder.config = dataclasses.replace(TINY, refinements=16)
    noise = 0.1 * torch.randn(1, 64 * MEL.hop_length, generator=torch.Generator().manual_seed(1))
    mel = log_mel(noise, MEL)
    assert (log_mel(vocoder.decode(mel), MEL) - mel).abs().mean() < 0.15


def test_refinements_bring_the_mel_nearer(vocoder: SpectralVocoder) -> None:
    mel = log_mel(tone()[None], MEL)
    distances = []
    for refinements in (0, 4, 16):
        vocoder.config = dataclasses.replace(TINY, refinements=refinements)
        distances.append((log_mel(vocoder.decode(mel), MEL) - mel).abs().mean().item())
    assert distances[0] > distances[1] > distances[2]


def test_gradients_reach_every_parameter(vocoder: SpectralVocoder) -> None:
    mel = log_mel(tone()[None], MEL)
    vocoder.render(mel, vocoder.analyse(mel), torch.randn(1, 48 * MEL.hop_length), 1).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vocoder.parameters())


def test_saved_vocoder_sounds_the_same(vocoder: SpectralVocoder, tmp_path: Path) -> None:
    vocoder.save(tmp_path)
    loaded = load_vocoder(tmp_path)
    assert isinstance(loaded, SpectralVocoder)
    assert loaded.config == TINY
    weights = vocoder.state_dict()
    assert all(torch.allclose(value, weights[name], atol=1e-3) for name, value in loaded.state_dict().items())
    mel = log_mel(tone()[None], MEL)
    assert torch.equal(loaded.decode(mel), load_vocoder(tmp_path).decode(mel))


def test_damaged_folders_are_told(vocoder: SpectralVocoder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_vocoder(tmp_path)
    vocoder.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="fetch the model again"):
        load_vocoder(tmp_path)
    SpectralVocoder(dataclasses.replace(TINY, dim=24)).save(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").rename(weights)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_vocoder(tmp_path)
    (tmp_path / "config.json").write_text('{"depth": 3}')
    with pytest.raises(ConfigError, match="no setting depth"):
        load_vocoder(tmp_path)


HUB_CONFIG = {
    "resblock": "1",
    "num_gpus": 0,
    "upsample_rates": [8, 8, 2, 2],
    "upsample_kernel_sizes": [16, 16, 4, 4],
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 5]],
    "use_tanh_at_final": False,
    "use_bias_at_final": False,
    "activation": "snakebeta",
    "snake_logscale": True,
    "num_mels": 80,
    "n_fft": 1024,
    "hop_size": 256,
    "win_size": 1024,
    "sampling_rate": 22050,
    "fmin": 0,
    "fmax": 8000,
}


def write_hub_layout(folder: Path, *, weight_norm: bool = True, **changes: object) -> BigVGANVocoder:
    """Write a small random BigVGAN as it lies on the hub; return it."""
    torch.manual_seed(0)
    made = BigVGANVocoder({**HUB_CONFIG, **changes})
    if not weight_norm:
        made.fold_weight_norm()
    (folder / "config.json").write_text(json.dumps({**HUB_CONFIG, **changes}))
    torch.save({"generator": made.network.state_dict()}, folder / "bigvgan_generator.pt")
    return made.eval()


@pytest.mark.parametrize("weight_norm", [True, False])
def test_bigvgan_loads_from_the_hub_layout(tmp_path: Path, weight_norm: bool, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("bigvgan.bigvgan", exc_type=ImportError)
    made = write_hub_layout(tmp_path, weight_norm=weight_norm)
    loaded = load_vocoder(tmp_path)
    assert loaded.mel == MEL
    mel = log_mel(tone(16)[None], MEL)
    decoded = loaded.decode(mel)
    assert decoded.shape == (1, 16 * MEL.hop_length)
    assert torch.allclose(decoded, made.decode(mel), atol=1e-5)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert capsys.readouterr().out == ""


def test_bigvgan_settings_become_the_mel(tmp_path: Path) -> None:
    pytest.importorskip("bigvgan.bigvgan", exc_type=ImportError)
    write_hub_layout(tmp_path, fmax=None, num_mels=100, sampling_rate=24000)
    assert load_vocoder(tmp_path).mel == MelConfig(sample_rate=24000, n_mels=100, fmax=12000.0)


def test_damaged_bigvgan_is_told(tmp_path: Path) -> None:
    pytest.importorskip("bigvgan.bigvgan", exc_type=ImportError)
    write_hub_layout(tmp_path)
    weights = tmp_path / "bigvgan_generator.pt"
    whole = weights.read_bytes()
    for content in (b"", whole[:5000]):
        weights.write_bytes(content)
        with pytest.raises(CheckpointError, match="bigvgan_generator"):
            load_vocoder(tmp_path)
    torch.save({"discriminator": {}}, weights)
    with pytest.raises(CheckpointError, match="generator"):
        load_vocoder(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="bigvgan_generator"):
        load_vocoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**HUB_CONFIG, "win_size": 512}))
    with pytest.raises(CheckpointError, match="win_size"):
        load_vocoder(tmp_path)


def test_without_the_package_bigvgan_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bigvgan.bigvgan", None)
    with pytest.raises(CheckpointError, match="pip install --no-deps bigvgan"):
        BigVGANVocoder(dict(HUB_CONFIG))


def test_unsafe_pickles_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("bigvgan.bigvgan", exc_type=ImportError)
    write_hub_layout(tmp_path)
    torch.save({"generator": Path("/")}, tmp_path / "bigvgan_generator.pt")
    with pytest.raises(CheckpointError):
        load_vocoder(tmp_path)
