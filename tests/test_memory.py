"""The picture memory, and the methods mp and mq: texts and pictures projected onto pictures."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clipsonic.checkpoint import ModelFolder, write_index
from clipsonic.cli import main
from clipsonic.config import GenerationSettings, MelConfig
from clipsonic.errors import CheckpointError, SettingsError
from clipsonic.gap import Landscape, locate
from clipsonic.memory import PictureMemory
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.prior import DiffusionPrior
from clipsonic.training.features import load_features
from clipsonic.training.memory import MOST, NEIGHBOURS, _select, neighbourhoods
from clipsonic.ui.why import looked_up
from tests.conftest import EMBEDDING_DIM
from tests.test_pipeline import PICTURE
from tests.test_training import write_corpus
from tests.videos import make_video

FAST = GenerationSettings(methods=("zs", "pd", "mp"), num_inference_steps=2, guidance_scale=2.0, seed=3)


def random_pictures(count: int = 40, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, EMBEDDING_DIM, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture(scope="module")
def remembering(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a memory."""
    folder = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("remembering") / "model"))
    PictureMemory.of(random_pictures()).save(folder / "memory")
    write_index(folder, "remembering")
    return folder


@pytest.fixture(scope="module")
def pipeline(remembering: Path) -> ClipSonicPipeline:
    return ClipSonicPipeline.from_pretrained(remembering, device="cpu")


def test_a_projection_is_a_mean_of_pictures_by_the_softmax_of_their_cosines() -> None:
    pictures, texts = random_pictures(), random_pictures(5, seed=1)
    weights = np.exp((texts @ pictures.T).numpy() / 0.1)
    expected = weights / weights.sum(axis=1, keepdims=True) @ pictures.numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(PictureMemory.of(pictures, temperature=0.1)(texts).numpy(), expected, atol=1e-6)


def test_a_low_temperature_finds_the_nearest_picture_and_a_high_one_the_mean() -> None:
    pictures, texts = random_pictures(), random_pictures(5, seed=1)
    nearest = pictures[(texts @ pictures.T).argmax(dim=1)]
    torch.testing.assert_close(PictureMemory.of(pictures, temperature=1e-4)(texts), nearest)
    mean = F.normalize(pictures.mean(dim=0), dim=-1).expand(5, -1)
    assert (PictureMemory.of(pictures, temperature=1e4)(texts) * mean).sum(dim=-1).min() > 0.999


def test_a_projection_does_not_depend_on_the_batch_or_the_lengths_of_the_pictures() -> None:
    pictures, texts = random_pictures(), random_pictures(5, seed=1)
    memory = PictureMemory.of(pictures)
    torch.testing.assert_close(memory(texts)[2:3], memory(texts[2:3]))
    torch.testing.assert_close(memory(texts), PictureMemory.of(pictures * 7)(texts))


def test_a_memory_comes_back_from_its_folder(tmp_path: Path) -> None:
    memory = PictureMemory.of(random_pictures(), temperature=0.07)
    memory.save(tmp_path)
    again = PictureMemory.load(tmp_path)
    assert again.config == memory.config and again.config.temperature == 0.07
    torch.testing.assert_close(again.pictures, memory.pictures, atol=1e-3, rtol=0)
    (tmp_path / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match="fetch the model again"):
        PictureMemory.load(tmp_path)


def test_mp_is_a_method_of_its_own_that_draws_nothing(pipeline: ClipSonicPipeline) -> None:
    assert pipeline.methods == ("iq", "mq", "zs", "pd", "mp")
    zs, pd, mp = pipeline("a dog", settings=FAST).audios
    memory, text = pipeline.folder.part("memory"), torch.from_numpy(zs.embedding)[None]
    np.testing.assert_allclose(mp.embedding, memory(text)[0].numpy(), atol=1e-6)
    assert not np.array_equal(mp.waveform, zs.waveform) and not np.array_equal(mp.waveform, pd.waveform)
    other = pipeline("a dog", settings=FAST, methods=("mp",), prior_num_inference_steps=3, prior_guidance_scale=1.0)
    assert np.array_equal(other.audios[0].waveform, mp.waveform)
    assert not np.array_equal(pipeline("a dog", settings=FAST, seed=4).audios[2].waveform, mp.waveform)


def test_mp_projects_what_words_are_looked_up_as(remembering: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(remembering, tmp_path / "model"))
    config = dataclasses.replace(DiffusionPrior.load(folder / "prior").config, names=tuple("abcde"), temperature=0.1)
    prior = DiffusionPrior(config)
    prior.name_texts.copy_(random_pictures(5, seed=2))
    prior.name_pictures.copy_(random_pictures(5, seed=3))
    prior.save(folder / "prior")
    write_index(folder, "remembering names")
    pipeline = ClipSonicPipeline.from_pretrained(folder, device="cpu")
    zs, pd, mp = pipeline("a dog", settings=FAST).audios
    told = pipeline.folder.part("prior").look_up(torch.from_numpy(zs.embedding)[None])
    memory = pipeline.folder.part("memory")
    np.testing.assert_allclose(mp.embedding, memory(told)[0].numpy(), atol=1e-6)
    assert not np.allclose(mp.embedding, memory(torch.from_numpy(zs.embedding)[None])[0].numpy(), atol=1e-3)
    landscape = Landscape.fit(random_pictures(3).numpy(), random_pictures(3, 2).numpy(), "uvw", "xyz")
    located = locate(pipeline, landscape, "a dog", FAST)
    np.testing.assert_allclose(located.points["mp"][0], mp.embedding, atol=1e-6)
    assert located.looked_up == pipeline.folder.part("prior").nearest_names(torch.from_numpy(zs.embedding), 5)
    assert len(located.looked_up) == 5 and all(name in looked_up(located) for name, _ in located.looked_up)
    there = pipeline("rain", toward="a dog", morph=1.0, settings=FAST, methods=("mp", "pd")).audios
    np.testing.assert_array_equal([audio.embedding for audio in there], [mp.embedding, pd.embedding])
    seen = pipeline(image=PICTURE, settings=FAST, methods=("iq", "mq")).audios
    projected = memory(torch.from_numpy(seen[0].embedding)[None])[0].numpy()
    np.testing.assert_allclose(seen[1].embedding, projected, atol=1e-6, err_msg="pictures are not looked up")


@pytest.mark.parametrize(("lost", "said"), [(("prior",), "no prior"), (("prior", "memory"), "no prior and no memory")])
def test_mp_needs_the_prior_and_the_memory(lost: tuple[str, ...], said: str, remembering: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(remembering, tmp_path / "model"))
    for part in lost:
        shutil.rmtree(folder / part)
    write_index(folder, "less")
    pipeline = ClipSonicPipeline.from_pretrained(folder, device="cpu")
    assert pipeline.methods == (("iq", "mq", "zs") if lost == ("prior",) else ("iq", "zs"))
    with pytest.raises(SettingsError, match=f"cannot do 'mp', it has {said}; allowed: {', '.join(pipeline.methods)}"):
        pipeline("a dog", methods="mp")


def test_mq_projects_pictures_and_every_window_of_a_video(pipeline: ClipSonicPipeline, tmp_path: Path) -> None:
    memory = pipeline.folder.part("memory")
    iq, mq = pipeline(image=PICTURE, settings=FAST, methods=("iq", "mq")).audios
    picture = torch.from_numpy(iq.embedding)[None]
    np.testing.assert_allclose(mq.embedding, memory(picture)[0].numpy(), atol=1e-6)
    assert not np.array_equal(mq.waveform, iq.waveform)
    seen, remembered = pipeline(video=make_video(tmp_path / "a.mp4"), settings=FAST, methods=("iq", "mq")).audios
    assert len(remembered.waveform) == len(seen.waveform) and not np.array_equal(remembered.waveform, seen.waveform)


def test_a_picture_to_morph_towards_is_projected_too(pipeline: ClipSonicPipeline) -> None:
    end = pipeline(image=PICTURE, settings=FAST, methods="mq").audios[0]
    for query in ({"prompt": "rain", "methods": "mp"}, {"image": PICTURE.rotate(90), "methods": "mq"}):
        there = pipeline(**query, toward=PICTURE, morph=1.0, settings=FAST).audios[0]
        np.testing.assert_array_equal(there.embedding, end.embedding)


def test_what_to_keep_away_from_and_what_to_morph_towards_are_projected_too(pipeline: ClipSonicPipeline) -> None:
    plain = pipeline("a dog", settings=FAST, methods="mp").audios[0]
    away = pipeline("a dog", settings=FAST, methods="mp", negative_prompt="rain").audios[0]
    assert not np.array_equal(plain.waveform, away.waveform)
    end = pipeline("rain", settings=FAST, methods="mp").audios[0]
    there = pipeline("a dog", toward="rain", morph=1.0, settings=FAST, methods="mp").audios[0]
    np.testing.assert_array_equal(there.embedding, end.embedding)


def test_a_model_without_a_memory_says_so(tiny_pipeline: ClipSonicPipeline) -> None:
    with pytest.raises(SettingsError, match="cannot do 'mp', it has no memory; allowed: iq, zs, pd"):
        tiny_pipeline("a dog", methods=("mp",))


def test_a_memory_of_another_clip_is_refused(remembering: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(remembering, tmp_path / "model"))
    PictureMemory.of(torch.ones(3, 8)).save(folder / "memory")
    write_index(folder, "wrong")
    with pytest.raises(CheckpointError, match="memory does not fit its other parts: its embedding size is 8"):
        ModelFolder.open(folder).part("memory")


def test_where_a_text_lands_shows_the_projection_once(pipeline: ClipSonicPipeline) -> None:
    names = [str(n) for n in range(6)]
    landscape = Landscape.fit(random_pictures(6).numpy(), random_pictures(6, 2).numpy(), names, names)
    points = locate(pipeline, landscape, "a dog", FAST).points
    assert points["mp"].shape == (1, EMBEDDING_DIM) and len(points["pd"]) > 1


def test_train_memory_remembers_the_training_videos(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = write_corpus(tmp_path / "shards", "thing")
    out = tmp_path / "out"
    assert main(["train", "memory", "--data", str(shards), "--base", str(tiny_model), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "remembers" in said and "each a video's own: the base has no audio_clip" in said
    embeddings = load_features(shards, tiny_model / "clip", MelConfig(), pictures=2).embeddings.float()
    memory = ModelFolder.open(out).part("memory")
    torch.testing.assert_close(memory.pictures, F.normalize(embeddings.mean(dim=1), dim=-1), atol=1e-3, rtol=0)
    sounds = ClipSonicPipeline.from_pretrained(out, device="cpu")("a dog", settings=FAST)
    assert [audio.method for audio in sounds.audios] == ["zs", "pd", "mp"]


def test_of_many_videos_an_even_selection_is_remembered() -> None:
    many = torch.randn(MOST + 500, 4)
    chosen = _select(many)
    assert chosen.shape == (MOST, 4)
    torch.testing.assert_close(chosen[[0, -1]], many[[0, -1]])


@pytest.mark.parametrize("told_by", ["sounds", "pictures", "both"])
def test_an_entry_is_the_mean_picture_of_the_videos_that_look_and_sound_alike(told_by: str) -> None:
    things, each = (4, NEIGHBOURS) if told_by == "both" else (2, NEIGHBOURS)
    thing = torch.arange(things).repeat_interleave(each)
    # Of four things two look alike and two sound alike: only picture and sound together tell them apart.
    seen, heard = (thing // 2, thing % 2) if told_by == "both" else (thing, thing)
    directions = random_pictures(2, seed=7)
    noise = 0.1 * random_pictures(len(thing), seed=8)
    pictures = F.normalize((directions[seen] if told_by != "sounds" else directions[:1]) + noise, dim=-1)
    sounds = F.normalize((directions[heard] if told_by != "pictures" else directions[:1]) + noise.flip(0), dim=-1)
    entries = neighbourhoods(pictures, sounds, pictures, sounds)
    for number in range(things):
        mean = F.normalize(pictures[thing == number].mean(dim=0), dim=-1)
        torch.testing.assert_close(entries[thing == number], mean.expand(each, -1))


def test_train_memory_listens_where_there_is_an_audio_encoder(
    hearing_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("clipsonic.training.memory.NEIGHBOURS", 3)
    shards, out = write_corpus(tmp_path / "shards", "thing"), tmp_path / "out"
    assert main(["train", "memory", "--data", str(shards), "--base", str(hearing_model), "--out", str(out)]) == 0
    assert "pictures, of videos that look and sound alike" in capsys.readouterr().out
    features = load_features(shards, hearing_model / "clip", MelConfig(), pictures=2)
    videos = F.normalize(features.embeddings.float().mean(dim=1), dim=-1)
    encoder = ModelFolder.open(hearing_model).part("audio_clip")
    sounds = encoder(features.mels.float())
    likeness = 0.6 * sounds @ sounds.T + 0.4 * videos @ videos.T
    expected = [F.normalize(videos[row.argsort(descending=True)[:3]].mean(dim=0), dim=-1) for row in likeness]
    pictures = ModelFolder.open(out).part("memory").pictures
    torch.testing.assert_close(pictures, torch.stack(expected), atol=1e-3, rtol=0)
    assert not torch.allclose(pictures, videos, atol=1e-3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "the memory needs --data and --base and --out"),
        (["--data", "d", "--base", "b", "--out", "o", "--max-steps", "3"], "filled at once; leave out --resume"),
        (["--data", "/nowhere", "--base", "{model}", "--out", "{out}"], "/nowhere"),
    ],
)
def test_mistakes_get_one_line(
    given: list[str], said: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"model": tiny_model, "out": tmp_path / "o"}
    assert main(["train", "memory", *(word.format(**places) for word in given)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
