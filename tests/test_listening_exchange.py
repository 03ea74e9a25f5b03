"""Exports that other tools take, imports with their quirks, and pymushra as a real counterpart."""

from __future__ import annotations

import csv
import json
import re
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from clipsonic.audio import read_audio
from clipsonic.cli import main
from clipsonic.errors import DataError
from clipsonic.listening.analyze import analyze, read_ratings
from clipsonic.listening.exports import export_beaqle, export_p808, export_webmushra
from clipsonic.listening.imports import import_file, read_file
from clipsonic.listening.ratings import Rating
from clipsonic.listening.sets import ListeningSet
from clipsonic.listening.verify import verify
from tests.listening_sets import build_set

EVIL = '</script><img src=x onerror=alert(1)> "dog" & <b>'


@pytest.fixture
def acr(tmp_path: Path) -> ListeningSet:
    return build_set(tmp_path / "set", prompts=("a dog barking", EVIL), checks=True)


@pytest.fixture
def mushra(tmp_path: Path) -> ListeningSet:
    return build_set(tmp_path / "set", prompts=("a dog", EVIL), design="mushra", reference=True)


@pytest.fixture
def preference(tmp_path: Path) -> ListeningSet:
    return build_set(tmp_path / "set", prompts=("a dog", EVIL), systems=("zs", "pd", "iq"), design="preference")


def stem(listening_set: ListeningSet, stimulus: str) -> str:
    return Path(listening_set.file_of[stimulus]).stem


def webmushra_pages(path: Path) -> list[dict]:
    pages = yaml.safe_load(path.read_text(encoding="utf-8"))["pages"]
    assert pages[1][0] == "random"
    return pages[1][1:]


def test_webmushra_gets_likert_pages_with_two_scales(acr: ListeningSet, tmp_path: Path) -> None:
    path = export_webmushra(acr, tmp_path / "out")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert config["remoteService"] == "service/write.php"
    assert (config["bufferSize"], config["testId"]) == (2048, "a-test-of-tones")
    assert [page["type"] for page in (config["pages"][0], config["pages"][2])] == ["generic", "finish"]
    assert config["pages"][2]["writeResults"] is True
    assert config["pages"][2]["questionnaire"][0]["name"] == "participant"
    pages = webmushra_pages(path)
    # Only likert_single_stimulus: with others first, write.php loses lss.csv.
    assert [page["type"] for page in pages] == ["likert_single_stimulus"] * 4
    for page in pages:
        assert (page["mustRate"], page["mustPlayback"]) == (True, "ended")
        assert [[answer["value"] for answer in row] for row in page["response"]] == [list("12345")] * 2
        assert [answer["label"] for answer in page["response"][0]] == ["Bad", "Poor", "Fair", "Good", "Excellent"]
        for name, url in page["stimuli"].items():
            assert re.fullmatch(r"s_[0-9a-f]+", name)
            assert (tmp_path / "out" / url).read_bytes() == (acr.folder / f"wavs/{name[2:]}.wav").read_bytes()


def test_nothing_in_an_export_tells_the_system(acr: ListeningSet, tmp_path: Path) -> None:
    text = export_webmushra(acr, tmp_path / "out").read_text(encoding="utf-8")
    for word in ("zs", "pd", "gold1", "trap1", ".s0"):
        assert not re.search(rf"\b{re.escape(word)}\b", text), word
    assert not list((tmp_path / "out").rglob("answer_key*"))


def test_prompts_are_text_in_every_export(acr: ListeningSet, preference: ListeningSet, tmp_path: Path) -> None:
    for page in webmushra_pages(export_webmushra(acr, tmp_path / "w")):
        assert not re.search(r"<(?!/?(p|strong|ol|li)>)", page["content"]), page["content"]
    script = export_beaqle(preference, tmp_path / "b").read_text(encoding="utf-8")
    assert "<" not in script
    config = json.loads(script.removeprefix("var TestConfig = "))
    assert "&lt;img" in config["Testsets"][-1]["Name"]


def test_mushra_sounds_are_what_webmushra_demands(mushra: ListeningSet, tmp_path: Path) -> None:
    pages = webmushra_pages(export_webmushra(mushra, tmp_path / "out"))
    assert [page["type"] for page in pages] == ["mushra"] * 2
    for page in pages:
        assert page["strict"] is False
        assert (page["createAnchor35"], page["createAnchor70"]) == (False, False)
        urls = [page["reference"], *page["stimuli"].values()]
        assert len(set(urls)) == len(urls) == 4, "webMUSHRA hides the reference among the conditions itself"
        formats = {(rate, len(sound)) for sound, rate in (read_audio(tmp_path / "out" / url) for url in urls)}
        assert len(formats) == 1


def test_beaqle_mushra_has_one_reference_and_hides_it_again(mushra: ListeningSet, tmp_path: Path) -> None:
    script = export_beaqle(mushra, tmp_path / "out").read_text(encoding="utf-8")
    config = json.loads(script.removeprefix("var TestConfig = "))
    assert (config["RateMinValue"], config["RateMaxValue"]) == (0, 100)
    for testset in config["Testsets"]:
        files = testset["Files"]
        assert list(files) == ["Reference", "1", "2", "3", "4"]
        assert list(files.values()).count(files["Reference"]) == 2
        assert all((tmp_path / "out" / url).is_file() for url in files.values())


def test_beaqle_preference_has_every_pair_of_systems(preference: ListeningSet, tmp_path: Path) -> None:
    script = export_beaqle(preference, tmp_path / "out").read_text(encoding="utf-8")
    testsets = json.loads(script.removeprefix("var TestConfig = "))["Testsets"]
    assert len(testsets) == 6
    assert len({t["TestID"] for t in testsets}) == 6
    systems = [
        {preference.stimuli[preference.key[url.removeprefix("audio/")]].system for url in t["Files"].values()}
        for t in testsets
    ]
    assert sorted(map(sorted, systems[:3])) == [["iq", "pd"], ["iq", "zs"], ["pd", "zs"]]


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(newline="", encoding="utf-8")))


def test_p808_gets_its_four_lists(acr: ListeningSet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_p808(acr, out, "https://clips.example/a b/")
    rating = [row["rating_clips"] for row in rows_of(out / "rating_clips.csv")]
    assert len(rating) == 4
    pattern = re.compile(re.search(r"condition_pattern: (.*)", (out / "condition_pattern.txt").read_text())[1])
    assert len({pattern.fullmatch(url)["condition"] for url in rating}) == 2
    assert len(rows_of(out / "training_clips.csv")) == 1
    assert [row["gold_clips_ans"] for row in rows_of(out / "gold_clips.csv")] == ["1"]
    assert [row["trapping_ans"] for row in rows_of(out / "trapping_clips.csv")] == ["4"]
    for url in rating:
        assert (out / "clips" / url.rsplit("/", 1)[1]).is_file()


def test_what_a_tool_cannot_ask_is_told(acr: ListeningSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    cases = [
        (["--to", "beaqle"], "BeaqleJS has no single-sound rating"),
        (["--to", "p808"], "the clips' URL is ''"),
        (["--to", "magic"], "invalid choice: 'magic'"),
    ]
    for arguments, message in cases:
        try:
            status = main(["listen", "export", str(acr.folder), *arguments, *out])
        except SystemExit as exit_:
            status = exit_.code
        lines = capsys.readouterr().err.splitlines()
        assert (status, len(lines)) == (2, 1)
        assert message in lines[0]
    for design, message in (("preference", "asks which one is the reference"), ("mushra", "has no reference")):
        other = build_set(tmp_path / design, design=design)
        with pytest.raises(DataError, match=message):
            export_webmushra(other, tmp_path / "out")
        with pytest.raises(DataError, match="needs gold and trapping"):
            export_p808(other, tmp_path / "out", "https://a.example")
    (acr.folder / sorted(acr.key)[0]).unlink()
    assert main(["listen", "export", str(acr.folder), "--to", "webmushra", *out]) == 2
    assert "is not whole" in capsys.readouterr().err


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_lss_with_a_column_a_scale(acr: ListeningSet, tmp_path: Path) -> None:
    zs, trap = stem(acr, "p001.zs.s0"), stem(acr, "trap1.trap.s0")
    path = write(
        tmp_path / "lss.csv",
        "session_test_id,participant,trial_id,stimuli_rating1,stimuli_rating2,stimuli,rating_time",
        f"tones,ann,page_001,4,2,s_{zs},5300",
        f"tones,bob,page_001,NA,3,s_{zs},5300",
        f"tones,bob,page_004,1,1,s_{trap},900",
    )
    found = [(r.listener, r.stimulus, r.scale, r.value, r.purpose) for r in read_file(acr, path)]
    assert found == [
        ("ann", "p001.zs.s0", "fidelity", 4.0, "rating"),
        ("ann", "p001.zs.s0", "relevance", 2.0, "rating"),
        ("bob", "p001.zs.s0", "relevance", 3.0, "rating"),
        ("bob", "trap1.trap.s0", "fidelity", 1.0, "trap"),
        ("bob", "trap1.trap.s0", "relevance", 1.0, "trap"),
    ]
    first, trapped = read_file(acr, path)[0], read_file(acr, path)[-1]
    assert (first.seconds, first.item, first.system) == (5.3, "p001", "zs")
    assert (trapped.low, trapped.high) == (4, 4)


def test_lms_and_old_lss_with_spaces_around_ratings(acr: ListeningSet, tmp_path: Path) -> None:
    zs, pd = stem(acr, "p001.zs.s0"), stem(acr, "p001.pd.s0")
    path = write(
        tmp_path / "lms.csv",
        "session_test_id,email,trial_id,stimuli_rating,stimuli,rating_time",
        f'tones,a@b.example,page_001," 4 ",s_{zs},100',
        f'tones,a@b.example,page_001," NA ",s_{pd},100',
    )
    (only,) = read_file(acr, path, scale="relevance")
    assert (only.listener, only.stimulus, only.scale, only.value) == ("a@b.example", "p001.zs.s0", "relevance", 4.0)


def test_a_file_that_names_no_listener_needs_a_column(acr: ListeningSet, tmp_path: Path) -> None:
    zs = stem(acr, "p001.zs.s0")
    path = write(tmp_path / "lss.csv", "session_test_id,nick,trial_id,stimuli_rating,stimuli", f"t,zoe,p,3,s_{zs}")
    with pytest.raises(DataError, match="does not say who the listener is; name the column with --listener: .*nick"):
        read_file(acr, path)
    assert read_file(acr, path, listener="nick")[0].listener == "zoe"


def test_mushra_csv_with_webmushras_own_names(mushra: ListeningSet, tmp_path: Path) -> None:
    path = write(
        tmp_path / "mushra.csv",
        "session_test_id,participant,session_uuid,trial_id,rating_stimulus,rating_score,rating_time,rating_comment",
        "t,ann,u-1,page_002,reference,95,7000,",
        "t,ann,u-1,page_002,anchor35,12,7000,",
        f"t,ann,u-1,page_002,s_{stem(mushra, 'p002.zs.s0')},61,7000,=1+1",
    )
    found = [(r.listener, r.stimulus, r.scale, r.value, r.design) for r in read_file(mushra, path)]
    assert found == [
        ("u-1", "p002.reference.s0", "quality", 95.0, "mushra"),
        ("u-1", "p002.anchor35.s0", "quality", 12.0, "mushra"),
        ("u-1", "p002.zs.s0", "quality", 61.0, "mushra"),
    ]
    write(path, "participant,trial_id,rating_stimulus,rating_score", "ann,page_009,reference,95")
    with pytest.raises(DataError, match="row 2 rates the reference of the page 'page_009'"):
        read_file(mushra, path)


def test_paired_comparison_is_about_the_reference(mushra: ListeningSet, tmp_path: Path) -> None:
    pair = f"s_{stem(mushra, 'p001.reference.s0')},s_{stem(mushra, 'p001.zs.s0')}"
    path = write(
        tmp_path / "paired_comparison.csv",
        "session_test_id,participant,trial_id,choice_reference,choice_non_reference,choice_answer,choice_time,x",
        *(
            f"t,ann{n},p,{pair},{answer},100,"
            for n, answer in enumerate(("correct", "incorrect", "undecided", "unknown"))
        ),
    )
    found = read_file(mushra, path)
    assert [r.value for r in found] == [1.0, 0.0, 0.5, 0.5]
    assert {(r.system, r.other_system, r.scale, r.design) for r in found} == {
        ("reference", "zs", "is-reference", "preference")
    }
    write(path, "participant,choice_reference,choice_non_reference,choice_answer", f"ann,{pair},maybe")
    with pytest.raises(DataError, match="answers 'maybe'"):
        read_file(mushra, path)


def test_p808_votes_by_worker_and_by_clip(acr: ListeningSet, tmp_path: Path) -> None:
    export_p808(acr, tmp_path / "out", "https://clips.example")
    url = next(
        r["rating_clips"] for r in rows_of(tmp_path / "out/rating_clips.csv") if stem(acr, "p001.zs.s0") in str(r)
    )
    workers = write(
        tmp_path / "Batch_votes_per_worker.csv",
        "HITId,workerid,file,short_file_name,vote,condition",
        f"h1,W1,{url},x,4,02",
        f"h1,W2,{url},x,5,02",
    )
    found = [(r.listener, r.stimulus, r.scale, r.value) for r in read_file(acr, workers)]
    assert found == [("W1", "p001.zs.s0", "fidelity", 4.0), ("W2", "p001.zs.s0", "fidelity", 5.0)]
    clips = write(
        tmp_path / "Batch_votes_per_clip.csv",
        "file_url,n,MOS,std,95%CI,short_file_name,vote_1,vote_2,vote_10",
        f"{url},2,4.5,0.7,0.98,x,4,,5",
    )
    assert [(r.listener, r.value) for r in read_file(acr, clips)] == [
        ("anonymous000001", 4.0),
        ("anonymous000002", 5.0),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,b", "1,2"], "of no known kind, its columns are a, b"),
        (["participant,stimuli,stimuli_rating", "ann,s_nothing,3"], "row 2 rates 's_nothing'"),
        (["participant,stimuli,stimuli_rating", "ann,../../etc/passwd,3"], "which the set does not have"),
        (["participant,stimuli,stimuli_rating", "ann,ZS,7"], "row 2: a rating of p001.zs.s0 is 7.0"),
        (["participant,stimuli,stimuli_rating", "ann,ZS,good"], "row 2: could not convert"),
        (["participant,stimuli,stimuli_rating", 'ann,ZS,"1,2,3"'], "row 2 has 3 ratings"),
        (["participant,stimuli,stimuli_rating", "ann,ZS,3,4,5"], "row 2 has 5 cells"),
        (["participant,stimuli,stimuli_rating"], "no known kind|holds no ratings"),
        ([""], "is empty"),
    ],
)
def test_bad_imports_are_told_and_keep_nothing(
    lines: list[str], message: str, acr: ListeningSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "bad.csv", *(line.replace("ZS", "s_" + stem(acr, "p001.zs.s0")) for line in lines))
    assert main(["listen", "import", str(acr.folder), str(path)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert len(error.splitlines()) == 1
    assert not (acr.folder / "imports").exists()


def test_imports_are_kept_once_and_are_no_fault_of_the_set(acr: ListeningSet, tmp_path: Path) -> None:
    header = "participant,stimuli,stimuli_rating1,stimuli_rating2"
    zs, pd = (stem(acr, f"p001.{s}.s0") for s in ("zs", "pd"))
    path = write(tmp_path / "lss.csv", header, f"=ann,s_{zs},4,2")
    for _ in range(2):
        import_file(acr, path)
    assert [r.listener for r in read_ratings(acr)] == ["=ann"] * 2
    assert "'=ann" in next((acr.folder / "imports").iterdir()).read_text()
    # webMUSHRA appends to its file: what was imported before comes again.
    import_file(acr, write(path, header, f"=ann,s_{zs},4,2", f"=ann,s_{pd},5,5"))
    assert sorted(r.value for r in read_ratings(acr)) == [2, 4, 5, 5]
    assert verify(acr.folder) == []


@pytest.fixture
def pymushra(tmp_path: Path) -> Iterator[str]:
    """The real pymushra server, on a port of its own."""
    from pymushra import service
    from tinydb import TinyDB
    from werkzeug.serving import make_server

    service.app.config["admin_allowlist"] = ["127.0.0.1"]
    service.app.config["webmushra_dir"] = str(tmp_path / "webmushra")
    with TinyDB(tmp_path / "db.json") as service.app.config["db"]:
        server = make_server("127.0.0.1", 0, service.app)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(60)


def post(address: str, config: dict, listener: str, trials: list[dict]) -> None:
    """Send a session as webMUSHRA's client does."""
    session = {
        "testId": config["testId"],
        "config": f"configs/{config['testId']}.yaml",
        "uuid": listener,
        "participant": {"name": ["participant"], "response": [listener]},
        "trials": trials,
    }
    data = urllib.parse.urlencode({"sessionJSON": json.dumps(session)}).encode()
    with urllib.request.urlopen(f"{address}/service/write.php", data, timeout=60) as answer:
        assert json.load(answer)["error"] is False


def download(address: str, config: dict, path: Path) -> Path:
    with urllib.request.urlopen(f"{address}/download/{config['testId']}.csv", timeout=60) as answer:
        path.write_bytes(answer.read())
    return path


def as_tuples(ratings: list[Rating]) -> set[tuple]:
    return {(r.listener, r.stimulus, r.scale, r.value) for r in ratings}


@pytest.mark.timeout(300)
def test_through_pymushra_the_same_numbers_come_back(acr: ListeningSet, pymushra: str, tmp_path: Path) -> None:
    path = export_webmushra(acr, tmp_path / "webmushra")
    with urllib.request.urlopen(f"{pymushra}/configs/{path.name}", timeout=60) as answer:
        config = yaml.safe_load(answer.read())
    given, listeners = set(), ("ann", "bob")
    for shift, listener in enumerate(listeners):
        trials = []
        for page in config["pages"][1][1:]:
            responses = []
            for number, name in enumerate(page["stimuli"]):
                ratings = [1 + (number + shift) % 5, 1 + (number + 2 * shift + 3) % 5]
                stimulus = acr.key[f"wavs/{name[2:]}.wav"]
                given |= {(listener, stimulus, "fidelity", ratings[0]), (listener, stimulus, "relevance", ratings[1])}
                responses.append({"stimulus": name, "stimulusRating": list(map(str, ratings)), "time": 1500})
            trials.append({"type": page["type"], "id": page["id"], "testId": config["testId"], "responses": responses})
        post(pymushra, config, listener, trials)
    table = download(pymushra, config, tmp_path / "answers.csv")
    found = read_file(acr, table, listener="questionaire_participant")
    assert as_tuples(found) == given
    assert len({r.listener for r in read_file(acr, table)}) == 2  # by pymushra's own key
    import_file(acr, table, listener="questionaire_participant")
    assert as_tuples(read_ratings(acr)) == given


@pytest.mark.timeout(300)
def test_mushra_through_pymushra(mushra: ListeningSet, pymushra: str, tmp_path: Path) -> None:
    config = yaml.safe_load(export_webmushra(mushra, tmp_path / "webmushra").read_text(encoding="utf-8"))
    trials, given = [], set()
    for number, page in enumerate(config["pages"][1][1:], 1):
        scores = {"reference": 97} | {name: 20 + 30 * n for n, name in enumerate(page["stimuli"])}
        names = {"reference": f"p00{number}.reference.s0"}
        names |= {name: mushra.key[f"wavs/{name[2:]}.wav"] for name in page["stimuli"]}
        given |= {("ann", names[name], "quality", float(score)) for name, score in scores.items()}
        responses = [{"stimulus": n, "score": s, "time": 3000, "comment": "=1+1"} for n, s in scores.items()]
        trials.append({"type": "mushra", "id": page["id"], "testId": config["testId"], "responses": responses})
    post(pymushra, config, "ann", trials)
    found = read_file(mushra, download(pymushra, config, tmp_path / "a.csv"), listener="questionaire_participant")
    assert as_tuples(found) == given
    results = analyze(mushra, found)
    assert results.systems["reference"]["quality"].mos == 97
    assert results.screened == []
