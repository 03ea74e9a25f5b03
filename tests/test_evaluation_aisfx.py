"""The aiSFX embedding against its own package's pipeline (Essentia's spectrogram and the authors' network)."""

import numpy as np
import pytest
import torch

from clipsonic.errors import CheckpointError, DataError
from clipsonic.evaluation.aisfx import LOG_MAXIMUM, SAMPLE_RATE, AisfxEmbedder, spectrogram

LARGEST = {
    294: 7.64972, 433: 6.70315, 331: 6.08129, 65: 5.59046, 389: 5.43479,
    161: 5.39059, 289: 5.3593, 170: 5.34338, 248: 5.3146, 449: 5.18112,
}  # fmt: skip
"""The authors' pipeline on `sweep`: coordinates and values of the ten largest."""


@pytest.fixture(scope="module")
def embedder() -> AisfxEmbedder:
    try:
        return AisfxEmbedder()
    except DataError as error:
        pytest.skip(f"the aisfx package cannot be fetched: {error}")


def sweep() -> np.ndarray:
    t = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    tone = 0.5 * np.sin(2 * np.pi * (200 * t + 300 * t**2)) * np.exp(-t)
    beeps = 0.05 * np.sin(2 * np.pi * 5000 * t) * (t % 0.5 < 0.1)
    return (tone + beeps).astype(np.float32)


def test_embedding_is_the_packages_own(embedder):
    embedding = embedder.embed(torch.from_numpy(sweep())[None], SAMPLE_RATE)[0]
    assert embedding.shape == (512,)
    torch.testing.assert_close(embedding[list(LARGEST)], torch.tensor(list(LARGEST.values())), atol=1e-3, rtol=0)
    assert embedding.argsort(descending=True)[:10].tolist() == list(LARGEST)


def test_spectrogram_is_essentias():
    mel = spectrogram(torch.from_numpy(sweep())[None])[0] * LOG_MAXIMUM
    expected = [0.0, 0.0, 0.0003, 0.0118, 7.1537, 0.0073, 0.0001, 0.0, 0.0, 0.0]
    assert mel.shape == (131, 96)
    torch.testing.assert_close(mel[60, :60:6], torch.tensor(expected), atol=1e-3, rtol=0)


def test_a_sound_does_not_depend_on_its_batch(embedder):
    generator = torch.Generator().manual_seed(0)
    sounds = torch.rand(3, 22050, generator=generator) * 2 - 1
    together = embedder.embed(sounds, 22050)
    torch.testing.assert_close(embedder.embed(sounds[1:2], 22050), together[1:2])
    assert torch.equal(together, embedder.embed(sounds, 22050))
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_short_and_silent_sounds_are_embedded(embedder):
    assert torch.isfinite(embedder.embed(torch.zeros(1, 10), 22050)).all()


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="aisfx"):
        AisfxEmbedder(path)
