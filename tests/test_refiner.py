"""The refiner: trained for a denoiser, loaded with it, and heard."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipsonic import ClipSonicPipeline
from clipsonic.checkpoint import ModelFolder, write_index
from clipsonic.cli import main
from clipsonic.config import DenoiserConfig, GenerationSettings
from clipsonic.denoiser import Denoiser
from clipsonic.errors import CheckpointError
from clipsonic.training.recipe import Recipe
from clipsonic.training.refiner import build
from tests.conftest import EMBEDDING_DIM, FRAMES
from tests.test_training import write_corpus

MODEL = {
    "embedding_dim": EMBEDDING_DIM,
    "network": "convnext",
    "frames": FRAMES,
    "fold": [4, 4],
    "channels": [16],
    "layers_per_block": 1,
    "below_timestep": 600,
}
TASK = {"crop_share": 1.0, "crop_frames": 32, "whiten": True, "condition_steps": 3}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), "thing")


def write_recipe(folder: Path, **model: object) -> Path:
    training = {"batch_size": 4, "max_steps": 6, "learning_rate": 1e-2, "warmup_steps": 1, "mixed_precision": "no"}
    path = folder / "recipe.json"
    values = {"training": {**training, "sample_every": 3}, "model": {**MODEL, **model}, "task": TASK}
    path.write_text(json.dumps(values))
    return path


def train(recipe: Path, corpus: Path, base: Path, out: Path, *more: str) -> int:
    paths = ["--config", str(recipe), "--data", str(corpus), "--base", str(base), "--out", str(out)]
    return main(["train", "refiner", *paths, *more])


def test_a_trained_refiner_is_part_of_the_model_and_changes_the_sound(
    corpus: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert train(write_recipe(tmp_path), corpus, tiny_model, out) == 0
    assert (
        load_file(out / "denoiser/model.safetensors").keys()
        == load_file(tiny_model / "denoiser/model.safetensors").keys()
    )
    assert sorted(path.name for path in (out / "samples").glob("*.png")) == ["0000003.png", "0000006.png"]
    settings = GenerationSettings(methods=("zs",), num_inference_steps=5, seed=1)
    stages: list[str] = []
    whole = ClipSonicPipeline.from_pretrained(out, device="cpu")
    refined = whole("dog", settings=settings, callback=lambda progress: stages.append(progress.stage)).audios[0]
    plain = ClipSonicPipeline.from_pretrained(tiny_model, device="cpu")("dog", settings=settings).audios[0]
    assert "loading refiner" in stages
    assert refined.waveform.shape == plain.waveform.shape
    assert abs(refined.mel - plain.mel).mean() > 0.01
    assert whole.folder.sha256 != ModelFolder.open(tiny_model).sha256


def test_it_sees_little_noise_only_and_none_of_the_denoiser_s_weights_change(
    corpus: Path, tiny_model: Path, tmp_path: Path
) -> None:
    recipe = Recipe.find("refiner", str(write_recipe(tmp_path)))
    task = build(recipe, corpus, tiny_model)
    times = task._timesteps(4096, torch.Generator().manual_seed(0))
    assert (times.min().item(), times.max().item()) == (0, 599)
    assert torch.equal(task.denoiser.null_embedding, Denoiser.load(tiny_model / "denoiser").null_embedding)
    assert not any(parameter is task.denoiser.null_embedding for parameter in task.phases()["main"])


def test_training_goes_on_from_a_models_refiner(corpus: Path, tiny_model: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    assert train(recipe, corpus, tiny_model, tmp_path / "one") == 0
    values = json.loads(recipe.read_text())
    recipe.write_text(json.dumps({**values, "training": {**values["training"], "learning_rate": 0.0}}))
    assert train(recipe, corpus, tiny_model, tmp_path / "two", "--init-from", str(tmp_path / "one")) == 0
    one, two = (Denoiser.load(tmp_path / name / "refiner") for name in ("one", "two"))
    noisy, times = torch.randn(2, 80, FRAMES), torch.tensor([10.0, 500.0])
    embeddings = torch.nn.functional.normalize(torch.randn(2, EMBEDDING_DIM), dim=-1)
    assert torch.allclose(one(noisy, times, embeddings), two(noisy, times, embeddings), atol=2e-2)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ({"below_timestep": 1000}, "a refiner needs it below 1000"),
        ({"below_timestep": 0}, "below_timestep is 0; allowed: 1 to 1000"),
        ({"channels": [16, 32]}, "a convnext has one width"),
        ({"mel_std": 3.0}, "the refiner's mel_std is 3.0, its denoiser's 2.2"),
    ],
)
def test_a_wrong_recipe_is_told(
    model: dict, complaint: str, corpus: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(write_recipe(tmp_path, **model), corpus, tiny_model, tmp_path / "out") == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert complaint in told[0]
    assert not (tmp_path / "out").exists()


def test_a_refiner_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    Denoiser(DenoiserConfig.from_dict({**MODEL, "embedding_dim": 8})).save(folder / "refiner")
    write_index(folder, "wrong")
    with pytest.raises(CheckpointError, match="refiner does not fit its other parts: its embedding size is 8"):
        ModelFolder.open(folder).part("refiner")
