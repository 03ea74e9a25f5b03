"""The paper's variants and baselines, recipes of full size, and conditioning on several frames."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from clipsonic import ClipSonicPipeline
from clipsonic.checkpoint import ModelIndex
from clipsonic.clap import ClapEncoder
from clipsonic.cli import main
from clipsonic.clip import ClipEncoder
from clipsonic.config import DenoiserConfig
from clipsonic.denoiser import Denoiser
from clipsonic.errors import ConfigError, DataError, MediaError
from clipsonic.prior import DiffusionPrior
from clipsonic.training.cli import remote_parts
from clipsonic.training.denoiser import DenoiserTask, DenoiserTaskConfig
from clipsonic.training.features import FrameSoundDataset
from clipsonic.training.labelled import text_conditions
from clipsonic.training.recipe import CONFIGS, Recipe
from tests.test_training import MODEL, write_corpus

TRAINING = {"batch_size": 2, "max_steps": 1, "learning_rate": 1e-3, "warmup_steps": 0, "mixed_precision": "no"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), "thing")


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLAP folder of random weights, as transformers saves one."""
    from transformers import ClapConfig, ClapModel, RobertaTokenizerFast

    folder = tmp_path_factory.mktemp("clap")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {**sizes, "vocab_size": 300, "projection_dim": 32, "max_position_embeddings": 90}
    audio = {"depths": [1, 1], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "hidden_size": 16}
    torch.manual_seed(0)
    config = ClapConfig(text_config=text, audio_config={**audio, "projection_dim": 32}, projection_dim=32)
    ClapModel(config).save_pretrained(folder)
    letters = "".join(chr(code) for code in range(33, 127)) + "Ġ"
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters]
    RobertaTokenizerFast(vocab={word: n for n, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    return folder


def train(part: str, tmp_path: Path, corpus: Path, base: Path, task: dict, model: dict, *more: str) -> Path:
    recipe = tmp_path / f"{part}.json"
    recipe.write_text(json.dumps({"training": TRAINING, "model": model, "task": task}))
    paths = ["--config", str(recipe), "--data", str(corpus), "--base", str(base), "--out", str(tmp_path / "out")]
    assert main(["train", part, *paths, *more]) == 0
    return tmp_path / "out"


def test_clip_tta_is_conditioned_on_the_labels(corpus: Path, tiny_model: Path, tmp_path: Path) -> None:
    clip = ClipEncoder.load(tiny_model / "clip")
    rows = text_conditions(corpus, "train", clip.encode_text, ("a photo of {}", "{}"))
    expected = clip.encode_text(["a photo of thing 0", "thing 0", "a photo of thing 1", "thing 1"]).unflatten(0, (2, 2))
    assert torch.allclose(rows[:2].float(), expected, atol=1e-3)
    out = train("denoiser", tmp_path, corpus, tiny_model, {"condition": "clip-text"}, MODEL)
    assert ClipSonicPipeline.from_pretrained(out, device="cpu")(prompt="thing 0", num_inference_steps=2).waveforms.size


def test_an_image_trained_model_is_tuned_on_text_audio_pairs(corpus: Path, tiny_model: Path, tmp_path: Path) -> None:
    more = ("--init-from", str(tiny_model))
    out = train("denoiser", tmp_path, corpus, tiny_model, {"condition": "clip-text"}, {"embedding_dim": 32}, *more)
    assert Denoiser.load(out / "denoiser").config == Denoiser.load(tiny_model / "denoiser").config


def test_clap_tta_makes_a_model_that_reads_through_clap(
    corpus: Path, clap: Path, tiny_model: Path, tmp_path: Path
) -> None:
    encoder = ClapEncoder.load(str(clap))
    rows = encoder.encode_text(["rain", "a dog barking"])
    assert torch.allclose(rows.norm(dim=-1), torch.ones(2), atol=1e-5)
    assert torch.allclose(rows[:1], encoder.encode_text(["rain"]), atol=1e-5)
    with pytest.raises(MediaError, match="sees no pictures"):
        encoder.encode_images([])
    out = train("denoiser", tmp_path, corpus, tiny_model, {"condition": "clap-text", "clap": str(clap)}, MODEL)
    assert not (out / "prior").exists()
    assert [path.name for path in (out / "clip").iterdir()] == ["config.json"]
    pipe = ClipSonicPipeline.from_pretrained(out, device="cpu")
    assert isinstance(pipe.folder.part("clip"), ClapEncoder)
    assert pipe(prompt="rain", methods=("zs",), num_inference_steps=2).waveforms.size


def test_sd_trains_a_prior_on_the_corpus_own_names(corpus: Path, tiny_model: Path, tmp_path: Path) -> None:
    model = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
    out = train("prior", tmp_path, corpus, tiny_model, {"source": "corpus", "views": 2}, model)
    assert (out / "prior" / "config.json").read_text() == (tiny_model / "prior" / "config.json").read_text()
    prior = DiffusionPrior.load(out / "supervised_prior")
    assert prior.config.num_layers == 1
    assert "sd" in ClipSonicPipeline.from_pretrained(out, device="cpu").methods


def test_a_sample_without_a_label_is_named(tiny_model: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", "thing")
    lines = (corpus / "labels.csv").read_text().splitlines()
    (corpus / "labels.csv").write_text("\n".join(lines[:3]) + "\n")
    with pytest.raises(DataError, match="no label for v2"):
        text_conditions(corpus, "train", ClipEncoder.load(tiny_model / "clip").encode_text, ("{}",))


def frames(count: int) -> torch.Tensor:
    return F.normalize(torch.randn(4, count, 32, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_several_frames_are_averaged_or_attended_to() -> None:
    plain = Denoiser(DenoiserConfig.from_dict(MODEL))
    torch.manual_seed(0)
    attending = Denoiser(DenoiserConfig.from_dict({**MODEL, "frame_attention": True}))
    assert torch.allclose(plain.pool(frames(3)), F.normalize(frames(3).mean(dim=1), dim=-1))
    for denoiser in (plain, attending):
        assert torch.allclose(denoiser.pool(frames(1)), frames(1)[:, 0], atol=1e-6)
        assert torch.allclose(denoiser.pool(frames(3)), denoiser.pool(frames(3).flip(1)), atol=1e-6)
    wanted = frames(3)[0, 1]
    attending.frame_score.weight.data.copy_(100 * wanted[None])
    assert torch.allclose(attending.pool(frames(3)[:1])[0], wanted, atol=1e-3)


def test_attention_over_frames_is_trained() -> None:
    dataset = FrameSoundDataset(torch.randn(4, 80, 64).half(), frames(3).half())
    model = DenoiserConfig.from_dict({**MODEL, "frame_attention": True})
    task = DenoiserTask(model, DenoiserTaskConfig(frames="all", condition_drop=0.0), dataset, seed=0)
    batch = {name: torch.stack([dataset[n][name] for n in range(4)]) for name in ("mel", "embeddings")}
    task.loss(batch, "main", torch.Generator().manual_seed(0))[0].backward()
    gradient = task.denoiser.frame_score.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0
    with pytest.raises(ConfigError, match="frame_attention needs"):
        DenoiserTask(model, DenoiserTaskConfig(), dataset, seed=0)


def test_unconditional_training_sees_no_condition() -> None:
    dataset = FrameSoundDataset(torch.randn(4, 80, 64).half(), frames(2).half())
    config = DenoiserTaskConfig.from_dict(Recipe.find("denoiser", "unconditional").task)
    task = DenoiserTask(DenoiserConfig.from_dict({**MODEL, "frames": 352}), config, dataset, seed=0)
    seen = task._condition(frames(2), torch.Generator().manual_seed(0))
    assert torch.equal(seen, task.denoiser.null_embedding.expand(4, -1))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("denoiser-*.json")), ids=lambda path: path.stem)
def test_every_denoiser_recipe_can_be_built(path: Path) -> None:
    recipe = Recipe.find("denoiser", str(path))
    task, model = DenoiserTaskConfig.from_dict(recipe.task), DenoiserConfig.from_dict(recipe.model)
    with torch.device("meta"):
        Denoiser(model)
    assert model.frames % model.frame_multiple == 0
    assert not task.crop_share or task.crop_frames % model.frame_multiple == 0


@pytest.mark.timeout(300)
def test_dry_run_tells_the_cost_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "denoiser", "--config", "vggsound", "--dry-run", "--max-steps", "2"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    told = {name.strip(): value.strip() for name, value in lines.items()}
    assert 130 < float(told["parameters"].split()[0]) < 150
    assert told["steps"] == "2 (128 clips)"
    assert float(told["forward and backward"].split()[0]) > 100
    assert "assumed" in told["hours on one A100"]
    assert main(["train", "vocoder", "--config", "tiny", "--dry-run"]) == 2
    assert main(["train", "denoiser", "--config", "tiny"]) == 2
    assert "--data and --out" in capsys.readouterr().err


def test_a_full_size_recipe_names_its_parts_on_the_hub(tmp_path: Path) -> None:
    from clipsonic.training.cli import _write_clip, finish

    parts = Recipe.find("denoiser", "vggsound").parts
    base = _write_clip(parts["clip"], tmp_path)
    Denoiser(DenoiserConfig.from_dict({**MODEL, "embedding_dim": 768})).save(tmp_path / "denoiser")
    (tmp_path / "scheduler").mkdir()
    finish(tmp_path, "full", remote_parts(parts, base, ("denoiser",)))
    index = ModelIndex.load(tmp_path / "model_index.json")
    assert index.entry("vocoder").repo == "nvidia/bigvgan_v2_22khz_80band_fmax8k_256x"
    assert index.entry("prior").files == ("prior/*",)
    assert remote_parts({}, tmp_path, ("prior",)).keys() == {"vocoder"}  # a base hands them on
