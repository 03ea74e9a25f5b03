"""From ratings to results.json, the report and its tables, through the command line."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsonic.cli import main
from clipsonic.errors import DataError
from clipsonic.listening.analyze import analyze, read_ratings, write_ratings
from clipsonic.listening.answers import stored_ratings
from clipsonic.listening.ratings import Rating
from clipsonic.listening.report import to_markdown
from clipsonic.listening.sets import ListeningSet
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


STORE = """
CREATE TABLE listeners (id INTEGER PRIMARY KEY, number INTEGER);
CREATE TABLE pages (id INTEGER PRIMARY KEY, listener INTEGER, position INTEGER, design TEXT, purpose TEXT, item TEXT,
    expected TEXT);
CREATE TABLE sounds (id INTEGER PRIMARY KEY, page INTEGER, slot INTEGER, stimulus TEXT, system TEXT, noise INTEGER);
CREATE TABLE answers (sound INTEGER, scale TEXT, rating INTEGER, seconds REAL, given_at TEXT);
INSERT INTO listeners VALUES (3, 1);
INSERT INTO pages VALUES (1, 3, 0, 'acr', 'rating', 'p001', '{}'),
    (2, 3, 1, 'acr', 'trap', 'p001', '{"fidelity": [4, 4]}'),
    (3, 3, 2, 'preference', 'rating', 'p001', '{}'), (4, 3, 3, 'preference', 'trap', 'p001', '{"overall": [2, 2]}'),
    (5, 3, 4, 'mushra', 'gold', 'p001', '{"quality": [0, 40]}');
INSERT INTO sounds VALUES (1, 1, 0, 'p001.zs.s0', 'zs', 0), (2, 2, 0, 'p001.zs.s0', 'zs', 0),
    (3, 3, 0, 'p001.zs.s0', 'zs', 0), (4, 3, 1, 'p001.pd.s0', 'pd', 0), (5, 4, 0, 'p001.pd.s0', 'pd', 0),
    (6, 4, 1, 'p001.zs.s0', 'zs', 0), (7, 5, 0, 'p001.zs.s0', 'zs', 0), (8, 5, 1, 'p001.pd.s0', 'pd', 1);
INSERT INTO answers VALUES (1, 'fidelity', 5, 2.5, '2026-01-01'), (2, 'fidelity', 3, 1, ''), (3, 'overall', 2, 1, ''),
    (5, 'overall', 1, 1, ''), (7, 'quality', 80, 1, ''), (8, 'quality', 90, 1, '');
"""


def test_answers_of_the_running_test_are_read_with_their_checks(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "answers.sqlite")
    database.executescript(STORE)
    database.close()
    found = stored_ratings(tmp_path / "answers.sqlite")
    assert [(r.purpose, r.design, r.stimulus, r.other, r.value, r.low, r.high, r.trial) for r in found] == [
        ("rating", "acr", "p001.zs.s0", "", 5.0, None, None, 1),
        ("trap", "acr", "p001.zs.s0", "", 3.0, 4.0, 4.0, 2),
        ("rating", "preference", "p001.zs.s0", "p001.pd.s0", 0.0, None, None, 3),
        ("trap", "preference", "p001.pd.s0", "p001.zs.s0", 1.0, 0.0, 0.0, 4),
        ("gold", "mushra", "p001.zs.s0", "", 80.0, None, None, 5),
        ("gold", "mushra", "p001.pd.s0", "", 90.0, 0.0, 40.0, 5),
    ]
    assert (found[0].listener, found[0].seconds, found[0].at) == ("L0003", 2.5, "2026-01-01")
