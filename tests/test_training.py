"""The training loop and the denoiser's task: it learns, resumes to the same weights, and sees no label."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clipsonic.cli import main
from clipsonic.clip import ClipEncoder
from clipsonic.config import DenoiserConfig, MelConfig
from clipsonic.denoiser import Denoiser
from clipsonic.errors import CheckpointError, ConfigError
from clipsonic.shards import Index, Label, Sample, ShardWriter, write_labels
from clipsonic.training.denoiser import DenoiserTask, DenoiserTaskConfig, noise_scheduler
from clipsonic.training.features import FrameSoundDataset, load_features
from clipsonic.training.loop import Trainer
from clipsonic.training.recipe import Recipe

RATE = MelConfig().sample_rate
SAMPLES = 64 * MelConfig().hop_length
MODEL = {
    "embedding_dim": 32,
    "frames": 64,
    "channels": [16, 32],
    "attention": [False, True],
    "norm_groups": 8,
    "head_dim": 16,
}


def write_corpus(folder: Path, name: str) -> Path:
    """Write six videos of two things: a red one that hums and a blue one that hisses."""
    rng = np.random.default_rng(0)
    with ShardWriter(folder / "train-000000.tar") as writer:
        for k in range(6):
            hum = 0.3 * np.sin(2 * np.pi * 220 * np.arange(SAMPLES) / RATE)
            sound = hum if k % 2 else 0.1 * rng.standard_normal(SAMPLES)
            frame = Image.new("RGB", (48, 48), (200, 10 * k, 0) if k % 2 else (0, 10 * k, 200))
            writer.write(Sample(f"v{k}", sound.astype(np.float32), (frame, frame), {"source": f"s{k}"}, RATE))
    Index(settings={}, shards=(writer.entry(),), counts={"train": 6}).write(folder)
    write_labels(folder, [Label(f"v{k}", f"{name} {k % 2}", "train", f"s{k}") for k in range(6)])
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), "thing")


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    training = {"batch_size": 4, "max_steps": 6, "learning_rate": 1e-3, "warmup_steps": 1, "log_every": 2}
    training["mixed_precision"] = "no"  # type: ignore[assignment]
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"training": training, "model": MODEL, "task": {"embedding_noise": 0.1}}))
    return path


def train(recipe: Path, corpus: Path, base: Path, out: Path, *more: str) -> int:
    paths = ["--config", str(recipe), "--data", str(corpus), "--base", str(base), "--out", str(out)]
    return main(["train", "denoiser", *paths, *more])


def test_train_makes_a_whole_model(recipe_file: Path, corpus: Path, tiny_model: Path, tmp_path: Path) -> None:
    from clipsonic import ClipSonicPipeline

    assert train(recipe_file, corpus, tiny_model, tmp_path / "out") == 0
    assert Denoiser.load(tmp_path / "out" / "denoiser").config.channels == (16, 32)
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 6]
    assert all(np.isfinite(line["v_loss"]) for line in lines[:3])
    output = ClipSonicPipeline.from_pretrained(tmp_path / "out", device="cpu")(prompt="a dog", num_inference_steps=2)
    assert np.isfinite(output.waveforms).all()


def test_resumed_training_equals_unbroken(recipe_file: Path, corpus: Path, tiny_model: Path, tmp_path: Path) -> None:
    train(recipe_file, corpus, tiny_model, tmp_path / "whole")
    recipe = Recipe.find("denoiser", str(recipe_file))
    dataset = load_features(corpus, tiny_model / "clip", MelConfig(), pictures=2)
    trainer = Trainer(task(dataset), recipe.training, tmp_path / "broken")
    for _ in range(3):
        trainer._train_step()
        trainer.step += 1
    trainer.save()
    torch.manual_seed(99)  # what a new process would have drawn does not matter
    train(recipe_file, corpus, tiny_model, tmp_path / "broken", "--resume")
    whole, broken = (load_file(tmp_path / name / "denoiser" / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def task(dataset: FrameSoundDataset) -> DenoiserTask:
    """The task as `build` makes it."""
    config = DenoiserTaskConfig(embedding_noise=0.1)
    return DenoiserTask(DenoiserConfig.from_dict(MODEL), config, dataset, seed=0)


def test_loss_falls(corpus: Path, tiny_model: Path) -> None:
    learner = task(load_features(corpus, tiny_model / "clip", MelConfig(), pictures=2))
    optimizer = torch.optim.Adam(learner.parameters(), lr=5e-3)
    batch = {name: torch.stack([learner.dataset[i][name] for i in range(6)]) for name in ("mel", "embeddings")}
    losses = []
    for step in range(80):
        loss, _ = learner.loss(batch, "main", torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


def test_training_reads_no_label_and_no_text(
    opened: list[str], recipe_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("training the denoiser embedded a text")

    monkeypatch.setattr(ClipEncoder, "encode_text", refuse)
    corpora = [write_corpus(tmp_path / name, name) for name in ("cats", "drums")]
    for corpus in corpora:
        train(recipe_file, corpus, tiny_model, corpus / "out")
    assert any("train-000000.tar" in path for path in opened)  # the watch works
    assert not any("labels" in path for path in opened)
    one, other = (load_file(corpus / "out" / "denoiser" / "model.safetensors") for corpus in corpora)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_condition_is_dropped_as_often_as_asked() -> None:
    dataset = FrameSoundDataset(torch.zeros(1, 80, 64).half(), torch.ones(1, 2, 32).half())
    learner = DenoiserTask(DenoiserConfig.from_dict(MODEL), DenoiserTaskConfig(condition_drop=0.25), dataset, seed=0)
    with torch.no_grad():
        learner.denoiser.null_embedding.fill_(7.0)
    conditions = learner._condition(torch.ones(4000, 2, 32), torch.Generator().manual_seed(0))
    assert (conditions[:, 0] == 7.0).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_shift_divides_the_signal_to_noise_ratio() -> None:
    plain, shifted = (noise_scheduler(shift).alphas_cumprod.double()[:990] for shift in (1.0, 4.0))
    ratio = (plain / (1 - plain)) / (shifted / (1 - shifted))
    assert torch.allclose(ratio, torch.full_like(ratio, 16.0), rtol=1e-2)


@pytest.mark.parametrize(("power", "mean"), [(1.0, 1 / 2), (0.6, 1 / 1.6)])
def test_time_power_moves_steps_to_the_noisy_end(power: float, mean: float) -> None:
    dataset = FrameSoundDataset(torch.zeros(1, 80, 64).half(), torch.ones(1, 2, 32).half())
    config = DenoiserTaskConfig(time_power=power)
    times = DenoiserTask(DenoiserConfig.from_dict(MODEL), config, dataset, seed=0)._timesteps(
        1000, torch.Generator().manual_seed(0)
    )
    assert times.float().mean().item() / 1000 == pytest.approx(mean, abs=0.01)
    assert times.min() >= 0
    assert times.max() <= 999


def test_crops_are_of_a_length_the_network_can_halve() -> None:
    dataset = FrameSoundDataset(torch.zeros(1, 80, 64).half(), torch.ones(1, 2, 32).half())
    with pytest.raises(ConfigError, match="multiples of 16"):
        DenoiserTask(
            DenoiserConfig.from_dict(MODEL), DenoiserTaskConfig(crop_share=0.5, crop_frames=24), dataset, seed=0
        )


def test_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="mini, music, tiny"):
        Recipe.find("denoiser", "huge")


@pytest.mark.parametrize("change", [{"training": {"batchsize": 1}}, {"modle": {}}])
def test_misspelt_key_in_a_recipe_is_named(change: dict[str, object], recipe_file: Path) -> None:
    values = json.loads(recipe_file.read_text())
    recipe_file.write_text(json.dumps(values | change))
    with pytest.raises(ConfigError, match="batchsize|modle"):
        Recipe.find("denoiser", str(recipe_file))


def test_resume_without_a_state_says_so(
    recipe_file: Path, corpus: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(recipe_file, corpus, tiny_model, tmp_path / "new", "--resume") == 2
    assert "start without --resume" in capsys.readouterr().err


def test_state_of_another_shape_is_refused(corpus: Path, tiny_model: Path, recipe_file: Path, tmp_path: Path) -> None:
    train(recipe_file, corpus, tiny_model, tmp_path / "out")
    dataset = load_features(corpus, tiny_model / "clip", MelConfig(), pictures=2)
    other = DenoiserTask(
        DenoiserConfig.from_dict({**MODEL, "channels": [8, 16]}), DenoiserTaskConfig(), dataset, seed=0
    )
    with pytest.raises(CheckpointError, match="cannot resume"):
        Trainer(other, Recipe.find("denoiser", str(recipe_file)).training, tmp_path / "out").resume()
