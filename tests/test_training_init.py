"""Beginning from a trained denoiser, and training behind a whitening map."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from clipsonic.cli import main
from clipsonic.config import DenoiserConfig
from clipsonic.denoiser import Denoiser
from clipsonic.training.denoiser import DenoiserTask, DenoiserTaskConfig, load_initial
from clipsonic.training.features import FrameSoundDataset
from clipsonic.training.head_start import pretrain
from clipsonic.training.loop import Trainer, _precision
from clipsonic.training.recipe import Recipe
from clipsonic.training.translation import translate
from clipsonic.training.whitening import WhitenedLinear
from tests.test_training import MODEL, write_corpus


def skewed(count: int = 400) -> torch.Tensor:
    """Unit-norm embeddings as ill-conditioned as CLIP's, shape (count, 2, 32)."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(0, -2.5, 32)
    return F.normalize(torch.randn(count, 2, 32, generator=generator) * spread + 0.1, dim=-1)


def dataset() -> FrameSoundDataset:
    mels = torch.randn(400, 80, 64, generator=torch.Generator().manual_seed(1)) - 5
    return FrameSoundDataset(mels.half(), skewed().half())


def denoise(denoiser: Denoiser, embeddings: torch.Tensor) -> torch.Tensor:
    noisy = torch.randn(len(embeddings), 80, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return denoiser.eval()(noisy, torch.full((len(embeddings),), 400), embeddings)


def queries(denoiser: Denoiser) -> torch.Tensor:
    """Embeddings like those trained on, one unlike them, and none."""
    strange = F.normalize(torch.randn(1, 32, generator=torch.Generator().manual_seed(3)), dim=-1)
    return torch.cat([skewed()[:3, 0], strange, denoiser.null_embedding.detach()[None]])


def test_whitened_training_starts_as_the_initial_denoiser() -> None:
    torch.manual_seed(5)
    initial = Denoiser(DenoiserConfig.from_dict(MODEL))
    initial.null_embedding.data.normal_(std=0.2)
    expected = denoise(initial, queries(initial))
    task = DenoiserTask(initial.config, DenoiserTaskConfig(whiten=True), dataset(), seed=0, init=initial)
    assert isinstance(task.denoiser.embedding_mlp[0], WhitenedLinear)
    assert torch.allclose(denoise(task.denoiser, queries(task.denoiser)), expected, atol=1e-5)


def test_folding_changes_nothing(tmp_path: Path) -> None:
    task = DenoiserTask(DenoiserConfig.from_dict(MODEL), DenoiserTaskConfig(whiten=True), dataset(), seed=0)
    first = task.denoiser.embedding_mlp[0]
    first.weight.data.add_(torch.randn(first.weight.shape, generator=torch.Generator().manual_seed(4)), alpha=0.02)
    whitened = denoise(task.denoiser, queries(task.denoiser))
    with task.folded() as folded:
        assert type(folded.embedding_mlp[0]) is torch.nn.Linear
        assert torch.allclose(denoise(folded, queries(folded)), whitened, atol=1e-5)
    assert task.denoiser.embedding_mlp[0] is first
    task.save(tmp_path)
    loaded = Denoiser.load(tmp_path / "denoiser")  # in half precision
    assert torch.allclose(denoise(loaded, queries(loaded)), whitened, atol=2e-2)


def test_the_layer_sees_white_embeddings() -> None:
    task = DenoiserTask(DenoiserConfig.from_dict(MODEL), DenoiserTaskConfig(whiten=True), dataset(), seed=0)
    first = task.denoiser.embedding_mlp[0]
    plain = task.dataset.embeddings.flatten(0, 1).float() * 32**0.5
    white = (plain - first.mean) @ first.whiten.T
    conditions = [torch.linalg.cond(torch.cov(x.T.double())).item() for x in (plain, white)]
    assert conditions[0] > 20 * conditions[1]
    assert white.mean(dim=0).abs().max() < 1e-3


def test_whitened_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    training = {"batch_size": 4, "max_steps": 4, "learning_rate": 1e-3, "warmup_steps": 1, "mixed_precision": "no"}
    recipe = Recipe.from_dict({"training": training, "model": MODEL, "task": {"whiten": True}})

    def trainer(out: Path) -> Trainer:
        task = DenoiserTaskConfig.from_dict(recipe.task)
        return Trainer(DenoiserTask(DenoiserConfig.from_dict(MODEL), task, dataset(), seed=0), recipe.training, out)

    trainer(tmp_path / "whole").run()
    broken = trainer(tmp_path / "broken")
    for _ in range(2):
        broken._train_step()
        broken.step += 1
    broken.save()
    resumed = trainer(tmp_path / "broken")
    resumed.resume()
    resumed.run()
    one, other = (load_file(tmp_path / n / "denoiser" / "model.safetensors") for n in ("whole", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_head_start_teaches_the_condition_how_sounds_look_and_nothing_else() -> None:
    data = dataset()
    loudness = data.embeddings[:, :, :1].float().mean(dim=1, keepdim=True)
    data.mels = (data.mels.float() + 8 * (loudness - loudness.mean()) / loudness.std()).half()
    model = DenoiserConfig.from_dict(MODEL)
    plain = DenoiserTask(model, DenoiserTaskConfig(whiten=True), data, seed=0).denoiser.state_dict()
    tasks = [DenoiserTask(model, DenoiserTaskConfig(whiten=True, condition_steps=60), data, seed=0) for _ in range(2)]
    started, again = (task.denoiser.state_dict() for task in tasks)
    assert {n for n in plain if not torch.equal(plain[n], started[n])} == {
        f"embedding_mlp.{n}" for n in ("0.weight", "0.bias", "2.weight", "2.bias")
    }
    assert all(torch.equal(started[n], again[n]) for n in started)

    def told(steps: int) -> float:
        layers = DenoiserTask(model, DenoiserTaskConfig(whiten=True), data, seed=0).denoiser.embedding_mlp
        return pretrain(layers, data.mels, lambda chosen, _: data.embeddings[chosen, 0].float(), steps=steps, seed=0)

    assert told(3) < 0.03 < 0.1 < told(200), "a third of the descriptions, the means, are as the pictures say"


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    training = {"batch_size": 2, "max_steps": 1, "learning_rate": 0.0, "warmup_steps": 0, "mixed_precision": "no"}
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"training": training, "model": {"embedding_dim": 32}, "task": {"whiten": True}}))
    return path


def test_init_from_goes_on_from_a_models_denoiser(recipe_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", "thing")
    paths = ["--data", str(corpus), "--base", str(tiny_model), "--init-from", str(tiny_model)]
    assert main(["train", "denoiser", "--config", str(recipe_file), *paths, "--out", str(tmp_path / "out")]) == 0
    old, new = (Denoiser.load(folder / "denoiser") for folder in (tiny_model, tmp_path / "out"))
    assert new.config == old.config  # the recipe does not say it all
    assert torch.allclose(denoise(new, queries(old)), denoise(old, queries(old)), atol=1e-2)


def test_a_denoiser_of_another_shape_is_refused(
    recipe_file: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_file.write_text(json.dumps({**json.loads(recipe_file.read_text()), "model": MODEL}))
    paths = ["--data", str(tmp_path), "--base", str(tiny_model), "--init-from", str(tiny_model)]
    assert main(["train", "denoiser", "--config", str(recipe_file), *paths, "--out", str(tmp_path / "out")]) == 2
    complaint = capsys.readouterr().err
    assert "has channels (32, 32, 64), the recipe (16, 32)" in complaint
    assert len(complaint.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_init_from_a_folder_without_a_denoiser_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="--init-from has no denoiser"):
        load_initial(tmp_path, {})


def test_only_the_denoiser_begins_from_another(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["--data", "none", "--out", "none", "--init-from", str(tiny_model)]
    assert main(["train", "vocoder", "--config", "tiny", *paths]) == 2
    assert "--init-from does not work for vocoder" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32" or torch.cuda.is_available(), reason="a CPU's choice")
def test_precision_is_what_the_cpu_is_fast_in(capsys: pytest.CaptureFixture[str]) -> None:
    if getattr(torch.cpu, "get_capabilities", dict)().get("avx512_bf16"):
        assert _precision("bf16") == "bf16"
    else:
        assert _precision("bf16") == "no"
        assert "training in float32" in capsys.readouterr().out
    assert _precision("no") == "no"


def test_a_denoiser_is_taken_over_by_another_clip() -> None:
    old = skewed().flatten(0, 1)
    turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(6)))[0]
    new = F.normalize(old @ turn + 0.2 * turn[0], dim=-1)
    torch.manual_seed(7)
    denoiser = Denoiser(DenoiserConfig.from_dict(MODEL))
    denoiser.null_embedding.data.copy_(old.mean(dim=0) + 0.1 * old[5])
    denoiser.embedding_mlp[0].weight.data.mul_(4)
    before = denoise(denoiser, old[:64])
    nothing = denoise(denoiser, denoiser.null_embedding[None])
    untranslated = (denoise(denoiser, new[:64]) - before).square().mean()
    assert translate(denoiser, new, old) > 0.9
    assert (denoise(denoiser, new[:64]) - before).square().mean() < 0.05 * untranslated
    assert torch.allclose(denoise(denoiser, denoiser.null_embedding[None]), nothing, atol=0.02)


def test_init_from_a_model_with_another_clip_translates(
    recipe_file: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_corpus(tmp_path / "corpus", "thing")
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    weights = load_file(other / "clip" / "model.safetensors")
    head = next(name for name in weights if name in ("visual.proj", "visual.head.proj.weight"))
    weights[head] = weights[head].flip(0).contiguous()
    save_file(weights, other / "clip" / "model.safetensors")
    paths = ["--data", str(corpus), "--base", str(other), "--init-from", str(tiny_model)]
    command = ["train", "denoiser", "--config", str(recipe_file), *paths, "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "has another CLIP" in capsys.readouterr().out
    assert main([*command[:-1], str(tmp_path / "same"), "--base", str(tiny_model)]) == 0
    assert "has another CLIP" not in capsys.readouterr().out
