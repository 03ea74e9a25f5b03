"""Retrieval by the audio encoder: ranks count what comes before, and the command writes its report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipsonic.audio_clip import AudioClip, AudioClipConfig
from clipsonic.checkpoint import write_index
from clipsonic.cli import main
from clipsonic.evaluation.retrieval import recall
from clipsonic.shards import Index, Label, Sample, ShardWriter, write_labels

RATE = 22050


def test_recall_counts_the_things_that_come_before_the_right_one():
    similarity = torch.eye(12).repeat(2, 1)
    similarity[0, 3:6] = 2.0  # three wrong things before the right one
    things = [f"thing {n}" for n in range(12)]
    rows = recall(similarity, things * 2, things)
    assert rows["R@1"].value == pytest.approx((11 + 0.5) / 12)
    assert rows["R@5"].value == rows["R@10"].value == 1.0
    assert rows["R@1"].low < rows["R@1"].value <= rows["R@1"].high


def test_the_command_writes_its_report(tiny_copy: Path, tmp_path: Path, capsys):
    AudioClip(AudioClipConfig(embedding_dim=32)).save(tiny_copy / "audio_clip")
    write_index(tiny_copy, "tiny")
    rng = np.random.default_rng(0)
    data, labels, shards = tmp_path / "shards", [], []
    for split, count in (("train", 6), ("test", 2)):
        with ShardWriter(data / f"{split}-000000.tar") as writer:
            for k in range(count):
                sound = (0.1 * rng.standard_normal(64 * 256)).astype(np.float32)
                frame = Image.new("RGB", (40, 40), (200 * (k % 2), 0, 90))
                writer.write(Sample(f"{split}{k}", sound, (frame,), {}, RATE))
                labels.append(Label(f"{split}{k}", "ab"[k % 2], split, f"{split}{k}"))
        shards.append(writer.entry())
    Index(settings={}, shards=tuple(shards)).write(data)
    write_labels(data, labels)
    arguments = ["--model", str(tiny_copy), "--data", str(data), "--out", str(tmp_path / "out")]
    assert main(["evaluate-audio-clip", *arguments, "--device", "cpu"]) == 0
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    assert set(rows) == {"sound to picture", "sound to text", "chance"}
    assert rows["chance"]["R@1"]["value"] == 0.5
    assert "R@10" in capsys.readouterr().out
