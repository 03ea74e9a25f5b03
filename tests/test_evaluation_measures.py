"""The parts of the table: classifier, copies, scores, Fréchet distance of silence, other systems, plots, card, CLAP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

from clipsonic.cli import main
from clipsonic.errors import CheckpointError, DataError
from clipsonic.evaluation.aisfx import spectrogram
from clipsonic.evaluation.bank import Bank
from clipsonic.evaluation.card import check_card, markers, update_card
from clipsonic.evaluation.clap import Clap
from clipsonic.evaluation.classifier import Classifier, divergences, left_one_out, mean_by_label
from clipsonic.evaluation.embedders import load_embedding
from clipsonic.evaluation.frechet import Reference
from clipsonic.evaluation.judge import embed_sounds
from clipsonic.evaluation.measures import FadReference, Measures
from clipsonic.evaluation.plots import plot_report, sweep_points
from clipsonic.evaluation.report import Interval, Report
from clipsonic.evaluation.scores import ClapScorer
from clipsonic.evaluation.sets import Sounds

RATE = 22050
THINGS = ("bell", "drum", "horn")


def make_bank(takes_apart: float = 0.05, sources: int = 8) -> Bank:
    """Clusters of training sounds: things lie far apart, recordings nearer, two takes of one nearest."""
    rng = np.random.default_rng(0)
    centres = 3 * rng.standard_normal((len(THINGS), 16))
    rows, labels, names = [], [], []
    for thing, centre in zip(THINGS, centres, strict=True):
        for source in range(sources):
            recording = centre + 0.5 * rng.standard_normal(16)
            for _ in range(2):
                rows.append(recording + takes_apart * rng.standard_normal(16))
                labels.append(thing)
                names.append(f"{thing} {source}")
    embeddings = torch.tensor(np.array(rows), dtype=torch.float32)
    return Bank(keys=[str(n) for n in range(len(rows))], embeddings=embeddings, labels=labels, sources=names, seconds=1)


def as_sounds(embeddings: torch.Tensor, labels: list[str]) -> Sounds:
    """Sounds that `first_samples` turns into the embeddings again."""
    waveforms = [np.resize(row.numpy(), RATE).astype(np.float32) for row in embeddings]
    return Sounds(waveforms=waveforms, labels=labels, sample_rate=RATE)


def first_samples(waveforms: torch.Tensor, sample_rate: int) -> torch.Tensor:
    # Loudness was brought to one level; what was one length is one length again.
    return torch.nn.functional.normalize(waveforms[:, :16], dim=1)


def unit_bank(bank: Bank) -> Bank:
    embeddings = torch.nn.functional.normalize(bank.embeddings, dim=1)
    return Bank(**{**bank.__dict__, "embeddings": embeddings})


def test_the_classifier_learns_training_sounds_and_names_others():
    bank = make_bank()
    classifier = Classifier(bank)
    assert classifier.classes == sorted(THINGS)
    fresh = bank.embeddings + 0.3 * torch.randn(bank.embeddings.shape, generator=torch.Generator().manual_seed(1))
    probabilities = classifier.probabilities(fresh)
    assert classifier.hits(probabilities, bank.labels).mean() > 0.95
    assert classifier.hits(probabilities, bank.labels[::-1]).mean() < 0.5
    with pytest.raises(DataError, match="at least 2"):
        Classifier(Bank(**{**bank.__dict__, "labels": ["bell"] * len(bank.labels)}))


def test_divergence_has_its_closed_form_and_grows_with_the_mistake():
    real = {"a": np.array([0.5, 0.5]), "b": np.array([0.0, 1.0])}
    heard = np.array([[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]])
    values = divergences(real, heard, ["a", "a", "c"])
    assert values[0] == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert values[1] == pytest.approx(0)
    assert np.isnan(values[2])
    assert set(mean_by_label(heard, ["a", "a", "c"])) == {"a", "c"}
    alone = left_one_out(np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]]), ["a", "a", "c"])
    assert alone[0] == pytest.approx(0)
    assert np.isnan(alone[2])


def test_a_model_that_plays_its_corpus_back_is_told_apart_from_one_that_has_learnt_it():
    bank = unit_bank(make_bank())
    measures = Measures(bank, first_samples, ("judge", "copies", "diversity", "accuracy", "kl"))
    rng = torch.Generator().manual_seed(2)
    learnt = bank.embeddings + 0.08 * torch.randn(bank.embeddings.shape, generator=rng)
    played = bank.embeddings + 1e-4 * torch.randn(bank.embeddings.shape, generator=rng)
    measures.measure(as_sounds(learnt, bank.labels), real=True)
    for embeddings, share in ((learnt, 0.1), (played, 1.0)):
        found = measures.measure(as_sounds(embeddings, bank.labels))
        assert found.intervals["top5"].value == 1.0
        assert found.intervals["copies"].value == pytest.approx(share, abs=0.1)
    same = measures.measure(as_sounds(bank.embeddings[[0] * 4 + [20] * 4], ["bell"] * 4 + ["drum"] * 4))
    assert same.intervals["diversity"].value == pytest.approx(0, abs=1e-5)
    assert found.intervals["diversity"].value > 0.02
    assert measures.copies.take_similarity > measures.copies.other_similarity


def test_a_sound_asked_to_be_of_another_thing_scores_badly():
    bank = unit_bank(make_bank())
    measures = Measures(bank, first_samples, ("judge", "accuracy", "kl"))
    sounds = as_sounds(bank.embeddings, bank.labels)
    right = measures.measure(sounds, real=True).intervals
    chance = measures.chance(sounds, dict(zip(THINGS, (*THINGS[1:], THINGS[0]), strict=True))).intervals
    for metric in ("accuracy", "top1"):
        assert right[metric].value == 1.0
        assert chance[metric].value < 0.1
    assert chance["kl"].value > right["kl"].value + 1


def log_mel_means(waveforms: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """The mean and the spread of aiSFX's own spectrogram, without its network."""
    mel = spectrogram(waveforms)
    return torch.cat((mel.mean(1), mel.std(1)), 1)[:, ::8]


def test_silence_and_noise_are_far_from_real_sounds():
    rng = np.random.default_rng(3)
    t = np.arange(RATE) / RATE

    def tone() -> np.ndarray:
        return (np.sin(2 * np.pi * rng.uniform(200, 2000) * t) * np.exp(-3 * t)).astype(np.float32)

    def tones(count: int) -> list[np.ndarray]:
        return [tone() for _ in range(count)]

    reference = Reference(embed_sounds(log_mel_means, tones(60), RATE).numpy().astype(np.float64))
    fad = FadReference(embed=log_mel_means, reference=reference, own=False)
    measures = Measures(unit_bank(make_bank()), lambda w, r: torch.rand(len(w), 16), ("fad",), fad)

    def distance(waveforms: list[np.ndarray]) -> float:
        sounds = Sounds(waveforms=waveforms, labels=["bell", "drum"] * 10, sample_rate=RATE)
        found = measures.measure(sounds)
        assert found.details["fad"]["n"] == 20
        assert found.details["fad"]["seconds"] == 20.0
        return found.intervals["fad"].value

    near = distance(tones(20))
    assert distance([np.zeros(RATE, np.float32)] * 20) > 2 * near
    assert distance([0.1 * rng.standard_normal(RATE).astype(np.float32) for _ in range(20)]) > 2 * near
    few = measures.measure(Sounds(waveforms=tones(4), labels=["bell"] * 4, sample_rate=RATE))
    assert "fad" not in few.intervals
    assert "4 sounds" in few.left_out[0]
    starved = measures.measure(Sounds(waveforms=tones(12), labels=["bell"] * 12, sample_rate=RATE))
    assert "rank 11 of 24" in starved.left_out[0]


@pytest.fixture(scope="module")
def tiny_clap(tmp_path_factory) -> Path:
    """A ClapModel of random weights with a tokenizer of four words."""
    folder = tmp_path_factory.mktemp("clap")
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "a": 4, "dog": 5, "bell": 6}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    text = {
        "vocab_size": 7,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    audio = {"patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16}
    audio |= {"num_hidden_layers": 2, "spec_size": 64, "window_size": 4, "num_mel_bins": 16, "enable_fusion": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=8)).save_pretrained(folder)
    ClapFeatureExtractor(feature_size=16, max_length_s=2, truncation="rand_trunc", padding="repeatpad").save_pretrained(
        folder
    )
    return folder


def test_the_clap_score_is_the_cosine_of_sound_and_prompt(tiny_clap):
    clap = Clap(str(tiny_clap))
    waveform = np.random.default_rng(4).standard_normal(RATE).astype(np.float32) * 0.1
    sounds = Sounds(
        waveforms=[waveform] * 3, labels=["dog", "bell", "sea"], sample_rate=RATE, prompts=[None, "dog", None]
    )
    scores = ClapScorer(clap, {"dog": "a dog", "bell": "a bell"}).scores(sounds)
    heard, read = clap.embed(torch.from_numpy(waveform)[None], RATE), clap.embed_texts(["a dog", "dog"])
    assert heard.norm().item() == pytest.approx(1, abs=1e-5)
    assert scores[:2] == pytest.approx((read @ heard[0]).numpy(), abs=1e-5)
    assert np.isnan(scores[2])
    long = np.tile(waveform, 12)
    assert torch.equal(clap.embed(torch.from_numpy(long)[None], RATE), clap.embed(torch.from_numpy(long)[None], RATE))
    embedding = load_embedding("clap", clap=str(tiny_clap))
    assert torch.allclose(embedding.embed(torch.from_numpy(waveform)[None], RATE), heard)


def test_what_cannot_be_fetched_is_told_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="--clap-model"):
        Clap(str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "panns_inference", None)
    with pytest.raises(CheckpointError, match="pip install panns-inference"):
        load_embedding("panns")


def interval(value: float) -> Interval:
    return Interval(value=value, low=value - 0.1, high=value + 0.1, n=8)


def swept_report() -> Report:
    swept = {f" a={a} b={b}": {"a": a, "b": b} for a in (1, 2) for b in ("x", "y", "z")}
    report = Report(settings={"model_sha256": "0" * 64, "things": ["bell"], "sweep": swept})
    report.rows["real"] = {"top5": interval(0.8)}
    for number, suffix in enumerate(swept):
        report.rows[f"iq{suffix}"] = {"top5": interval(number / 10)}
    return report


def test_sweeps_become_heat_maps_and_one_setting_a_curve(tmp_path):
    report = swept_report()
    points = sweep_points(report)
    assert [point["method"] for point in points] == ["iq"] * 6
    assert points[-1]["settings"] == {"a": 2, "b": "z"}
    paths = plot_report(report, tmp_path)
    assert {path.name for path in paths} == {"top5.png", "sweep-iq-top5.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert json.loads((tmp_path / "sweep.json").read_text()) == points
    report.settings["sweep"] = {suffix: {"b": value["b"]} for suffix, value in report.settings["sweep"].items()}
    assert len(plot_report(report, tmp_path / "curve")) == 2


def test_a_card_shows_what_the_report_says_and_nothing_else_changes(tmp_path, capsys):
    report = swept_report()
    report.comparisons["top5"] = {"iq − pd": {"value": 0.1, "low": 0.05, "high": 0.2, "p": 0.01, "things": 9}}
    report.write(tmp_path)
    begin, end = markers("evaluation")
    card = tmp_path / "card.md"
    card.write_text(f"before\n{begin}\nold figures\n{end}\nafter\n")
    command = ["evaluate-card", "--report", str(tmp_path), "--card", str(card), "--rows", "real"]
    assert main(command) == 0
    text = card.read_text()
    assert text.startswith(f"before\n{begin}\n")
    assert text.endswith(f"{end}\nafter\n")
    assert "| real | 0.80 [0.70, 0.90] | 8 |" in text
    assert "iq − pd 0.100 [0.050, 0.200], p = 0.0100" in text
    assert "old figures" not in text
    assert main(command) == 0
    assert card.read_text() == text
    assert main([*command, "loud"]) == 2
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(DataError, match="report.json that evaluate wrote"):
        update_card(card, tmp_path)
    card.write_text(begin)
    with pytest.raises(DataError, match="once each"):
        check_card(card)
