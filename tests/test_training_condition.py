"""The layers that read an embedding learn what they make of it through the picture memory, and nothing else changes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from clipsonic.checkpoint import ModelFolder, write_index
from clipsonic.cli import main
from clipsonic.clip import ClipEncoder
from clipsonic.config import DenoiserConfig
from clipsonic.denoiser import Denoiser
from clipsonic.memory import PictureMemory
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.shards import Index, Sample, ShardWriter, read_samples
from clipsonic.training.condition import ConditionTask, ConditionTaskConfig
from clipsonic.training.features import FrameSoundDataset
from clipsonic.training.loop import Trainer
from clipsonic.training.recipe import Recipe
from clipsonic.training.run_log import read_log
from tests.conftest import EMBEDDING_DIM, FRAMES
from tests.test_training import MODEL, write_corpus

LAYERS = {f"embedding_mlp.{name}" for name in ("0.weight", "0.bias", "2.weight", "2.bias")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos to learn from, and two held out."""
    folder = write_corpus(tmp_path_factory.mktemp("corpus"), "thing")
    videos = list(read_samples(folder, "train"))[:2]
    with ShardWriter(folder / "test-000000.tar") as writer:
        for video in videos:
            frames = tuple(frame.rotate(90) for frame in video.frames)
            writer.write(Sample(f"t{video.key}", video.waveform, frames, video.provenance, video.sample_rate))
    index = Index.read(folder)
    Index(settings={}, shards=(*index.shards, writer.entry()), counts={"train": 6, "test": 2}).write(folder)
    return folder


@pytest.fixture(scope="module")
def base(tiny_model: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a refiner, a memory, and an answer to no condition."""
    folder = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("base") / "base"))
    denoiser = Denoiser.load(folder / "denoiser")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        denoiser.null_embedding.data.normal_(std=0.2)
        denoiser.save(folder / "denoiser")
        refiner = Denoiser(
            DenoiserConfig(
                embedding_dim=EMBEDDING_DIM, network="convnext", frames=FRAMES, fold=(4, 4), channels=(16,),
                below_timestep=300,
            )
        )  # fmt: skip
        refiner.null_embedding.data.copy_(denoiser.null_embedding)
        refiner.save(folder / "refiner")
    write_index(folder, "base")
    assert main(["train", "memory", "--data", str(corpus), "--base", str(folder), "--out", str(folder)]) == 0
    return folder


def recipe(
    path: Path, *, task: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **changes: object
) -> Path:
    training = {"batch_size": 32, "max_steps": 300, "learning_rate": 1e-2, "warmup_steps": 10, "log_every": 10}
    training |= {"mixed_precision": "no", **changes}  # type: ignore[dict-item]
    path.write_text(json.dumps({"training": training, "task": task or {}, "model": model or {}}))
    return path


def train(recipe_file: Path, corpus: Path, base: Path, out: Path, *more: str) -> int:
    paths = ["--config", str(recipe_file), "--data", str(corpus), "--base", str(base), "--out", str(out)]
    return main(["train", "condition", *paths, *more])


@pytest.fixture(scope="module")
def trained(corpus: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert train(recipe(folder / "recipe.json"), corpus, base, folder / "out") == 0
    return folder / "out"


def answers(network: Denoiser, embeddings: torch.Tensor) -> torch.Tensor:
    return network.embedding_mlp(network.scale(embeddings))


def clustered(count: int, seed: int) -> torch.Tensor:
    """Frames of eight things, at a cosine of about 0.8 to their thing's direction, shape (count, 2, 32)."""
    things = torch.eye(32)[:8] + 0.5
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 2, 32, generator=generator) * 32**-0.5 * 0.75
    return F.normalize(F.normalize(things, dim=-1)[torch.arange(count) % 8, None] + noise, dim=-1)


def test_the_layers_answer_pictures_never_seen_as_they_did_their_projections(tmp_path: Path) -> None:
    """The memory knows the things; what is left of a frame is noise, which it takes away."""
    frames, unseen = clustered(400, seed=0), clustered(80, seed=1).flatten(0, 1)
    things = F.normalize(torch.stack([frames[thing::8].flatten(0, 1).mean(dim=0) for thing in range(8)]), dim=-1)
    memory = PictureMemory.of(things)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = Denoiser(DenoiserConfig.from_dict(MODEL))
        network.null_embedding.data.normal_(std=0.2)
    nothing = network.null_embedding.detach()[None]
    told, no_answer = (answers(network, rows).detach() for rows in (memory(unseen), nothing))
    missed = [(answers(network, unseen) - told).square().mean().item()]
    dataset = FrameSoundDataset(torch.zeros(400, 80, FRAMES).half(), frames.half())
    learner = ConditionTask({"denoiser": network}, memory, ConditionTaskConfig(), dataset, seed=0)
    training = Recipe.find("condition", str(recipe(tmp_path / "r.json", batch_size=128, max_steps=400))).training
    learner.heldout = unseen
    figures = Trainer(learner, training, tmp_path / "out").run()
    after = Denoiser.load(tmp_path / "out" / "denoiser")
    missed.append((answers(after, unseen) - told).square().mean().item())
    assert missed[1] < 0.35 * missed[0]
    variance = (told - told.mean(dim=0)).square().mean().item()
    assert figures["denoiser_told_before"] == pytest.approx(1 - missed[0] / variance, abs=0.1)
    assert figures["denoiser_told"] == pytest.approx(1 - missed[1] / variance, abs=0.1)
    kept = (answers(after, memory(unseen)) - told).square().mean()
    assert kept < 0.1 * variance, "what is projected already keeps its answer"
    assert (answers(after, nothing) - no_answer).square().mean() < 0.1 * variance, "no condition keeps its answer"


def test_only_those_layers_change_and_the_model_is_whole(base: Path, trained: Path) -> None:
    for part in ("denoiser", "refiner"):
        old, new = (load_file(folder / part / "model.safetensors") for folder in (base, trained))
        assert {name for name in old if not torch.equal(old[name], new[name])} == LAYERS
        assert (base / part / "config.json").read_bytes() == (trained / part / "config.json").read_bytes()
    output = ClipSonicPipeline.from_pretrained(trained, device="cpu")(prompt="a dog", num_inference_steps=2)
    assert torch.isfinite(torch.from_numpy(output.waveforms)).all()


def test_new_layers_may_be_wider_and_more(corpus: Path, base: Path, tmp_path: Path) -> None:
    file = recipe(tmp_path / "r.json", max_steps=3, task={"widths": [40, 24]})
    assert train(file, corpus, base, tmp_path / "out") == 0
    for part in ("denoiser", "refiner"):
        network = ModelFolder.open(tmp_path / "out").part(part)
        widths = [layer.out_features for layer in network.embedding_mlp if isinstance(layer, torch.nn.Linear)]
        assert widths[:2] == [40, 24] and len(widths) == 3
        assert network.config.embedding_widths == (40, 24)
    # What is trained once more without widths keeps those it has.
    assert train(recipe(tmp_path / "r.json", max_steps=1), corpus, tmp_path / "out", tmp_path / "again") == 0
    assert ModelFolder.open(tmp_path / "again").part("denoiser").config.embedding_widths == (40, 24)
    output = ClipSonicPipeline.from_pretrained(tmp_path / "again", device="cpu")(prompt="a dog", num_inference_steps=2)
    assert torch.isfinite(torch.from_numpy(output.waveforms)).all()


def test_widths_that_cannot_be_are_told(
    corpus: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(recipe(tmp_path / "r.json", task={"widths": [40, 0]}), corpus, base, tmp_path / "out") == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "embedding_widths is (40, 0); allowed: whole numbers from 1" in told
    assert not (tmp_path / "out").exists()


def test_the_log_says_how_much_of_held_out_frames_is_told(trained: Path) -> None:
    lines = read_log(trained)
    assert lines[0]["denoiser_loss"] > 2 * lines[-2]["denoiser_loss"]
    assert lines[-1]["heldout_frames"] == 4
    for part in ("denoiser", "refiner"):
        assert {f"{part}_told_before", f"{part}_told"} < set(lines[-1])
    assert "| condition | 300 |" in (trained / "summary.md").read_text()


def test_without_held_out_videos_nothing_is_said_of_them(base: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "shards", "thing")
    assert train(recipe(tmp_path / "r.json", max_steps=1), corpus, base, tmp_path / "out") == 0
    assert not any("heldout_frames" in line for line in read_log(tmp_path / "out"))


def test_a_model_without_a_refiner_has_its_denoiser_taught(corpus: Path, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    shutil.rmtree(folder / "refiner")
    write_index(folder, "bare")
    assert train(recipe(tmp_path / "r.json", max_steps=2), corpus, folder, tmp_path / "out") == 0
    assert not (tmp_path / "out" / "refiner").exists()
    old, new = (load_file(path / "denoiser" / "model.safetensors") for path in (folder, tmp_path / "out"))
    assert {name for name in old if not torch.equal(old[name], new[name])} == LAYERS


def test_no_label_and_no_text_is_read(
    opened: list[str],
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("training the condition embedded a text")

    monkeypatch.setattr(ClipEncoder, "encode_text", refuse)
    corpora = [write_corpus(tmp_path / name, name) for name in ("cats", "drums")]
    for corpus in corpora:
        assert train(recipe(tmp_path / "r.json", max_steps=3), corpus, base, corpus / "out") == 0
    assert any("train-" in path for path in opened)  # the watch works
    assert not any("labels" in path for path in opened)
    one, other = (load_file(corpus / "out" / "denoiser" / "model.safetensors") for corpus in corpora)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_micro_batches_of_half_the_size_equal_one(corpus: Path, base: Path, tmp_path: Path) -> None:
    whole = recipe(tmp_path / "whole.json", max_steps=5, batch_size=8, log_every=1)
    half = recipe(tmp_path / "half.json", max_steps=5, batch_size=4, gradient_accumulation=2, log_every=1)
    assert train(whole, corpus, base, tmp_path / "one") == 0
    assert train(half, corpus, base, tmp_path / "two") == 0
    losses = [[line["denoiser_loss"] for line in read_log(tmp_path / name)[:5]] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert len(set(losses[0])) == 5


@pytest.mark.parametrize("widths", [[], [24, 20]])
@pytest.mark.parametrize("in_place", [False, True])
def test_resumed_training_equals_unbroken(
    in_place: bool, widths: list[int], corpus: Path, base: Path, tmp_path: Path
) -> None:
    file = recipe(tmp_path / "r.json", max_steps=6, task={"widths": widths})
    assert train(file, corpus, base, tmp_path / "whole") == 0
    out = tmp_path / "out"
    model = Path(shutil.copytree(base, out)) if in_place else base
    trainer = Trainer(built(file, corpus, model), Recipe.find("condition", str(file)).training, out)
    for _ in range(3):
        trainer._train_step()
        trainer.step += 1
    trainer.save()  # in place, over what it learns from
    assert train(file, corpus, model, out, "--resume") == 0
    for part in ("denoiser", "refiner"):
        whole, resumed = (load_file(folder / part / "model.safetensors") for folder in (tmp_path / "whole", out))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def built(file: Path, corpus: Path, base: Path) -> ConditionTask:
    from clipsonic.training.condition import build

    return build(Recipe.find("condition", str(file)), corpus, base)


@pytest.fixture
def task() -> Iterator[ConditionTask]:
    """A task on embeddings that are all orthogonal, and so tell their own shares in a mixture."""
    embeddings = torch.eye(32).reshape(16, 2, 32)
    dataset = FrameSoundDataset(torch.zeros(16, 80, FRAMES).half(), embeddings.half())
    config = DenoiserConfig(embedding_dim=32, frames=FRAMES, network="convnext", fold=(4, 4), channels=(16,))
    memory = PictureMemory.of(embeddings.flatten(0, 1))
    asked = ConditionTaskConfig(mixture=0.5, embedding_noise=0.0, condition_drop=0.0)
    yield ConditionTask({"denoiser": Denoiser(config)}, memory, asked, dataset, seed=0)


def test_a_state_brings_its_old_layers_along(task: ConditionTask) -> None:
    config = task.layers["denoiser"].network[0].config
    deep = Denoiser(dataclasses.replace(config, embedding_widths=(24, 22, 20, 18, 16, 14)))
    asked = dataclasses.replace(task.config, widths=(20,))
    one, two = (
        ConditionTask({"denoiser": network}, task.memory, asked, task.dataset, seed=0)
        for network in (deep, Denoiser(config))
    )
    two.trained.load_state_dict(one.trained.state_dict())
    frames = task.dataset.embeddings.float()[:, 0]
    assert torch.equal(two.layers["denoiser"].teacher(frames), deep.embedding_mlp(frames))


def test_questions_are_mixtures_of_a_video_with_less_of_another(task: ConditionTask) -> None:
    frames = task.dataset.embeddings.float()
    asked = task._ask(frames.repeat(200, 1, 1), torch.Generator().manual_seed(0))
    torch.testing.assert_close(asked.norm(dim=-1), torch.ones(len(asked)))
    shares = asked / asked.sum(dim=-1, keepdim=True)
    own = shares.unflatten(1, (16, 2))[torch.arange(len(asked)), torch.arange(len(asked)) % 16].sum(dim=-1)
    assert own.min() >= 0.5 - 1e-4
    assert own.mean().item() == pytest.approx(0.75 + 0.25 / 16, abs=0.02), "uniform from 0 to 0.5, at times of itself"
    assert (shares > 1e-6).sum(dim=-1).max() == 2
    others = shares.sum(dim=0)
    assert others.min() > 0.6 * others.max(), "every frame is asked for"


def test_noise_has_a_norm_up_to_the_one_asked_for(task: ConditionTask) -> None:
    task.config = ConditionTaskConfig(mixture=0.0, embedding_noise=0.5)
    frames = task.dataset.embeddings.float().repeat(100, 1, 1)
    asked = task._ask(frames, torch.Generator().manual_seed(0))
    away = asked / asked.max(dim=-1, keepdim=True).values
    away = (away * (away < 1)).norm(dim=-1)
    assert 0.15 < away.mean() < 0.35
    assert away.max() < 1
    task.config = ConditionTaskConfig(mixture=0.0, embedding_noise=0.0)
    plain = task._ask(frames, torch.Generator().manual_seed(0))
    assert ((plain == 1).sum(dim=-1) == 1).all()


def test_no_condition_is_asked_as_often_as_said(task: ConditionTask) -> None:
    layers = task.layers["denoiser"]
    asked = task.dataset.embeddings.float()[:, 0]
    rows = torch.zeros(16, 1, dtype=torch.bool)
    told = task.memory(asked)
    torch.manual_seed(0)
    layers.null.normal_()
    null_error = layers(asked, told, ~rows)
    torch.testing.assert_close(layers(asked.flip(0), told.flip(0), ~rows), null_error, msg="no condition is always one")
    assert not torch.isclose(layers(asked, told, rows), null_error)
    seen: list[torch.Tensor] = []
    layers.register_forward_hook(lambda _, given, __: seen.append(given[2]))
    task.config = ConditionTaskConfig(condition_drop=0.25)
    batch = {"embeddings": task.dataset.embeddings.float().repeat(250, 1, 1)}
    task.loss(batch, "main", torch.Generator().manual_seed(0))
    assert seen[0].float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_projections_are_asked_for_as_often_as_said(task: ConditionTask) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    task.layers["denoiser"].register_forward_hook(lambda _, given, __: seen.append(given[:2]))
    batch = {"embeddings": task.dataset.embeddings.float().repeat(250, 1, 1)}
    for share in (0.0, 0.25, 1.0):
        task.config = ConditionTaskConfig(embedding_noise=0.1, projected=share)
        task.loss(batch, "main", torch.Generator().manual_seed(0))
        asked, projected = seen.pop()
        assert (asked == projected).all(dim=-1).float().mean().item() == pytest.approx(share, abs=0.03)
        raw = (asked != projected).any(dim=-1)
        torch.testing.assert_close(projected[raw], task.memory(asked[raw]))


@pytest.mark.parametrize(
    ("without", "model", "more", "said"),
    [
        ("memory", {}, [], "has no memory to learn from; fill one with `train memory` first"),
        ("", {"channels": [8]}, [], "the recipe sets model.channels; the networks are the base's: leave it out"),
        ("", {}, ["--init-from", "{base}"], "--init-from does not work for condition"),
        ("denoiser", {}, [], "denoiser"),
    ],
)
def test_mistakes_get_one_line(
    without: str, model: dict[str, Any], more: list[str], said: str, corpus: Path, base: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    if without:
        shutil.rmtree(folder / without)
    file = recipe(tmp_path / "r.json", model=model, max_steps=1)
    capsys.readouterr()
    assert train(file, corpus, folder, tmp_path / "out", *(word.format(base=base) for word in more)) == 2
    error = capsys.readouterr().err
    assert said in error and error.strip().count("\n") == 0
    assert not (tmp_path / "out" / "denoiser").exists()


def test_a_memory_of_another_clip_is_refused(
    corpus: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    PictureMemory.of(torch.ones(3, 8)).save(folder / "memory")
    assert train(recipe(tmp_path / "r.json", max_steps=1), corpus, folder, tmp_path / "out") == 2
    assert "the memory's embedding_dim is 8, the data's 32; train it anew" in capsys.readouterr().err
