"""The command line as a user meets it: files, manifest, exit status, one line of complaint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from videos import make_video

from clipsonic.audio import FORMATS, read_audio, read_tags, write_audio
from clipsonic.cli import main
from clipsonic.config import GenerationSettings
from clipsonic.generate import slug
from clipsonic.video import open_video

SmallDisk = Callable[[], AbstractContextManager[None]]
FIELDS = [
    "file",
    "method",
    "prompt",
    "image",
    "video",
    "audio",
    "toward",
    "morph",
    "strength",
    "seed",
    "sampler",
    "steps",
    "guidance_scale",
    "prior_steps",
    "prior_guidance_scale",
    "negative_prompt",
    "template",
    "candidates",
    "score",
    "sample_rate",
    "duration_s",
    "model",
    "model_sha256",
    "seconds_taken",
    "muxed",
]


@pytest.fixture
def fast(tiny_model: Path, tmp_path: Path) -> list[str]:
    """Arguments that make `generate` quick and write into `tmp_path / "out"`."""
    place = ["--model", str(tiny_model), "--device", "cpu", "--out", str(tmp_path / "out")]
    return [*place, "--steps", "2", "--prior-steps", "2"]


def manifest(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def complaint(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that must fail, and return its one line."""
    try:
        status = main(arguments)
    except SystemExit as exit_:
        status = exit_.code
    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("python -m clipsonic")
    return lines[0]


def test_generate_writes_sounds_and_manifest(
    fast: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, out = tmp_path / "My Dog.png", tmp_path / "out"
    Image.new("RGB", (40, 40), "red").save(picture)
    arguments = ["generate", "A dog, barking!", *fast, "--image", str(picture), "--num", "2", "--seed", "4"]
    assert main(arguments) == 0
    lines = manifest(out)
    names = [f"a-dog-barking_{m}_s{s}.wav" for s in (4, 5) for m in ("zs", "pd")] + [
        f"my-dog_iq_s{s}.wav" for s in "45"
    ]
    assert [line["file"] for line in lines] == names
    assert sorted(p.name for p in out.iterdir()) == sorted([*names, "manifest.jsonl"])
    assert capsys.readouterr().out.split("\n")[:-1] == [str(out / name) for name in names]
    assert all(list(line) == FIELDS for line in lines)
    assert lines[0]["prompt"] == "A dog, barking!"
    assert (lines[0]["image"], lines[-1]["image"], lines[-1]["prompt"]) == (None, str(picture), None)
    for line in lines:
        sound, rate = read_audio(out / str(line["file"]))
        assert rate == line["sample_rate"]
        assert len(sound) / rate == line["duration_s"]
        tags = read_tags(out / str(line["file"]))
        assert (tags["method"], tags["seed"]) == (line["method"], str(line["seed"]))
        assert tags["model_sha256"] == line["model_sha256"]


def test_videos_get_their_sound_under_them(fast: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short, long = (
        make_video(tmp_path / "My Dog.webm", codec="libvpx"),
        make_video(tmp_path / "l.mp4", seconds=65, fps=2),
    )
    assert main(["generate", *fast, "--video", str(short), str(long), "--duration", "1.5", "--toward", "a cat"]) == 0
    told = capsys.readouterr()
    assert told.err.splitlines() == [f"{long} lasts 65 s; its first 60 s get a sound"]
    first, second = manifest(tmp_path / "out")
    assert (first["file"], first["muxed"], first["video"]) == ("my-dog_iq_s0.wav", "my-dog_iq_s0.mp4", str(short))
    assert (first["toward"], first["morph"], second["duration_s"]) == ("a cat", 0.5, 1.5)
    assert open_video(tmp_path / "out/my-dog_iq_s0.mp4").duration_s == pytest.approx(1.5, abs=0.2)
    assert str(tmp_path / "out/l_iq_s0.mp4") in told.out.splitlines()


def test_strength_is_told_of_sounds_made_from_sounds(hearing_model: Path, fast: list[str], tmp_path: Path) -> None:
    bark, model = tmp_path / "bark.wav", ["--model", str(hearing_model)]
    write_audio(bark, np.sin(np.arange(22_050) / 5).astype(np.float32), 22_050)
    made = {}
    for strength in ("0.3", "1"):
        arguments = ["generate", "dog", "--methods", "zs", "aq", "--audio", str(bark), "--strength", strength]
        assert main([*arguments, *fast, *model]) == 0
        words, sound = manifest(tmp_path / "out")
        assert (words["strength"], sound["strength"], sound["audio"]) == (None, float(strength), str(bark))
        tags = read_tags(tmp_path / "out" / str(sound["file"]))
        assert json.loads(tags["settings"])["strength"] == float(strength)
        made[strength] = [(tmp_path / "out" / str(line["file"])).read_bytes() for line in (words, sound)]
    words, sounds = ([read_audio(data)[0] for data in pair] for pair in zip(*made.values(), strict=True))
    assert np.array_equal(*words) and not np.array_equal(*sounds)


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats_carry_their_tags(suffix: str, fast: list[str], tmp_path: Path) -> None:
    assert main(["generate", "dog", *fast, "--methods", "zs", "--format", suffix, "--sampler", "ddim"]) == 0
    tags = read_tags(tmp_path / f"out/dog_zs_s0.{suffix}")
    settings = GenerationSettings.from_dict(json.loads(tags["settings"]))
    assert (tags["prompt"], settings.sampler, settings.num_inference_steps) == ("dog", "ddim", 2)


def test_the_same_command_gives_the_same_bytes(fast: list[str], tmp_path: Path) -> None:
    arguments = ["generate", "dog", "cat", *fast]
    assert main(arguments) == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.wav")}
    assert main(arguments) == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.wav")} == before
    assert len(manifest(tmp_path / "out")) == len(before) == 4


def test_a_later_run_keeps_the_earlier_entries(fast: list[str], tmp_path: Path) -> None:
    assert main(["generate", "dog", *fast, "--methods", "zs"]) == 0
    assert main(["generate", "cat", *fast, "--methods", "zs"]) == 0
    assert [line["prompt"] for line in manifest(tmp_path / "out")] == ["dog", "cat"]


def test_prompts_from_a_file_and_equal_slugs(fast: list[str], tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("dog!\n\n  dog?  \n犬\n", encoding="utf-8")
    assert main(["generate", *fast, "--prompts", str(file), "--methods", "zs"]) == 0
    lines = manifest(tmp_path / "out")
    assert [line["prompt"] for line in lines] == ["dog!", "dog?", "犬"]
    assert len({line["file"] for line in lines}) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog, barking!", "a-dog-barking"),
        ("../../etc/passwd", "etc-passwd"),
        ("Café; rm -rf /", "cafe-rm-rf"),
        ("x" * 400, "x" * 60),
    ],
)
def test_slugs_are_safe(text: str, expected: str) -> None:
    assert slug(text) == expected
    assert slug("犬").startswith("prompt-")
    assert slug("犬") != slug("猫")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "num_inference_steps is 0; allowed"),
        (["--steps", "-1"], "num_inference_steps is -1; allowed"),
        (["--steps", "abc"], "--steps: 'abc' is not a whole number"),
        (["--guidance-scale", "nan"], "guidance_scale is nan; allowed"),
        (["--guidance-scale", "much"], "'much' is not a number"),
        (["--prior-steps", "0"], "prior_num_inference_steps is 0"),
        (["--sampler", "magic"], "invalid choice: 'magic' (choose from"),
        (["--methods", "magic"], "invalid choice: 'magic' (choose from"),
        (["--methods", "iq"], "none that renders a prompt"),
        (["--methods", "sd"], "cannot do 'sd'"),
        (["--seed", "-5"], "seed is -5; allowed"),
        (["--num", "0"], "num_audios is 0; allowed"),
        (["--template", "dog"], "template is 'dog'; allowed"),
        (["--format", "aiff"], "invalid choice: 'aiff'"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
        (["--prompts", "/nowhere/prompts.txt"], "cannot read the prompts in /nowhere/prompts.txt"),
        (["--image", "/nowhere/dog.png"], "cannot read the picture dog.png: No such file"),
        (["--candidates", "9"], "candidates is 9; allowed: a whole number from 1 to 8"),
        (["--candidates", "2"], "candidates is 2, but the model tiny has no audio_clip"),
        (["--duration", "61"], "duration_s is 61.0; allowed"),
        (["--morph", "2"], "morph is 2.0; allowed"),
        (["--strength", "0"], "strength is 0.0; allowed: a number from 0.05 to 1"),
        (["--strength", "half"], "--strength: 'half' is not a number"),
        (["--toward", " "], "the prompt is empty"),
        (["--toward", "/nowhere/dog.png"], "cannot read the picture dog.png: No such file"),
        (["--video", "/nowhere/dog.mp4"], "cannot read the video dog.mp4: No such file"),
        (["--audio", "/nowhere/dog.wav"], "cannot read dog.wav as a sound"),
        (["--model", "/nowhere/model"], "no model folder /nowhere/model"),
        (["--magic"], "unrecognized arguments: --magic"),
        (["x" * 10_000], "unrecognized arguments: [...]"),
    ],
    ids=lambda value: value[:2] if isinstance(value, list) else None,
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], message: str, fast: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in complaint(capsys, ["generate", "dog", *fast, *arguments])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("", "is empty"), (" \n", "is empty"), ("x" * 10_000, "has 10,000 characters; allowed are 500")],
)
def test_impossible_prompts_are_told(
    prompt: str, message: str, fast: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"the prompt {message}" in complaint(capsys, ["generate", "dog", prompt, *fast])


def test_bad_pictures_are_told(fast: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, broken = tmp_path / "whole.png", tmp_path / "broken.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    broken.write_bytes(whole.read_bytes()[:2000])
    assert "broken.png is damaged" in complaint(capsys, ["generate", *fast, "--image", str(whole), str(broken)])
    broken.write_text("no picture")
    assert "broken.png is not a picture" in complaint(capsys, ["generate", *fast, "--image", str(broken)])
    assert not (tmp_path / "out").exists()


def test_nothing_to_do_and_empty_prompt_files_are_told(
    fast: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nothing to do" in complaint(capsys, ["generate", *fast])
    (tmp_path / "empty.txt").write_text("\n \n")
    assert "has no prompts" in complaint(capsys, ["generate", *fast, "--prompts", str(tmp_path / "empty.txt")])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    assert "UTF-8" in complaint(capsys, ["generate", *fast, "--prompts", str(tmp_path / "latin.txt")])


def test_commands_are_needed_and_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert "required: COMMAND" in complaint(capsys, [])
    assert "invalid choice: 'sing'" in complaint(capsys, ["sing"])


@pytest.mark.parametrize("part", ["denoiser/model.safetensors", "clip/model.safetensors", "model_index.json"])
def test_a_broken_model_is_told(
    part: str, fast: list[str], tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_copy / part
    path.write_bytes(path.read_bytes()[:-50])
    assert str(path) in complaint(capsys, ["generate", "dog", *fast, "--model", str(tiny_copy)])
    assert not (tmp_path / "out").exists()


def test_an_unwritable_place_is_told(fast: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert "choose another --out" in complaint(capsys, ["generate", "dog", *fast, "--out", str(tmp_path / "file/out")])
    assert "choose another --out" in complaint(capsys, ["generate", "dog", *fast, "--out", "/proc/out"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.jsonl").write_text("not ours")
    assert "is not a manifest" in complaint(capsys, ["generate", "dog", *fast])
    assert (tmp_path / "out/manifest.jsonl").read_text() == "not ours"


def test_a_full_disk_is_told_and_leaves_nothing(
    fast: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], small_disk: SmallDisk
) -> None:
    with small_disk():
        message = complaint(capsys, ["generate", "dog", *fast])
    assert "cannot write" in message
    assert not list((tmp_path / "out").iterdir())


def test_info_says_what_there_is(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--model", str(tiny_model), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    for word in ("torch", "device           cpu", "model tiny", "Tiny", "denoiser", "vocoder"):
        assert word in text
    assert main(["info", "--model", str(tiny_model), "--device", "cpu", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"]["card"] == "Tiny"
    assert report["model"]["parts"]["denoiser"]["parameters"] > 100_000
    assert report["model"]["parts"]["scheduler"]["parameters"] == 0


def test_benchmark_shares_add_up(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--model", str(tiny_model), "--device", "cpu", "--benchmark", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["benchmark"]
    assert set(figures["stages"]) == {"embedding", "prior", "denoising", "vocoder"}
    assert 0.5 < sum(row["share"] for row in figures["stages"].values()) <= 1
    assert figures["stages"]["denoising"]["flop"] > 1e8
    assert figures["cold_s"] > figures["warm_s"] > 0
    assert figures["peak_memory_mb"] > 100
    assert figures["matmul_peak_flops"] > 1e9


def test_importing_is_light_and_changes_no_state() -> None:
    code = (
        "import sys, clipsonic, clipsonic.cli; print([m for m in ('torch', 'diffusers', 'gradio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_module_runs_as_a_command(tiny_model: Path) -> None:
    command = [sys.executable, "-m", "clipsonic", "generate", "dog", "--steps", "0", "--model", str(tiny_model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("python -m clipsonic: num_inference_steps is 0; allowed: a whole number from 1")
