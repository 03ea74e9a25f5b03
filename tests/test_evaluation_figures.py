"""The shipped model still gives the figures that its card shows; a new model needs `evaluate-figures` run again."""

import json
from pathlib import Path

import pytest
import torch

from clipsonic.audio_clip import AudioClip, AudioClipConfig
from clipsonic.checkpoint import write_index
from clipsonic.cli import main
from clipsonic.errors import DataError
from clipsonic.evaluation.card import check_card, markers
from clipsonic.evaluation.figures import MARK, MEANINGS, measure, table
from clipsonic.evaluation.report import Interval
from clipsonic.pipeline import ClipSonicPipeline

ROOT = Path(__file__).parents[1]
MINI = ROOT / "checkpoints" / "mini"
STORED = ROOT / "tests" / "figures.json"
COMMAND = "python -m clipsonic evaluate-figures --model checkpoints/mini --out tests/figures.json"


def stored() -> dict[str, Interval]:
    return {name: Interval(**value) for name, value in json.loads(STORED.read_text())["figures"].items()}


@pytest.mark.timeout(300)
def test_the_figures_reproduce_within_their_intervals():
    figures, found = stored(), measure(ClipSonicPipeline.from_pretrained(MINI, device="cpu"))
    assert figures.keys() == found.keys(), f"the model has other parts now; run {COMMAND}"
    for name, kept in figures.items():
        assert kept.low <= found[name].value <= kept.high, f"{name} was {kept}, is {found[name]}; run {COMMAND}"
        assert found[name].n == kept.n


def test_the_figures_show_the_modality_gap_and_that_the_prior_narrows_it():
    figures = stored()
    assert figures["prior to picture, cosine"].value > figures["text to picture, cosine"].value
    assert figures["prior to picture, gap"].value < figures["text to picture, gap"].value


def test_the_card_shows_the_stored_figures():
    card = MINI / "README.md"
    if markers(MARK)[0] not in card.read_text():
        pytest.skip("the card has no figures markers")
    before, after = check_card(card, MARK)
    assert card.read_text() == f"{before}\n{table(stored())}\n{after}", (
        f"run {COMMAND} --card checkpoints/mini/README.md"
    )


def test_a_handful_of_pictures_is_needed(tiny_pipeline, tmp_path):
    (tmp_path / "few.csv").write_text("file,label\na.png,bell\n")
    with pytest.raises(DataError, match="at least 5"):
        measure(tiny_pipeline, tmp_path / "few.csv")
    assert all(len(meaning) > 10 for meaning in MEANINGS.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_command_takes_every_figure_that_the_model_has_parts_for(dtype, tiny_copy, tmp_path, monkeypatch):
    monkeypatch.setattr("clipsonic.device.fast_dtype", lambda kind: dtype)
    AudioClip(AudioClipConfig(embedding_dim=32)).save(tiny_copy / "audio_clip")
    write_index(tiny_copy, "tiny")
    card = tmp_path / "card.md"
    card.write_text("\n".join(markers(MARK)))
    command = ["evaluate-figures", "--model", str(tiny_copy), "--out", str(tmp_path / "f.json"), "--card", str(card)]
    assert main(command) == 0
    values = json.loads((tmp_path / "f.json").read_text())
    assert values["figures"].keys() == MEANINGS.keys()
    assert all(f["low"] <= f["value"] <= f["high"] for f in values["figures"].values())
    assert "| IQ, Clip-Score | " in card.read_text()
