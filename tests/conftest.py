"""What several test modules share: a whole model folder of tiny random parts."""

from __future__ import annotations

import os

# Before torch is loaded, here and in the processes that tests start: two workers share the machine, results depend on
# the number of threads, and a forked process hangs on the threads of its parent.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from clipsonic.audio_clip import AudioClip, AudioClipConfig
from clipsonic.checkpoint import write_index
from clipsonic.clip import build_model, save_clip
from clipsonic.config import DenoiserConfig, PriorConfig, VocoderConfig
from clipsonic.denoiser import Denoiser
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.prior import DiffusionPrior
from clipsonic.vocoder import SpectralVocoder

EMBEDDING_DIM = 32
FRAMES = 64
CLIP_CONFIG = {
    "model_cfg": {
        "embed_dim": EMBEDDING_DIM,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"size": 32},
}


def save_scheduler(folder: Path) -> None:
    """Write the scheduler part as training does."""
    scheduler = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    scheduler.save_config(folder)


def build_tiny_model(folder: Path, name: str = "tiny") -> Path:
    """Write a model folder of random weights that runs in a blink."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_clip(build_model(CLIP_CONFIG["model_cfg"], folder / "clip"), CLIP_CONFIG, folder / "clip")
        prior = PriorConfig(embedding_dim=EMBEDDING_DIM, num_layers=1, num_attention_heads=2, attention_head_dim=16)
        DiffusionPrior(prior).save(folder / "prior")
        denoiser = DenoiserConfig(
            embedding_dim=EMBEDDING_DIM, frames=FRAMES, fold=(4, 4), channels=(32, 32, 64), head_dim=16, norm_groups=8
        )
        Denoiser(denoiser).save(folder / "denoiser")
        SpectralVocoder(VocoderConfig(dim=16, intermediate_dim=32, num_layers=1)).save(folder / "vocoder")
    save_scheduler(folder / "scheduler")
    write_index(folder, name)
    (folder / "README.md").write_text("# Tiny\n\nRandom weights, for tests.\n")
    return folder


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Let every test train in a precision of its own: Accelerate keeps the first one for the whole process."""
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of random weights; copy it before changing it (`tiny_copy`)."""
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def hearing_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a part that embeds sounds."""
    folder = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("hearing") / "hearing"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AudioClip(AudioClipConfig(embedding_dim=EMBEDDING_DIM, network="mobilenetv3_small_050")).save(
            folder / "audio_clip"
        )
    write_index(folder, "hearing")
    return folder


@pytest.fixture(scope="session")
def hearing_pipeline(hearing_model: Path) -> ClipSonicPipeline:
    """The tiny model with a part that embeds sounds, opened on the CPU."""
    return ClipSonicPipeline.from_pretrained(hearing_model, device="cpu")


@pytest.fixture
def tiny_copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_model: Path) -> ClipSonicPipeline:
    """The tiny model, opened on the CPU."""
    return ClipSonicPipeline.from_pretrained(tiny_model, device="cpu")


@contextmanager
def _small_disk() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk() -> Callable[[], AbstractContextManager[None]]:
    """A block in which no file can grow beyond 4 kB, as on a full disk; pytest's own log must stay outside it."""
    return _small_disk


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every path that Python opens while the test runs."""
    paths: list[str] = []
    watching = [True]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open":
            paths.append(str(arguments[0]))

    sys.addaudithook(hook)  # audit hooks cannot be removed: `watching` ends this one
    yield paths
    watching.clear()
