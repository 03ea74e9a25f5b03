"""An evaluation end to end: shards and a tiny model in, a report out."""

import csv
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from clipsonic.audio import read_tags
from clipsonic.audio_clip import AudioClip, AudioClipConfig
from clipsonic.checkpoint import write_index
from clipsonic.cli import main
from clipsonic.config import GenerationSettings
from clipsonic.errors import DataError, SettingsError
from clipsonic.evaluation import bank, evaluation
from clipsonic.evaluation.bank import build_judge, read_bank
from clipsonic.evaluation.cli import sweep
from clipsonic.evaluation.corpus import PROMPTS, choose_things, read_held, read_pairs
from clipsonic.evaluation.nearest import Gallery
from clipsonic.evaluation.report import Interval, Report
from clipsonic.evaluation.sets import Query, canonical_prompts, frame_queries, prompt_queries
from clipsonic.evaluation.understood import Understanding
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.shards import Index, Label, Sample, ShardWriter, read_labels, read_samples, write_labels

RATE = 22050
PITCHES = {"dog barking": 200, "cat meowing": 700, "cow lowing": 2500}


def tone(pitch: float, seed: int) -> np.ndarray:
    t = np.arange(RATE) / RATE
    noise = np.random.default_rng(seed).standard_normal(RATE)
    return (0.3 * np.sin(2 * np.pi * pitch * t) + 0.01 * noise).astype(np.float32)


def write_split(folder: Path, split: str, recordings: int, copies: int) -> list[Label]:
    labels = []
    with ShardWriter(folder / f"{split}-000000.tar") as writer:
        for thing, pitch in PITCHES.items():
            for number in range(recordings):
                source = f"{thing}-{split}-{number}"
                for copy in range(copies):
                    key = f"{split}-{len(labels):04d}"
                    frame = Image.new("RGB", (64, 64), (pitch % 255, number, copy))
                    waveform = tone(pitch * (1 + 0.01 * number), len(labels))
                    writer.write(Sample(key, waveform, (frame, frame), {"source": source}, RATE))
                    labels.append(Label(key, thing, split, source))
    return labels


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Shards of three things that differ in pitch."""
    folder = tmp_path_factory.mktemp("shards")
    write_labels(folder, write_split(folder, "train", 3, 3) + write_split(folder, "test", 2, 1))
    entries = []
    for split in ("train", "test"):
        writer = ShardWriter(folder / f"{split}-000000.tar")
        writer.count = 27 if split == "train" else 6
        entries.append(writer.entry())
    Index(settings={}, shards=tuple(entries), sample_rate=RATE).write(folder)
    return folder


def spectral_embedding(waveform: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """Embed by the coarse spectrum: enough to tell pitches apart."""
    return torch.nn.functional.adaptive_avg_pool1d(torch.fft.rfft(waveform).abs()[:, None], 64)[:, 0]


class SpectralEmbedder:
    """In the place of aiSFX, whose own tests are elsewhere: its network takes a minute for these sounds."""

    def __init__(self, device: object = None) -> None:
        self.embed = spectral_embedding


def test_the_bank_holds_training_sounds_and_knows_held_out_ones(shards, tmp_path):
    judge = build_judge(shards, spectral_embedding, cache=tmp_path)
    assert judge.sources == 9
    assert judge.things == set(PITCHES)
    held = read_held(shards, list(PITCHES), 2)
    judged = judge.judge([v.waveform for v in held], RATE, [v.label for v in held])
    assert judged.scores()["top1"].value == 1.0
    assert judged.by_chance()["top1"].value == 0.0


def test_the_bank_is_kept_and_read_again(shards, tmp_path):
    first = build_judge(shards, spectral_embedding, cache=tmp_path)

    def refuse(waveform, sample_rate):
        raise AssertionError("the bank should have been read from the cache")

    again = build_judge(shards, refuse, cache=tmp_path)
    queries = torch.rand(4, 64)
    assert np.array_equal(first.neighbours(queries), again.neighbours(queries))


def test_an_interrupted_bank_is_taken_up_again(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(bank, "SAVE_EVERY", 4)
    calls = []

    def stop_at_ten(waveform, sample_rate):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return spectral_embedding(waveform, sample_rate)

    with pytest.raises(KeyboardInterrupt):
        read_bank(shards, stop_at_ten, cache=tmp_path)
    calls.append(1)
    resumed = read_bank(shards, stop_at_ten, cache=tmp_path)
    whole = read_bank(shards, spectral_embedding, cache=tmp_path / "other")
    assert len(calls) == 11 + len(whole.keys) - 8
    assert resumed.keys == whole.keys
    assert torch.equal(resumed.embeddings, whole.embeddings)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_things_are_drawn_among_those_with_enough_recordings(shards):
    labels = read_labels(shards)
    assert choose_things(labels, 10) == sorted(PITCHES)
    assert len(choose_things(labels, 2)) == 2
    assert choose_things(labels, 2) == choose_things(labels, 2)
    few = {key: label for key, label in labels.items() if label.split == "test"}
    with pytest.raises(DataError, match="training recordings"):
        choose_things(few, 2)


def test_an_oracle_needs_a_frame_of_the_thing(shards, tiny_model, tmp_path):
    folder = ClipSonicPipeline.from_pretrained(tiny_model, device="cpu").folder
    held = read_bank(shards, spectral_embedding, cache=tmp_path)
    gallery = Gallery(shards, folder, held, cache=tmp_path)
    centre = gallery.centre("dog barking")
    assert centre.norm() == pytest.approx(1, abs=1e-5)
    with pytest.raises(DataError, match="no training frame of 'whale singing'; leave out the method oracle"):
        gallery.centre("whale singing")


def test_every_seed_has_a_frame_of_another_video(shards):
    held = read_held(shards, ["dog barking"], 4)
    queries = frame_queries(held, ["dog barking"], 3)
    assert [query.seed for query in queries] == [0, 1, 2]
    assert queries[0].image is not queries[1].image
    assert queries[0].image is queries[2].image


def test_things_are_asked_for_by_their_prompt_or_their_name():
    dog, other = prompt_queries(["dog barking", "an unheard-of thing"], 2)
    assert (dog.prompt, dog.label, dog.seeds) == ("a dog barking", "dog barking", 2)
    assert other.prompt == "an unheard-of thing"


def test_free_prompts_name_things_in_other_words():
    rows = list(read_pairs(PROMPTS / "free_form.csv", "prompt"))
    canonical = {label: prompt for prompt, label in read_pairs(PROMPTS / "canonical.csv", "prompt")}
    assert len({label for _, label in rows}) >= 40
    for prompt, label in rows:
        assert label in canonical
        assert label not in prompt
        assert canonical[label] not in prompt


def test_sweeps_try_every_combination():
    base = GenerationSettings()
    assert list(sweep(base, [])) == [("", base)]
    swept = dict(sweep(base, ["guidance_scale=1,2.5", "num_inference_steps=5,9"]))
    assert list(swept)[1] == " guidance_scale=1.0 num_inference_steps=9"
    assert {(s.guidance_scale, s.num_inference_steps) for s in swept.values()} == {(1, 5), (1, 9), (2.5, 5), (2.5, 9)}


@pytest.mark.parametrize("text", ["volume=1,2", "guidance_scale", "num_inference_steps=1.5", "guidance_scale=nan"])
def test_impossible_sweeps_are_refused(text):
    with pytest.raises(SettingsError):
        list(sweep(GenerationSettings(), [text]))


def test_report_has_the_agreed_form(tmp_path):
    report = Report(settings={"seeds": 4})
    report.rows["iq"] = {"top1": Interval(value=0.25, low=0.125, high=0.5, n=8)}
    report.notes["iq"] = "pictures"
    report.write(tmp_path)
    values = json.loads((tmp_path / "report.json").read_text())
    assert values["rows"] == {"iq": {"top1": {"value": 0.25, "low": 0.125, "high": 0.5, "n": 8}}}
    assert values["settings"] == {"seeds": 4}
    assert "| iq | 0.25 [0.12, 0.50] | 8 |" in (tmp_path / "report.md").read_text()


@pytest.fixture(scope="module")
def listening_model(tiny_model, tmp_path_factory) -> Path:
    """The tiny model with an audio encoder."""
    folder = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("model") / "listening"))
    AudioClip(AudioClipConfig(embedding_dim=32)).save(folder / "audio_clip")
    write_index(folder, "tiny")
    return folder


def write_extra(folder: Path) -> Path:
    """Another system's sounds: four good ones at two rates, and one of every kind that cannot be measured."""
    lines = [("dog1.wav", "dog barking"), ("dog2.wav", "a dog barking"), ("cat.wav", "cat meowing")]
    lines += [("cow.wav", "cow lowing"), ("silent.wav", "dog barking"), ("broken.wav", "dog barking")]
    lines += [("gone.wav", "cat meowing"), ("sea.wav", "the sea"), ("../out.wav", "dog barking")]
    folder.mkdir()
    for number, (name, _) in enumerate(lines[:4]):
        soundfile.write(folder / name, tone(200 * (number + 1), number), RATE if number else 16000)
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(folder / "stray.wav", tone(300, 5), RATE)
    (folder / "broken.wav").write_text("no sound")
    rows = "".join(f"{name},{label}\n" for name, label in lines)
    (folder / "samples.csv").write_text("file,label\n" + rows)
    return folder


def check_the_oracle(out: Path, model: Path, shards: Path) -> None:
    """Make one of the row's sounds from the mean of its thing's training frames, embedded here."""
    pipeline = ClipSonicPipeline.from_pretrained(model, device="cpu")
    label = "cow lowing"
    keys = [key for key, known in read_labels(shards).items() if (known.label, known.split) == (label, "train")]
    samples = {sample.key: sample for sample in read_samples(shards, "train")}
    # Of three takes of each recording the bank holds two.
    frames = [samples[key].frames[0] for number, key in enumerate(keys) if number % 3 < 2]
    mean = torch.nn.functional.normalize(pipeline.folder.part("clip").encode_images(frames).mean(dim=0), dim=0)
    settings = GenerationSettings(num_inference_steps=1, prior_num_inference_steps=1)
    files = sorted((out / "sounds" / "corpus" / "oracle").glob("cow-lowing-s*.flac"))
    assert len(files) == 2
    for seed, file in enumerate(files):
        made = soundfile.read(file, dtype="float32")[0]
        expected, other = (pipeline.render([e], [seed], settings)[0].waveform for e in (mean, pipeline.null_embedding))
        np.testing.assert_allclose(made, expected, atol=2e-3)
        assert np.abs(made - other).max() > 0.01


def check_the_conditions(report: dict, model: Path, shards: Path) -> None:
    """Tell by hand which names the denoiser takes for the right thing."""
    pipeline = ClipSonicPipeline.from_pretrained(model, device="cpu")
    denoiser, clip = pipeline.folder.part("denoiser"), pipeline.folder.part("clip")

    def read(embedding: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return denoiser.embedding_mlp(embedding * embedding.numel() ** 0.5)

    known, labels = set(read_bank(shards, SpectralEmbedder(device="cpu").embed).keys), read_labels(shards)
    frames: dict[str, list[torch.Tensor]] = {}
    for sample in read_samples(shards, "train"):
        if sample.key in known:
            frames.setdefault(labels[sample.key].label, []).append(clip.encode_images(sample.frames[:1])[0])
    centres = {label: read(torch.nn.functional.normalize(sum(rows), dim=0)) for label, rows in frames.items()}
    for thing, found in report["things"]["zs"]["condition"].items():
        asked = read(clip.encode_text([f"a photo of {canonical_prompts([thing])[thing]}"])[0])
        assert found == (min(centres, key=lambda label: (centres[label] - asked).norm()) == thing)
    assert report["rows"]["zs"]["condition"]["n"] == 6


def test_conditions_of_the_right_thing_are_told_from_others(shards, listening_model, tmp_path):
    pipeline = ClipSonicPipeline.from_pretrained(listening_model, device="cpu")
    known = read_bank(shards, SpectralEmbedder(device="cpu").embed, cache=tmp_path)
    gallery = Gallery(shards, pipeline.folder, known, tmp_path)
    understanding = Understanding(pipeline, gallery)
    settings = GenerationSettings(prior_num_inference_steps=1)
    things = gallery.things
    pipeline.embed = lambda prompt, settings: [gallery.centre(prompt[0])[None]]
    right = [Query(label=thing, prompt=thing, seeds=2) for thing in things]
    wrong = [Query(label=thing, prompt=other) for thing, other in zip(things, things[1:] + things[:1], strict=True)]
    unknown = [Query(label="nothing here", prompt=things[0])]
    assert understanding.hits(right, settings, "zs").tolist() == [1.0] * 2 * len(things)
    assert understanding.hits(wrong, settings, "zs").tolist() == [0.0] * len(things)
    assert understanding.hits(unknown, settings, "zs").tolist() == [0.0]


@pytest.mark.timeout(300)
def test_evaluate_command_writes_report_and_sounds(shards, listening_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "AisfxEmbedder", SpectralEmbedder)
    monkeypatch.setenv("HOME", str(tmp_path))
    prompts = tmp_path / "free.csv"
    with prompts.open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "label"], ["a <b>puppy</b>", "dog barking"], ["the sea", "waves"]])
    card = tmp_path / "card.md"
    card.write_text("# Card\n\n<!-- evaluation:begin -->\nold\n<!-- evaluation:end -->\n\nEnd.\n")
    out = tmp_path / "out"
    command = ["evaluate", "--model", str(listening_model), "--data", str(shards), "--out", str(out), "--things", "3"]
    command += ["--seeds", "2", "--steps", "1", "--prior-steps", "1", "--device", "cpu", "--prompts", str(prompts)]
    command += ["--sets", "corpus", "free-form", "--system", f"tta={listening_model}", "--card", str(card)]
    command += ["--extra", f"peer={write_extra(tmp_path / 'peer')}"]
    assert main(command) == 0
    report = json.loads((out / "report.json").read_text())
    rows = report["rows"]
    made = {"iq", "zs", "pd", "aq", "oracle", "unconditional", "zs-free-form", "pd-free-form", "tta"}
    assert set(rows) == made | {"real", "vocoder", "retrieval-iq", "retrieval-zs", "chance", "peer"}
    assert rows["iq"]["top5"]["n"] == rows["unconditional"]["top5"]["n"] == rows["oracle"]["top5"]["n"] == 6
    assert {"kl", "accuracy", "clip_picture", "clip_prompt", "nearest", "copies", "diversity"} <= rows["iq"].keys()
    assert {name for name, row in rows.items() if "condition" in row} == {"iq", "zs", "pd", "aq"} | {
        "zs-free-form", "pd-free-form"
    }  # fmt: skip
    assert set(rows["iq"]["kl"]) == {"value", "low", "high", "n"}
    assert rows["real"]["accuracy"]["value"] == rows["real"]["top1"]["value"] == 1.0
    assert rows["retrieval-iq"]["copies"]["value"] == 1.0 > rows["iq"]["copies"]["value"]
    assert rows["tta"] == {metric: cell for metric, cell in rows["zs"].items() if metric != "condition"}
    assert set(report["comparisons"]["clip_picture"]) >= {"iq − pd", "pd − zs", "zs − unconditional", "oracle − iq"}
    check_what_was_left_out(report["left_out"])
    sounds = sorted((out / "sounds" / "corpus" / "iq").glob("*.flac"))
    assert len(sounds) == 6
    assert read_tags(sounds[0])["method"] == "iq"
    check_page(out)
    check_the_oracle(out, listening_model, shards)
    check_the_conditions(report, listening_model, shards)
    text = card.read_text()
    assert text.startswith("# Card\n\n<!-- evaluation:begin -->\nModel `")
    assert text.endswith("<!-- evaluation:end -->\n\nEnd.\n")
    assert f"| {Interval(**rows['iq']['top5'])} |" in text
    assert "old" not in text
    assert "| real |" in capsys.readouterr().out

    def refuse(*args, **kwargs):
        raise AssertionError("this sound lies in the folder already")

    # What is there is found again, and gives the same figures; what is missing is made.
    sounds[0].unlink()
    monkeypatch.setattr(ClipSonicPipeline, "render", refuse)
    again = [*command, "--methods", "iq", "oracle", "unconditional"]
    assert main(again) == 0
    second = json.loads((out / "report.json").read_text())["rows"]
    assert second["iq"] == rows["iq"]
    assert sounds[0].is_file()
    monkeypatch.setattr(ClipSonicPipeline, "__call__", refuse)
    assert main(again) == 0
    with pytest.raises(AssertionError, match="already"):
        main([*again, "--steps", "2"])


def check_what_was_left_out(lines: list[str]) -> None:
    """Every file that was not measured is named with its reason."""
    for reason, file in {
        "silent": "silent.wav",
        "unreadable": "broken.wav",
        "missing": "gone.wav",
        "not evaluated": "sea.wav",
        "outside the folder": "out.wav",
        "not named in the manifest": "stray.wav",
        "16,000": "resampled to 22,050 Hz",
        "at least 10": "peer: fad",
    }.items():
        assert sum(reason in line and file in line for line in lines) == 1, (reason, lines)


def check_page(out: Path) -> None:
    """Everything that the page shows lies in its folder, and prompts are text, not markup."""
    page = (out / "index.html").read_text()
    links = [unquote(link) for link in re.findall(r'src="([^"]+)"', page)]
    assert len(links) > 50
    for link in links:
        assert (out / link).resolve().is_relative_to(out.resolve())
        assert (out / link).is_file(), link
    assert "&lt;b&gt;puppy" in page
    assert "<b>puppy" not in page
    assert "sounds/extra/" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--extra", "peer={empty}"], "is empty"),
        (["--extra", "peer={bare}"], "has no manifest.jsonl"),
        (["--extra", "iq={empty}"], "allowed: a new name"),
        (["--extra", "a=x", "--system", "a=y"], "allowed: a new name"),
        (["--system", "tta=model@dance"], "method of --system"),
        (["--card", "{bare}/a.txt"], "evaluation:begin"),
        (["--sweep", "volume=1"], "allowed: NAME=V,V"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(options, message, shards, tiny_model, tmp_path, capsys):
    empty, bare = tmp_path / "empty", tmp_path / "bare"
    empty.mkdir()
    bare.mkdir()
    (bare / "a.txt").write_text("")
    command = ["evaluate", "--model", str(tiny_model), "--data", str(shards), "--out", str(tmp_path / "out")]
    assert main([*command, *(option.format(empty=empty, bare=bare) for option in options)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "out").exists()


def test_evaluate_command_tells_mistakes_in_one_line(tiny_model, tmp_path, capsys):
    command = ["evaluate", "--model", str(tiny_model), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert main([*command, "--seeds", "0"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "prepare" in errors[0]
    assert "seeds is 0" in errors[1]
    assert not (tmp_path / "out").exists()
