"""The nearest-neighbour judge on embeddings whose neighbours are known."""

import numpy as np
import pytest
import torch

from clipsonic.errors import DataError
from clipsonic.evaluation.judge import Judge, Judged, bootstrap_mean

THINGS = ("dog", "cat", "cow", "pig", "hen", "owl")


def no_embedding(waveform, sample_rate):
    raise AssertionError("this test gives embeddings, not sounds")


def judge_of_axes(copies: int = 1, embed=no_embedding) -> Judge:
    """Return a judge that knows each thing by one recording on an axis of its own."""
    embeddings = torch.eye(len(THINGS)).repeat_interleave(copies, 0)
    labels = [thing for thing in THINGS for _ in range(copies)]
    return Judge(embed, embeddings, labels, [f"{label}.wav" for label in labels])


def test_nearest_recording_comes_first():
    judge = judge_of_axes()
    query = torch.tensor([[0.1, 1.0, 0.0, 0.2, 0.0, -1.0]])
    assert judge.neighbours(query)[0].tolist()[:3] == ["cat", "pig", "dog"]
    assert "owl" not in judge.neighbours(query)[0]


def test_a_recording_counts_once():
    judge = judge_of_axes(copies=4)
    assert judge.sources == len(THINGS)
    assert len(set(judge.neighbours(torch.rand(3, len(THINGS)))[0])) == 5


def test_scores_are_means_over_things():
    judged = Judged(
        labels=np.array(["dog", "dog", "dog", "cat"], dtype=object),
        neighbours=np.array(
            [["dog", *"abcd"], ["cat", "dog", *"abc"], [*"abcd", "dog"], ["dog", *"abcd"]], dtype=object
        ),
    )
    assert judged.by_thing("top1") == {"cat": 0.0, "dog": pytest.approx(1 / 3)}
    assert judged.by_thing("top5") == {"cat": 0.0, "dog": 1.0}
    top5 = judged.scores()["top5"]
    assert (top5.value, top5.low, top5.high, top5.n) == (0.5, 0.0, 1.0, 4)


def test_chance_asks_for_the_other_things():
    everything_is_a_dog = np.array([["dog", *"abcd"]] * 4, dtype=object)
    judged = Judged(labels=np.array(["dog", "cat", "cow", "pig"], dtype=object), neighbours=everything_is_a_dog)
    assert judged.scores()["top1"].value == judged.by_chance()["top1"].value == 0.25


def test_loudness_does_not_matter():
    def embed(waveform, sample_rate):
        return waveform.abs().mean(1, keepdim=True) * torch.ones(1, len(THINGS)) + torch.eye(len(THINGS))[1]

    judge = judge_of_axes(embed=embed)
    noise = np.random.default_rng(0).standard_normal(22050).astype(np.float32)
    judged = judge.judge([noise * 0.1, noise * 0.01], 22050, ["cat", "cat"])
    assert judged.neighbours[0].tolist() == judged.neighbours[1].tolist()


def test_bootstrap_interval_covers_the_mean_and_narrows():
    values = np.random.default_rng(0).random(400)
    few, many = bootstrap_mean(values[:25], 25), bootstrap_mean(values, 400)
    assert few.low < few.value < few.high
    assert many.high - many.low < (few.high - few.low) / 2
    assert many == bootstrap_mean(values, 400)


def test_a_tiny_bank_is_refused():
    with pytest.raises(DataError, match="at least 5"):
        Judge(no_embedding, torch.eye(2), ["dog", "cat"], ["a", "b"])
