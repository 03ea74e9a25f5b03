"""From ratings to results.json, the report and its tables, through the command line."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsonic.cli import main
from clipsonic.errors import DataError
from clipsonic.listening.analyze import analyze, read_ratings, write_ratings
from clipsonic.listening.answers import stored_ratings
from clipsonic.listening.design import Dealer, TestDesign
from clipsonic.listening.ratings import Rating
from clipsonic.listening.report import to_markdown
from clipsonic.listening.sets import ANSWERS, ListeningSet
from clipsonic.listening.store import KeptPage, KeptSound, Store
from tests.listening_sets import build_set

EVIL = "<script>alert(1)</script> | [a](b) =1+1\n# head"
TRUTH = {"zs": 2.4, "pd": 3.4}


@pytest.fixture
def rated(tmp_path: Path) -> ListeningSet:
    """A set that ten attentive listeners and one asleep have rated."""
    made = build_set(tmp_path / "set", prompts=("a dog", EVIL, "bells", "rain"), checks=True)
    rng, ratings = np.random.default_rng(0), []
    for listener in range(11):
        for stimulus in made.manifest.stimuli:
            kind = made.items[stimulus.item].kind
            for scale in ("fidelity", "relevance"):
                level = TRUTH.get(stimulus.system, 4.0 if kind == "trap" else 1.0)
                value = round(float(np.clip(level + rng.normal(0, 0.8) * (kind == "test"), 1, 5)))
                value = 5 if listener == 10 else value
                low, high = stimulus.expected.get(scale, (None, None))
                ratings.append(
                    Rating(
                        listener=f"l{listener:02}",
                        item=stimulus.item,
                        stimulus=stimulus.id,
                        system=stimulus.system,
                        scale=scale,
                        value=value,
                        purpose="rating" if kind == "test" else kind,
                        low=low,
                        high=high,
                    )
                )
    write_ratings(made.folder / "imports" / "panel.csv", ratings)
    return made


def test_ratings_come_back_from_the_file_as_they_were(rated: ListeningSet) -> None:
    ratings = read_ratings(rated)
    assert len(ratings) == 11 * 11 * 2
    write_ratings(rated.folder / "imports" / "panel.csv", ratings)
    assert read_ratings(rated) == ratings


def test_the_command_writes_what_the_design_says(
    rated: ListeningSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results"
    assert main(["listen", "analyze", str(rated.folder), "--out", str(out)]) == 0
    assert "pd fidelity" in capsys.readouterr().out
    values = json.loads((out / "results.json").read_text())
    assert list(values["systems"]) == ["zs", "pd"]
    kept = [r for r in read_ratings(rated) if r.listener != "l10" and r.purpose == "rating"]
    for system, row in values["systems"].items():
        assert set(row) == {"fidelity", "relevance"}
        for scale, cell in row.items():
            own = [r.value for r in kept if (r.system, r.scale) == (system, scale)]
            assert cell["mos"] == pytest.approx(np.mean(own))
            assert cell["n"] == len(own) == 40
            assert cell["low"] < cell["mos"] < cell["high"]
            assert cell["listeners"] == 10
    assert [entry["listener"] for entry in values["screened"]] == ["l10"]
    assert "gold" in values["screened"][0]["reason"]
    assert {(t["scale"], t["kind"]) for t in values["tests"]} == {
        (scale, kind) for scale in ("fidelity", "relevance") for kind in ("wilcoxon", "t")
    }
    assert all(test["p_holm"] < 0.05 for test in values["tests"] if test["kind"] == "t")
    for scale in ("fidelity", "relevance"):
        with Image.open(out / f"mos-{scale}.png") as picture:
            pixels = np.asarray(picture.convert("L"))
        assert pixels.min() < 100 < 250 < pixels.max()
    for name in ("mos", "prompts", "tests", "screened", "ratings"):
        assert list(csv.reader((out / f"{name}.csv").open(newline="")))[1:], name


def test_the_report_says_what_p8002_asks_for(rated: ListeningSet) -> None:
    text = to_markdown(rated, analyze(rated, read_ratings(rated)))
    for words in (
        "absolute category rating",
        "fidelity (“How good",
        "10 listeners gave 160 ratings that count; 1 more were left out",
        "4 prompts or pictures, 2 systems (zs, pd)",
        "0.50 s each, 16000 Hz, mono, brought to -23 LUFS",
        "95 % t intervals",
        "Holm-corrected",
        "Krippendorff's alpha",
        "l10: failed 1 gold and 1 trap of 2 checks",
    ):
        assert words in text.replace("\\", ""), words


def test_prompts_are_no_markup_in_the_report_and_no_formula_in_tables(rated: ListeningSet, tmp_path: Path) -> None:
    main(["listen", "analyze", str(rated.folder), "--out", str(tmp_path / "r")])
    text = (tmp_path / "r/report.md").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\| \\[a\\](b) =1+1 \\# head" in text
    rows = [line for line in text.splitlines() if line.startswith("| p002")]
    assert len(rows) == 4


def test_what_cannot_be_analyzed_is_told(rated: ListeningSet, tmp_path: Path, capsys) -> None:
    empty = build_set(tmp_path / "empty")
    assert main(["listen", "analyze", str(empty.folder), "--out", str(tmp_path / "r")]) == 2
    assert "has no ratings yet" in capsys.readouterr().err
    ratings = read_ratings(rated)
    with pytest.raises(DataError, match="no ratings are left: all 1 listeners"):
        analyze(rated, [r for r in ratings if r.listener == "l10"])
    with pytest.raises(DataError, match="which .* does not have"):
        analyze(empty, ratings)
    path = rated.folder / "imports" / "panel.csv"
    path.write_text(path.read_text().replace(",fidelity,3,", ",fidelity,7,", 1))
    assert main(["listen", "analyze", str(rated.folder), "--out", str(tmp_path / "r")]) == 2
    assert "cannot read the ratings in" in capsys.readouterr().err
    (empty.folder / "answers.sqlite").write_text("no database, but long enough to be looked at as one")
    assert main(["listen", "analyze", str(empty.folder), "--out", str(tmp_path / "r")]) == 2
    assert "cannot read the answers" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


SET_OF = {"acr": {}, "preference": {}, "mushra": {"reference": True}}


def meant(page: KeptPage, sound: KeptSound, scale: str) -> int:
    """Return what an attentive listener answers: pd is better than zs, and checks are heeded."""
    plain = page.design == "mushra" and page.purpose == "gold" and not sound.noise  # beside itself in noise
    if scale in page.expected and not plain:
        return page.expected[scale][0]
    if page.design == "preference":
        return 1 if sound.system == "pd" else 2
    values = {"acr": {"zs": 2, "pd": 4}, "mushra": {"zs": 30, "pd": 60, "reference": 100, "anchor35": 10}}
    return values[page.design][sound.system]


def missed(page: KeptPage, scale: str) -> int:
    """Return what fails a check, and is a bad answer to anything else."""
    return {"acr": 5 if page.expected.get(scale, (1, 1))[1] < 5 else 1, "preference": 0, "mushra": 100}[page.design]


def give(store: Store, dealer: Dealer, attentive: bool) -> list[tuple[object, ...]]:
    """Take a whole test through the store; return what was answered."""
    joined = store.join(100, dealer.kind, dealer.pages)
    assert joined is not None
    given = []
    for page in store.pages(joined[1]):
        for sound in page.rated:
            for scale in page.scales:
                rating = meant(page, sound, scale) if attentive else missed(page, scale)
                for answer in (0 if page.design != "acr" else 3, rating):  # the listener thinks again
                    store.answer(sound, scale, answer, 1, 2.5)
                value = {1: 1.0, 2: 0.0, 0: 0.5}[rating] if page.design == "preference" else float(rating)
                row = (f"L{joined[1].id:04}", page.purpose, page.item, sound.stimulus, sound.system, scale, value)
                given.append((*row, page.position + 1, 2.5))
    return given


@pytest.mark.parametrize("design", ["acr", "preference", "mushra"])
def test_answers_of_the_running_test_are_analyzed_with_their_checks(design: str, tmp_path: Path) -> None:
    made = build_set(tmp_path / "set", prompts=("a dog", "bells", "rain"), design=design, **SET_OF[design])
    dealer = Dealer(made, TestDesign(training=0, gold=2, traps=2))
    store = Store(made.folder / ANSWERS)  # stays open: the test is running
    given = [row for attentive in (True, True, True, False) for row in give(store, dealer, attentive)]
    found = read_ratings(made)
    fields = ("listener", "purpose", "item", "stimulus", "system", "scale", "value", "trial", "seconds")
    assert Counter(tuple(getattr(r, f) for f in fields) for r in found) == Counter(given)
    checks = {(r.listener, r.trial) for r in found if r.low is not None}
    assert len(checks) == 4 * 4, "each listener's two gold and two trap pages can be judged"
    results = analyze(made, found)
    assert [(s.listener, s.reason) for s in results.screened] == [
        ("L0004", "failed 2 gold and 2 trap of 4 checks of attention")
    ]
    assert results.listeners == 3
    assert {(r.listener, r.purpose) for r in results.ratings} == {(f"L000{n}", "rating") for n in (1, 2, 3)}
    if design == "preference":
        assert all(r.value == (r.system == "pd") for r in results.ratings)
        return
    wanted = {"zs": 2, "pd": 4} if design == "acr" else {"zs": 30, "pd": 60, "reference": 100, "anchor35": 10}
    assert {name: {m.mos for m in row.values()} for name, row in results.systems.items()} == {
        name: {value} for name, value in wanted.items()
    }
    assert {m.n for row in results.systems.values() for m in row.values()} == {9}
    store.close()


def test_a_foreign_database_is_told(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "answers.sqlite").close()
    with pytest.raises(DataError, match="no such table"):
        stored_ratings(tmp_path / "answers.sqlite")
