"""The set's format, its checks, its zip, and cells that stay text."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import stat
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clipsonic.audio import write_audio
from clipsonic.errors import ClipSonicError, DataError, OutputError
from clipsonic.listening.archive import pack, unpack
from clipsonic.listening.ratings import RATING_COLUMNS, Rating
from clipsonic.listening.sets import Item, ListeningSet, Manifest
from clipsonic.listening.tables import cell, csv_text, read_csv
from clipsonic.listening.verify import check_whole, verify
from tests.listening_sets import RATE, build_set


@pytest.fixture
def whole(tmp_path: Path) -> ListeningSet:
    return build_set(tmp_path / "set", checks=True)


def test_a_set_comes_back_as_it_was(whole: ListeningSet) -> None:
    again = ListeningSet.load(whole.folder)
    assert again.manifest == whole.manifest
    assert again.key == whole.key
    assert again.systems == ["zs", "pd"]
    assert verify(whole.folder) == []
    assert check_whole(whole.folder).manifest == whole.manifest


def test_the_checksums_are_what_sha256sum_checks(whole: ListeningSet) -> None:
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=whole.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": OK") == len(whole.key) + 4


def test_only_the_answer_key_joins_files_and_systems(whole: ListeningSet) -> None:
    for file, stimulus in whole.key.items():
        entry = next(f for f in whole.manifest.files if f.file == file)
        assert set(entry.to_dict()) == {"file", "item"}
        assert whole.stimuli[stimulus].system not in file
        assert not soundfile.SoundFile(whole.folder / file).copy_metadata()
    rows = list(csv.DictReader(io.StringIO((whole.folder / "manifest.csv").read_text())))
    assert "file" not in rows[0]
    assert not any(Path(file).stem in (whole.folder / "manifest.csv").read_text() for file in whole.key)
    assert {"prompt", "picture", "method", "seed", "settings", "model_sha256", "score", "licence"} <= set(rows[0])
    assert [row["stimulus"] for row in rows] == [s.id for s in whole.manifest.stimuli]


def spoil_missing(s: ListeningSet, name: str) -> str:
    (s.folder / name).unlink()
    return f"{name} is missing"


def spoil_altered(s: ListeningSet, name: str) -> str:
    data = bytearray((s.folder / name).read_bytes())
    data[-3] ^= 1
    (s.folder / name).write_bytes(data)
    return f"{name} was altered: its checksum is not the one in SHA256SUMS"


def spoil_length(s: ListeningSet, name: str) -> str:
    write_audio(s.folder / name, np.full(100, 0.1, np.float32), RATE)
    return f"{name} has length 100, the set 8000"


def spoil_rate(s: ListeningSet, name: str) -> str:
    write_audio(s.folder / name, np.full(8000, 0.1, np.float32), 8000)
    return f"{name} has sample rate 8000, the set 16000"


def spoil_channels(s: ListeningSet, name: str) -> str:
    soundfile.write(s.folder / name, np.full((8000, 2), 0.1), RATE, "PCM_16")
    return f"{name} has channels 2, the set 1"


def spoil_coding(s: ListeningSet, name: str) -> str:
    soundfile.write(s.folder / name, np.full(8000, 0.1), RATE, "FLOAT")
    return f"{name} is WAV FLOAT, expected 16-bit PCM WAV"


def spoil_sound(s: ListeningSet, name: str) -> str:
    (s.folder / name).write_text("no sound")
    return f"{name} is no sound: "


def spoil_duplicate(s: ListeningSet, name: str) -> str:
    other = next(f for f in sorted(s.key) if f != name and s.stimuli[s.key[f]].item == s.stimuli[s.key[name]].item)
    (s.folder / name).write_bytes((s.folder / other).read_bytes())
    return f"{min(name, other)} and {max(name, other)} are the same sound, both of item {s.stimuli[s.key[name]].item}"


def spoil_link(s: ListeningSet, name: str) -> str:
    (s.folder / name).rename(s.folder.parent / "elsewhere.wav")
    (s.folder / name).symlink_to(s.folder.parent / "elsewhere.wav")
    return f"{name} is a link, not a file of the set"


def spoil_stranger(s: ListeningSet, name: str) -> str:
    (s.folder / "wavs" / "zs-dog.wav").write_bytes((s.folder / name).read_bytes())
    return "wavs/zs-dog.wav does not belong to the set"


def spoil_sums(s: ListeningSet, name: str) -> str:
    (s.folder / "SHA256SUMS").unlink()
    return "SHA256SUMS is missing or unreadable"


def spoil_sums_twice(s: ListeningSet, name: str) -> str:
    with (s.folder / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    return f"SHA256SUMS names {name} twice"


def spoil_sums_line(s: ListeningSet, name: str) -> str:
    with (s.folder / "SHA256SUMS").open("a") as file:
        file.write("garbage\n")
    return "is no checksum: 'garbage'"


@pytest.mark.parametrize("spoil", [v for k, v in globals().items() if k.startswith("spoil_")], ids=lambda f: f.__name__)
def test_verify_names_every_fault_in_a_line(spoil, whole: ListeningSet) -> None:
    name = next(file for file, stimulus in whole.key.items() if stimulus == "p001.zs.s0")
    line = spoil(whole, name)
    faults = verify(whole.folder)
    assert [fault for fault in faults if line in fault], faults
    assert all("\n" not in fault for fault in faults)
    with pytest.raises(DataError, match="is not whole"):
        check_whole(whole.folder)


def test_verify_names_every_missing_file(whole: ListeningSet) -> None:
    gone = sorted(whole.key)[:3]
    for name in gone:
        (whole.folder / name).unlink()
    assert verify(whole.folder) == [f"{name} is missing" for name in gone]


def test_what_belongs_beside_the_set_is_no_fault(whole: ListeningSet) -> None:
    (whole.folder / "curation").mkdir()
    (whole.folder / "answers.sqlite-wal").write_text("")
    assert verify(whole.folder) == []
    (whole.folder / "virus.exe").write_text("")
    assert verify(whole.folder) == ["virus.exe does not belong to the set"]


def change(folder: Path, name: str, **values: object) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"files": [{"file": "../../etc/passwd", "item": "p001"}]}, "names the file '../../etc/passwd'"),
        ({"files": [{"file": "wavs/..", "item": "p001"}]}, "names the file"),
        ({"files": [{"file": "wavs/a\nb.wav", "item": "p001"}]}, "names the file"),
        ({"items": [{"id": "../x", "prompt": "dog"}]}, "item is called '../x'"),
        ({"items": [{"id": "p001", "prompt": "a", "picture": "/etc/passwd"}]}, "names the file '/etc/passwd'"),
        ({"items": [{"id": "p001", "prompt": "a"}, {"id": "p001", "prompt": "b"}]}, "names the item p001 twice"),
        ({"items": []}, "the set is empty"),
        ({"format": "other/9"}, "format is 'other/9'"),
        ({"design": "guess"}, "design is 'guess'"),
        ({"samples": 0}, "samples is 0"),
        ({"sample_rate": "fast"}, "sample_rate"),
        ({"surprise": 1}, "has no setting surprise"),
        ({"stimuli": 7}, "expected a list"),
        ({"stimuli": [{"id": "a", "item": "p001", "system": "zs", "score": "high"}]}, "score 'high'"),
        ({"stimuli": [{"id": "a", "item": "p001", "system": "zs", "expected": {"fidelity": 3}}]}, "expects 3"),
        ({"stimuli": [{"id": "a", "item": "p009", "system": "zs"}]}, "no item 'p009'"),
    ],
)
def test_a_forged_manifest_is_told(values: dict, message: str, whole: ListeningSet) -> None:
    change(whole.folder, "manifest.json", **values)
    with pytest.raises(ClipSonicError, match=message.replace(".", r"\.").replace("(", r"\(")) as caught:
        ListeningSet.load(whole.folder)
    assert isinstance(caught.value, DataError)


@pytest.mark.parametrize("text", ["", "[", "[]", "null", '{"wavs/a.wav": "p001.zs.s0"}', '{"a": []}'])
def test_a_broken_answer_key_is_told(text: str, whole: ListeningSet) -> None:
    (whole.folder / "answer_key.json").write_text(text)
    with pytest.raises(DataError, match=r"answer_key|usable"):
        ListeningSet.load(whole.folder)


def test_a_key_that_names_a_stimulus_twice_or_of_another_item_is_told(whole: ListeningSet) -> None:
    key = json.loads((whole.folder / "answer_key.json").read_text())
    names = sorted(key)
    (whole.folder / "answer_key.json").write_text(json.dumps(key | {names[0]: key[names[1]]}))
    with pytest.raises(DataError, match="every stimulus once"):
        ListeningSet.load(whole.folder)
    a = next(n for n in names if key[n].startswith("p001"))
    b = next(n for n in names if key[n].startswith("p002"))
    (whole.folder / "answer_key.json").write_text(json.dumps(key | {a: key[b], b: key[a]}))
    with pytest.raises(DataError, match="is of item"):
        ListeningSet.load(whole.folder)


def test_a_folder_without_a_set_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no sample set"):
        ListeningSet.load(tmp_path)


def test_an_item_needs_something_to_show() -> None:
    with pytest.raises(DataError, match="neither prompt nor picture"):
        Item(id="p001")


def test_the_zip_holds_the_set_and_nothing_else(whole: ListeningSet, tmp_path: Path) -> None:
    (whole.folder / "answers.sqlite").write_text("secret")
    pack(whole, tmp_path / "set.zip")
    pack(whole, tmp_path / "again.zip")
    assert (tmp_path / "set.zip").read_bytes() == (tmp_path / "again.zip").read_bytes()
    unpack(tmp_path / "set.zip", tmp_path / "copy")
    assert verify(tmp_path / "copy") == []
    assert not (tmp_path / "copy/answers.sqlite").exists()
    assert ListeningSet.load(tmp_path / "copy").manifest == whole.manifest
    pack(whole, tmp_path / "blind.zip", with_key=False)
    assert not [n for n in zipfile.ZipFile(tmp_path / "blind.zip").namelist() if "key" in n or "SUMS" in n]


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:evil.txt"])
def test_a_zip_cannot_write_elsewhere(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("fine.txt", "fine")
        archive.writestr(name, "evil")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="leads out of the set"):
        unpack(tmp_path / "evil.zip", tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_with_a_link_or_a_name_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        entry = zipfile.ZipInfo("wavs")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc")
    with pytest.raises(DataError, match="leads out"):
        unpack(tmp_path / "link.zip", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("A.txt", "1")
        archive.writestr("a.txt", "2")
    with pytest.raises(DataError, match="twice"):
        unpack(tmp_path / "twice.zip", tmp_path / "out")


def test_a_zip_bomb_a_torn_zip_and_a_full_folder_are_told(
    whole: ListeningSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(whole, tmp_path / "set.zip")
    with pytest.raises(OutputError, match="not an empty folder"):
        unpack(tmp_path / "set.zip", whole.folder)
    data = (tmp_path / "set.zip").read_bytes()
    (tmp_path / "torn.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="no usable zip"):
        unpack(tmp_path / "torn.zip", tmp_path / "torn")
    with pytest.raises(DataError, match="there is no"):
        unpack(tmp_path / "nowhere.zip", tmp_path / "torn")
    monkeypatch.setattr("clipsonic.listening.archive.MAX_UNPACKED", 1000)
    with pytest.raises(DataError, match="unpacks to more than"):
        unpack(tmp_path / "set.zip", tmp_path / "bomb")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\n=1"),
        ("  =1", "'  =1"),
        ("a=1", "a=1"),
        (-1.5, "-1.5"),
        (None, ""),
        (True, "True"),
        ({"b": "=1"}, '{"b": "=1"}'),
        ("a\0b", "a\N{REPLACEMENT CHARACTER}b"),
    ],
)
def test_no_cell_is_a_formula(value: object, expected: str) -> None:
    assert cell(value) == expected
    text = csv_text(["=x"], [{"=x": value}])
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["'=x"], [expected]]


def test_a_prompt_that_is_a_formula_stays_text_in_the_manifest(tmp_path: Path) -> None:
    evil = '=cmd|" /C calc"!A0\n<script>alert(1)</script>'
    made = build_set(tmp_path / "set", prompts=(evil,))
    assert ListeningSet.load(made.folder).items["p001"].prompt == evil
    rows = list(csv.DictReader((made.folder / "manifest.csv").open(newline="")))
    assert {row["prompt"] for row in rows} == {"'" + evil}


def test_reading_csv_strips_and_tells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfa, b\n" 4 ,x\n')
    with pytest.raises(DataError, match="cannot read"):
        read_csv(path)  # a quote that never ends
    path.write_bytes(b'\xef\xbb\xbfa, b\n" 4 ",x\n\n5\n')
    assert read_csv(path) == [{"a": "4", "b": "x"}, {"a": "5", "b": ""}]
    for text, message in (("", "empty"), ("a,a\n1,2\n", "twice"), ("a\n1,2\n", "row 2 has 2 cells")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_csv(path)
    path.write_bytes(b"a\n\xff\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_csv(path)
    with pytest.raises(DataError, match="cannot read"):
        read_csv(tmp_path / "nowhere.csv")


GOOD = {"listener": "l1", "item": "p001", "stimulus": "p001.zs.s0", "system": "zs", "scale": "fidelity", "value": 4}


def test_a_rating_is_what_its_design_allows() -> None:
    assert list(Rating(**GOOD).to_dict()) == list(RATING_COLUMNS)
    for values in (
        {"value": 7},
        {"value": 0},
        {"value": 3.5},
        {"value": float("nan")},
        {"value": True},
        {"value": "4"},
        {"design": "guess"},
        {"listener": ""},
        {"purpose": "fun"},
        {"design": "mushra", "value": 101},
        {"design": "preference", "value": 1},
        {"design": "preference", "value": 0.3, "other": "p001.pd.s0"},
        {"other": "p001.pd.s0"},
    ):
        with pytest.raises(DataError):
            Rating(**GOOD | values)
    assert Rating(**GOOD | {"design": "preference", "value": 0.5, "other": "p001.pd.s0"}).value == 0.5
    assert Rating(**GOOD | {"design": "mushra", "value": 77.5}).value == 77.5


def test_a_half_written_set_is_not_whole(whole: ListeningSet, monkeypatch: pytest.MonkeyPatch) -> None:
    title = dataclasses.replace(whole.manifest, title="new")
    monkeypatch.setattr("clipsonic.listening.sets.sha256", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ListeningSet(whole.folder, title, whole.key).save()
    assert any("not written to its end" in fault for fault in verify(whole.folder))


def test_the_manifest_is_plain_json(whole: ListeningSet) -> None:
    values = json.loads((whole.folder / "manifest.json").read_text())
    assert Manifest.from_dict(values) == whole.manifest
    assert values["format"] == "clipsonic-listening-set/1"
