"""`prepare folder`: real video files into shards, however broken some are and whenever the run is killed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from video_files import write_video

from clipsonic.cli import main
from clipsonic.config import MelConfig
from clipsonic.data.clips import CLIP_S, ClipSettings, place_clips
from clipsonic.data.engines import Crashed, LocalEngine
from clipsonic.errors import MediaError, SettingsError
from clipsonic.shards import Index, read_labels, read_samples
from clipsonic.training.features import load_features

ROOT = Path(__file__).parents[1]
CUT = ["--clip-s", "0.74", "--frames", "2", "--frame-side", "32", "--test-share", "0.66", "--shard-clips", "4"]
WHOLE = {
    "bee, wasp/a.mp4": 3.2,
    "bee, wasp/b.webm": 2.0,
    "dog_barking/c.mkv": 3.0,
    "dog_barking/d.avi": 2.0,
    "e.mov": 2.0,
}
CLIPS = {"bee, wasp/a.mp4": 4, "bee, wasp/b.webm": 2, "dog_barking/c.mkv": 4, "dog_barking/d.avi": 2, "e.mov": 2}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five whole videos and six that have something wrong with them."""
    folder = tmp_path_factory.mktemp("videos")
    for name, seconds in WHOLE.items():
        write_video(folder / name, seconds)
    write_video(folder / "bad" / "silence.mkv", 2.0, tones=(0.0,))
    write_video(folder / "bad" / "mute.mp4", 2.0, tones=())
    write_video(folder / "bad" / "short.mkv", 0.3)
    (folder / "bad" / "text.mp4").write_text("no video " * 100)
    (folder / "bad" / "empty.webm").write_bytes(b"")
    cut_off = write_video(folder / "bad" / "cut_off.mkv", 4.0)
    cut_off.write_bytes(cut_off.read_bytes()[: int(cut_off.stat().st_size * 0.65)])
    return folder


def prepare(videos: Path, out: Path, model: Path | str, *more: str) -> int:
    return main(["prepare", "folder", str(videos), "--out", str(out), "--clip-model", str(model), *CUT, *more])


@pytest.fixture(scope="module")
def shards(videos: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "shards"
    assert prepare(videos, out, tiny_model, "--workers", "1") == 0
    return out


def contents(out: Path) -> dict[str, bytes]:
    """Return what must be the same for the same videos: the shards, their index and labels."""
    names = sorted(path.name for path in out.glob("*.tar"))
    return {name: (out / name).read_bytes() for name in [*names, "index.json", "labels.csv"]}


def all_samples(out: Path) -> list:
    return [sample for split in Index.read(out).counts for sample in read_samples(out, split)]


def test_every_whole_video_gives_its_clips(shards: Path) -> None:
    labels = read_labels(shards)
    rows = {row["path"]: row for row in csv.DictReader((shards / "report.csv").open(newline=""))}
    assert {path: int(rows[path]["clips"]) for path in WHOLE} == CLIPS
    samples = all_samples(shards)
    assert len(samples) == len(labels) == sum(Index.read(shards).counts.values())
    assert {label.label for label in labels.values()} == {"bee, wasp", "dog barking", "", "bad"}
    for sample in samples:
        assert sample.waveform.shape == (64 * 256,)
        assert 0.1 < np.abs(sample.waveform).max() < 0.4
        assert [min(frame.size) for frame in sample.frames] == [32, 32]
        assert sample.provenance["source"] == labels[sample.key].source
        first, last = sample.provenance["frames_s"]
        assert last - first == pytest.approx(0.37, abs=0.01)


def test_what_is_skipped_is_told_with_its_reason(shards: Path) -> None:
    report = json.loads((shards / "report.json").read_text())
    reasons = {row["path"].removeprefix("bad/"): row for row in report["skipped"]}
    wanted = {
        "silence.mkv": "is silent",
        "mute.mp4": "has no sound track",
        "short.mkv": "lasts 0.3",
        "text.mp4": "is no video",
        "empty.webm": "is no video",
        "cut_off.mkv": "before the clip does",
    }
    assert reasons.keys() == wanted.keys()
    for name, reason in wanted.items():
        assert reason in " ".join(reasons[name]["reason"])
    assert 0 < reasons["cut_off.mkv"]["clips"] < 5  # what lies before the cut is of use
    assert report["videos"] == len(WHOLE) + 1
    assert report["videos_skipped"] == 5


def test_the_whole_of_a_video_is_in_one_split(shards: Path) -> None:
    splits: dict[str, set[str]] = {}
    for label in read_labels(shards).values():
        splits.setdefault(label.source, set()).add(label.split)
    assert all(len(names) == 1 for names in splits.values())
    assert set.union(*splits.values()) == {"train", "test"}


def test_samples_do_not_say_what_they_show(shards: Path) -> None:
    for path in shards.glob("*.tar"):
        data = path.read_bytes()
        assert not any(word in data for word in (b"bee", b"wasp", b"dog", b"bark", b"silence"))


def test_a_second_run_changes_nothing_and_mends_damage(
    shards: Path, videos: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(shards, tmp_path / "copy"))
    wanted, times = contents(out), {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    broken = out / "train-000001.tar"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    assert prepare(videos, out, tiny_model, "--workers", "1") == 0
    assert "train-000001.tar is damaged and is written again" in capsys.readouterr().err
    assert contents(out) == wanted
    assert all(path.stat().st_mtime_ns == times[path] for path in times if path != broken)


def test_shards_of_videos_that_went_are_dropped(shards: Path, videos: Path, tiny_model: Path, tmp_path: Path) -> None:
    fewer = Path(shutil.copytree(videos, tmp_path / "fewer"))
    shutil.rmtree(fewer / "bee, wasp")
    out = Path(shutil.copytree(shards, tmp_path / "out"))
    assert prepare(fewer, out, tiny_model, "--workers", "1") == 0
    assert {path.name for path in out.glob("*.tar")} == {shard.name for shard in Index.read(out).shards}
    assert prepare(fewer, tmp_path / "new", tiny_model, "--workers", "1") == 0
    assert contents(out) == contents(tmp_path / "new")


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


@pytest.mark.timeout(400)
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_killed_and_started_again_it_writes_the_same_bytes(
    shards: Path, videos: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "clipsonic", "prepare", "folder", str(videos), "--out", str(out), *CUT]
    command += ["--clip-model", str(tiny_model), "--workers", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(out.glob("*.tar")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert list(out.glob("*.tar"))
    assert contents_or_none(out) != contents(shards)
    (out / ".litter.part.tar").write_bytes(b"left by a kill in the midst of writing")
    while workers and time.monotonic() < deadline:  # none may go on without its parent
        workers = [pid for pid in workers if is_running(pid)]
        time.sleep(0.05)
    assert not workers
    assert prepare(videos, out, tiny_model, "--workers", "1") == 0
    assert contents(out) == contents(shards)
    assert not list(out.glob(".*"))


def contents_or_none(out: Path) -> dict[str, bytes] | None:
    try:
        return contents(out)
    except OSError:
        return None


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.timeout(300)
def test_ray_writes_the_same_shards(
    shards: Path, videos: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", exc_type=ImportError)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # or a busy machine lets its workers starve
    assert prepare(videos, tmp_path / "out", tiny_model, "--engine", "ray", "--workers", "2") == 0
    assert contents(tmp_path / "out") == contents(shards)


def square_unless_two(number: int) -> int:
    if number == 2:
        os._exit(7)
    return number * number


@pytest.mark.timeout(300)
def test_an_item_that_brings_its_process_down_costs_only_itself() -> None:
    engine = LocalEngine(2)
    try:
        assert list(engine.run([square_unless_two], range(5))) == [0, 1, Crashed(2), 9, 16]
    finally:
        engine.close()


def test_stored_embeddings_are_those_training_would_compute(
    shards: Path, tiny_model: Path, tiny_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = {}
    for name in ("stored", "computed"):
        copy = Path(shutil.copytree(shards, tmp_path / name))
        index = json.loads((copy / "index.json").read_text())
        assert index["clip_sha256"]
        if name == "computed":
            (copy / "index.json").write_text(json.dumps(index | {"clip_sha256": ""}))
        else:
            monkeypatch.setattr("clipsonic.clip.ClipEncoder.encode_images", None)  # calling it would fail
        features[name] = load_features(copy, tiny_model / "clip", MelConfig(), pictures=2)
        monkeypatch.undo()
    stored, computed = features["stored"], features["computed"]
    assert stored.embeddings.shape == computed.embeddings.shape
    assert np.allclose(stored.embeddings.float(), computed.embeddings.float(), atol=2e-3)
    assert stored.embeddings.float().std(dim=0).max() > 1e-3  # they do differ from clip to clip


def test_embeddings_of_another_clip_are_not_used(shards: Path, tiny_copy: Path, tmp_path: Path) -> None:
    from clipsonic.clip import ClipEncoder, read_open_clip_config, save_clip

    folder = tiny_copy / "clip"
    clip = ClipEncoder.load(folder)
    clip.model.visual.proj.data.neg_()
    save_clip(clip.model, read_open_clip_config(folder), folder)
    copy = Path(shutil.copytree(shards, tmp_path / "shards"))
    features = load_features(copy, folder, MelConfig(), pictures=2)
    stored = next(read_samples(copy, "train")).embeddings
    assert stored is not None
    assert np.allclose(features.embeddings[0].float(), -stored.astype(np.float32), atol=2e-3)


def test_a_denoiser_trains_on_the_shards(shards: Path, tiny_model: Path, tmp_path: Path) -> None:
    model = {"embedding_dim": 32, "frames": 64, "fold": [4, 4], "channels": [16, 32], "attention": [False, True]}
    training = {"batch_size": 2, "max_steps": 2, "learning_rate": 1e-3, "warmup_steps": 1, "mixed_precision": "no"}
    recipe = {"training": training, "model": {**model, "norm_groups": 8, "head_dim": 16}, "task": {}}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    paths = {"config": tmp_path / "recipe.json", "data": shards, "base": tiny_model, "out": tmp_path / "out"}
    assert (
        main(["train", "denoiser", *(str(part) for name, path in paths.items() for part in (f"--{name}", path))]) == 0
    )
    weights = load_file(tmp_path / "out" / "denoiser" / "model.safetensors")
    assert all(np.isfinite(tensor.float().numpy()).all() for tensor in weights.values())


@pytest.mark.parametrize(
    ("duration_s", "settings", "starts_s"),
    [
        (1.0, {}, [0.0]),
        (CLIP_S - 0.05, {}, [0.0]),
        (10.0, {}, [(5 - CLIP_S) / 2, 5 + (5 - CLIP_S) / 2]),
        (3600.0, {"clips_per_video": 2}, [900 - CLIP_S / 2, 2700 - CLIP_S / 2]),
    ],
)
def test_clips_are_spread_evenly(duration_s: float, settings: dict, starts_s: list[float]) -> None:
    places = place_clips(duration_s, ClipSettings(**settings))
    assert [start_s for start_s, _ in places] == pytest.approx(starts_s, abs=1e-5)
    assert all(length_s == min(CLIP_S, duration_s) for _, length_s in places)


def test_an_hour_is_cut_all_through() -> None:
    starts_s = [start_s for start_s, _ in place_clips(3600.0, ClipSettings())]
    assert len(starts_s) == int(3600 / CLIP_S)
    assert np.diff(starts_s).min() >= CLIP_S - 1e-5
    with pytest.raises(MediaError, match="lasts 0.50 s, less than 1 s"):
        place_clips(0.5, ClipSettings())


def test_a_video_shorter_than_a_clip_is_filled_up_with_silence(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "one.mp4", 1.0)
    command = ["prepare", "folder", str(tmp_path / "videos"), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--clip-model", "none", "--test-share", "0"]) == 0
    sample = next(read_samples(tmp_path / "out", "train"))
    assert sample.embeddings is None
    assert sample.waveform.shape == (352 * 256,)
    assert np.abs(sample.waveform[:22050]).max() > 0.2
    assert np.abs(sample.waveform[23000:]).max() == 0
    assert max(sample.provenance["frames_s"]) < 1.0


def test_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match="clip_s is 0; allowed: 0.25 to 60"):
        ClipSettings(clip_s=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{empty}"], "holds no video; allowed suffixes"),
        (["{empty}/absent"], "is no folder"),
        (["{bad}"], "gave a clip; "),
        (["{bad}", "--frames", "0"], "frames is 0"),
        (["{bad}", "--workers", "0"], "workers is 0"),
        (["{bad}", "--clip-model", "{empty}"], "no model folder with a CLIP"),
        (["{bad}", "--ray-address", "auto"], "add --engine ray"),
        (["{bad}", "--out", "{debian}"], "already holds shards of another corpus"),
    ],
)
def test_mistakes_end_with_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {name: tmp_path / name for name in ("empty", "bad", "debian")}
    for folder in folders.values():
        folder.mkdir()
    (folders["bad"] / "text.mp4").write_text("no video")
    Index(settings={"seed": 0}).write(folders["debian"])
    given = [argument.format(**folders) for argument in arguments]
    defaults = ["--out", str(tmp_path / "out"), "--clip-model", "none", "--workers", "1"]
    assert main(["prepare", "folder", *defaults, *given]) == 2
    complaint = [line for line in capsys.readouterr().err.splitlines() if line.startswith("python -m clipsonic")]
    assert len(complaint) == 1
    assert message in complaint[0]


def test_two_runs_do_not_write_to_one_folder(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from clipsonic.data.corpus import _only_run

    with _only_run(tmp_path / "out"):
        assert prepare(videos, tmp_path / "out", "none", "--workers", "1") == 2
    assert "another run is writing" in capsys.readouterr().err
