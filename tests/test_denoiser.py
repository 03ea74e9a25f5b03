"""The denoiser: shapes, folding, conditioning, and a round trip to disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipsonic.config import DenoiserConfig
from clipsonic.denoiser import Denoiser
from clipsonic.errors import CheckpointError, ConfigError

CONFIG = DenoiserConfig(
    embedding_dim=24, channels=(16, 32), attention=(False, True), norm_groups=8, head_dim=16, frames=64
)
TRANSFORMER = DenoiserConfig(
    embedding_dim=24, network="transformer", fold=(80, 8), channels=(32,), layers_per_block=2, head_dim=16, frames=64
)

CONVNEXT = DenoiserConfig(
    embedding_dim=24, network="convnext", fold=(4, 4), channels=(32,), layers_per_block=2, frames=64
)


@pytest.fixture(scope="module", params=[CONFIG, TRANSFORMER, CONVNEXT], ids=["unet", "transformer", "convnext"])
def denoiser(request: pytest.FixtureRequest) -> Denoiser:
    torch.manual_seed(0)
    denoiser = Denoiser(request.param)
    for parameter in denoiser.parameters():  # some networks begin as zero everywhere
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return denoiser.eval()


def query(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(batch, CONFIG.n_mels, CONFIG.frames, generator=generator)
    embedding = torch.nn.functional.normalize(torch.randn(batch, 24, generator=generator), dim=-1)
    return noisy, torch.full((batch,), 500), embedding


def test_velocity_has_the_shape_of_the_mel(denoiser: Denoiser) -> None:
    noisy, timestep, embedding = query()
    velocity = denoiser(noisy, timestep, embedding)
    assert velocity.shape == noisy.shape
    assert velocity.dtype == torch.float32


def test_folding_is_undone_exactly(denoiser: Denoiser) -> None:
    noisy, _, _ = query()
    assert torch.equal(denoiser._unfold(denoiser._fold(noisy)), noisy)


def test_folding_keeps_neighbours_together(denoiser: Denoiser) -> None:
    mel = torch.arange(80 * 64, dtype=torch.float32).reshape(1, 80, 64)
    folded = denoiser._fold(mel)
    bands, steps = denoiser.config.fold
    row = 80 // bands - 1
    patch = mel[0, row * bands : (row + 1) * bands, 2 * steps : 3 * steps]
    assert torch.equal(folded[0, :, row, 2], patch.flatten())


def test_embedding_and_time_change_the_velocity(denoiser: Denoiser) -> None:
    noisy, timestep, embedding = query()
    velocity = denoiser(noisy, timestep, embedding)
    assert not torch.allclose(velocity, denoiser(noisy, timestep, embedding.flip(0)), atol=1e-4)
    assert not torch.allclose(velocity, denoiser(noisy, timestep // 5, embedding), atol=1e-4)


def test_other_lengths_pass(denoiser: Denoiser) -> None:
    noisy = torch.randn(1, 80, 32)
    assert denoiser(noisy, torch.tensor([10]), torch.zeros(1, 24)).shape == noisy.shape


def test_model_space_round_trip_clamps_at_the_floor(denoiser: Denoiser) -> None:
    mel = torch.tensor([[-11.5, -9.0, -5.0, 1.0]])
    back = denoiser.denormalize(denoiser.normalize(mel))
    assert torch.allclose(back, torch.tensor([[-9.0, -9.0, -5.0, 1.0]]), atol=1e-5)


def test_saved_and_loaded_denoisers_agree(denoiser: Denoiser, tmp_path: Path) -> None:
    denoiser.save(tmp_path)
    loaded = Denoiser.load(tmp_path)
    assert loaded.config == denoiser.config
    assert not any(p.requires_grad for p in loaded.parameters())
    # Weights are kept in half precision: eleven bits of mantissa.
    assert torch.allclose(loaded(*query()), denoiser(*query()), atol=2e-2)


def test_weights_of_another_shape_are_refused(denoiser: Denoiser, tmp_path: Path) -> None:
    denoiser.save(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"embedding_dim": 24', '"embedding_dim": 32'))
    with pytest.raises(CheckpointError, match="does not fit"):
        Denoiser.load(tmp_path)


def test_misspelt_key_is_named(denoiser: Denoiser, tmp_path: Path) -> None:
    denoiser.save(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("embedding_dim", "embeding_dim"))
    with pytest.raises(ConfigError, match="embeding_dim"):
        Denoiser.load(tmp_path)
