"""Videos that people made, as Gradio's package ships them: all without sound, which is found, told and mended."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import av
import gradio
import numpy as np
import pytest

from clipsonic.cli import main

VIDEOS = Path(gradio.__file__).parent / "media_assets" / "videos"
if not (VIDEOS / "world.mp4").is_file():
    pytest.skip("this Gradio ships no videos", allow_module_level=True)


def test_their_silence_is_found_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shards = tmp_path / "shards"
    folder = ["folder", str(VIDEOS), "--out", str(shards), "--clip-model", "none", "--workers", "1"]
    assert main(["prepare", *folder]) == 2
    assert "none of the videos" in capsys.readouterr().err.splitlines()[-1]
    with (shards / "report.csv").open(newline="") as file:
        told = {row["video"] if "path" not in row else row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert told["muted_b.mp4"] == "has no sound track"
    assert told["world.mp4"].count("is silent from") == 7, "thirty seconds hold seven clips"


def test_a_silent_one_gets_a_sound(tiny_model: Path, tmp_path: Path):
    out = tmp_path / "sounds"
    asked = ["--video", str(VIDEOS / "muted_b.mp4"), "--model", str(tiny_model), "--device", "cpu", "--steps", "1"]
    assert main(["generate", *asked, "--out", str(out)]) == 0
    entry = json.loads((out / "manifest.jsonl").read_text())
    assert entry["method"] == "iq" and entry["duration_s"] == pytest.approx(5.0, abs=0.05)
    with av.open(str(out / entry["muxed"])) as muxed:
        assert {stream.type for stream in muxed.streams} == {"video", "audio"}
        assert sum(1 for _ in muxed.decode(video=0)) == 150
    with av.open(str(out / entry["muxed"])) as muxed:
        heard = np.concatenate([frame.to_ndarray().ravel() for frame in muxed.decode(audio=0)])
    assert np.abs(heard).max() > 0.001
