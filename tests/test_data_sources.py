"""VGGSound's and MUSIC's lists, the files that go with them, and fetching those."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from video_files import write_video

from clipsonic.cli import main
from clipsonic.data.download import DownloadSettings, download
from clipsonic.data.sources import Entry, held_out, list_folder, match_files, read_music, read_vggsound
from clipsonic.errors import DataError
from clipsonic.shards import read_labels, read_samples

A, B, C, D = "---g-f_I2yQ", "0123456789a", "_bcdefghijk", "gone-gone-g"
CSV = f'{A},30,people marching,test\n{B},0,"bee, wasp, etc. buzzing",train\n{C},7,cat purring,train\n{D},1,rain,train\n'
YT_DLP = """#!{python}
import pathlib, shutil, sys
arguments = sys.argv[1:]
log = pathlib.Path({log!r})
with log.open("a") as file:
    print(*arguments, file=file)
name = arguments[-1].partition("v=")[2]
if name == {gone!r}:
    sys.exit("ERROR: [youtube] " + name + ": Video unavailable")
if name == {flaky!r} and log.read_text().count("v=" + name) < 2:
    sys.exit("ERROR: unable to download video data: HTTP Error 503")
output = arguments[arguments.index("--output") + 1].replace("%%", "%")
shutil.copy({video!r}, output.replace("%(ext)s", "mp4"))
"""


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    (tmp_path / "vggsound.csv").write_text(CSV)
    return tmp_path / "vggsound.csv"


@pytest.fixture
def yt_dlp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a `yt-dlp` on the path that copies a video, fails once for one id and always for another; return its log."""
    video = write_video(tmp_path / "source.mp4", 2.0)
    tool, log = tmp_path / "bin" / "yt-dlp", tmp_path / "calls.txt"
    tool.parent.mkdir()
    values = {"python": sys.executable, "log": str(log), "gone": D, "flaky": C, "video": str(video)}
    tool.write_text(YT_DLP.format(**values))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    return log


def test_the_official_split_label_and_start_are_kept(listed: Path) -> None:
    entries = read_vggsound(listed)
    assert [(e.id, e.start, e.label, e.split) for e in entries][:2] == [
        (A, 30, "people marching", "test"),
        (B, 0, "bee, wasp, etc. buzzing", "train"),
    ]


def test_videos_are_found_under_any_of_their_names(listed: Path, tmp_path: Path) -> None:
    for name in (f"deep/{A}_000030.mp4", f"{B}_0.webm", f"{C}.mkv"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).touch()
    found = match_files("vggsound", read_vggsound(listed), tmp_path / "videos")
    places = {video.path: (video.start_s, video.duration_s) for video in found.videos}
    assert places == {f"deep/{A}_000030.mp4": (0.0, None), f"{B}_0.webm": (0.0, None), f"{C}.mkv": (7.0, 10.0)}
    assert list(found.missing) == [f"{D}_000001"]
    assert f"vggsound.csv, row 4: no video named {D}_000001, {D}_1, {D}" in found.missing[f"{D}_000001"]


def test_only_the_ten_seconds_that_count_are_cut_from_a_whole_video(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / f"{A}.mkv", 20.0)
    (tmp_path / "list.csv").write_text(f"{A},7,clock ticking,test\n")
    arguments = [
        "--csv",
        str(tmp_path / "list.csv"),
        "--videos",
        str(tmp_path / "videos"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["prepare", "vggsound", *arguments, "--clip-model", "none", "--workers", "1", "--clip-s", "5"]) == 0
    starts_s = [sample.provenance["start_s"] for sample in read_samples(tmp_path / "out", "test")]
    assert starts_s == pytest.approx([7.0, 12.0], abs=0.2)
    assert {(e.label, e.split) for e in read_labels(tmp_path / "out").values()} == {("clock ticking", "test")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{A},30,people marching\n", "row 1 has 3 columns; expected 4: YouTube id, start second, label, split"),
        (CSV + f"{A},30,a,train,more\n", "row 5 has 5 columns"),
        ("youtube_id,start,label,split\n", "row 1 begins with 'youtube_id'"),
        (f"{A},soon,a,train\n", "row 1 has start 'soon'; expected a whole number"),
        (f"{A},3,a,valid\n", "row 1 has split 'valid'; allowed: train, test"),
        ("", "is empty"),
        ("\xff\xfe", "row 1 has 1 columns"),
    ],
)
def test_wrong_rows_are_named(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    arguments = ["--csv", str(path), "--videos", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["prepare", "vggsound", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{path}" in error
    assert message in error
    assert not (tmp_path / "out").exists()


def test_lists_that_are_no_text_or_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("list.csv", "absent.csv"):
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            read_vggsound(tmp_path / name)


def test_none_of_the_videos_there_is_one_line_with_file_and_row(listed: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="vggsound.csv, row 1: no video named .* nor any of the others"):
        match_files("vggsound", read_vggsound(listed), tmp_path)


def test_music_is_split_by_source_video(tmp_path: Path) -> None:
    solo, duet = tmp_path / "MUSIC_solo_videos.json", tmp_path / "MUSIC_duet_videos.json"
    names = [f"{number:011d}" for number in range(300)]
    solo.write_text(json.dumps({"videos": {"acoustic_guitar": names[:200]}}))
    duet.write_text(json.dumps({"videos": {"xylophone flute": names[190:]}}))
    entries = read_music([solo, duet], 0.2)
    assert [entry.id for entry in entries] == names
    assert {entry.label for entry in entries} == {"acoustic guitar", "xylophone flute"}
    held = [entry.id for entry in entries if entry.split == "test"]
    assert 30 < len(held) < 90
    assert held == [name for name in names if held_out(name, 0.2) == "test"]
    assert set(held) <= {e.id for e in read_music([solo, duet], 0.4) if e.split == "test"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"video": {}}, "cannot read .*list.json.*expected JSON of the form"),
        ({"videos": [A]}, "cannot read"),
        ({"videos": {"flute": A}}, "'flute' is str; expected a list"),
        ({"videos": {"flute": [A, "x"]}}, "'flute', entry 2 is 'x'"),
        ({"videos": {}}, "names no videos"),
    ],
)
def test_other_layouts_of_music_are_named(values: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=message):
        read_music([tmp_path / "list.json"], 0.1)


def test_a_folder_labels_by_folder(tmp_path: Path) -> None:
    for name in ("dog_barking/a.mp4", "b.webm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = list_folder(tmp_path, 0.5)
    assert [(video.path, video.label) for video in found.videos] == [
        ("b.webm", ""),
        ("dog_barking/a.mp4", "dog barking"),
    ]
    assert all(video.split == held_out(video.source, 0.5) for video in found.videos)


def test_downloading_retries_goes_on_and_lists_what_is_gone(listed: Path, yt_dlp: Path, tmp_path: Path) -> None:
    entries, folder = read_vggsound(listed), tmp_path / "100% videos"
    first = download(entries, folder, DownloadSettings(rate="2M", pause_s=0, retries=2))
    assert (first.fetched, first.present, first.gone, first.failed) == (3, 0, 1, 0)
    assert {path.name for path in folder.glob("*.mp4")} == {f"{A}_000030.mp4", f"{B}_000000.mp4", f"{C}_000007.mp4"}
    rows = list(csv.DictReader((folder / "gone.csv").open(newline="")))
    assert [row["video"] for row in rows] == [f"{D}_000001"]
    assert "Video unavailable" in rows[0]["reason"]
    calls = yt_dlp.read_text().splitlines()
    assert len(calls) == 5  # one each, and one more for the one that failed once
    assert "--limit-rate 2M" in calls[0]
    assert "--download-sections *30-40" in calls[0]
    assert calls[0].endswith(f"-- https://www.youtube.com/watch?v={A}")
    (folder / f"{B}_000000.mp4").unlink()
    second = download(entries, folder, DownloadSettings(pause_s=0))
    assert (second.fetched, second.present, second.gone, second.failed) == (1, 2, 1, 0)
    assert len(yt_dlp.read_text().splitlines()) == 6
    assert len(match_files("vggsound", entries, folder).videos) == 3


def test_what_fails_is_tried_again_next_time(yt_dlp: Path, tmp_path: Path) -> None:
    entries = [Entry(C, "flute", "list, row 1", "train")]
    assert download(entries, tmp_path / "videos", DownloadSettings(pause_s=0, retries=0)).failed == 1
    assert download(entries, tmp_path / "videos", DownloadSettings(pause_s=0, retries=0)).fetched == 1
    assert (tmp_path / "videos" / f"{C}.mp4").is_file()


def test_downloading_without_the_tool_says_so(listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="needs yt-dlp, which is not on this machine"):
        download(read_vggsound(listed), tmp_path / "videos", DownloadSettings())


def test_the_command_fetches_and_prepares(listed: Path, yt_dlp: Path, tmp_path: Path, capsys) -> None:
    arguments = [
        "--csv",
        str(listed),
        "--videos",
        str(tmp_path / "videos"),
        "--out",
        str(tmp_path / "out"),
        "--download",
    ]
    arguments += ["--download-pause", "0", "--clip-model", "none", "--workers", "1", "--clip-s", "0.74"]
    assert main(["prepare", "vggsound", *arguments]) == 0
    output = capsys.readouterr().out
    assert "fetched 3 videos, 0 were there, 1 are gone" in output
    assert "4 train clips" in output.replace("2 test, ", "")
    assert "skipped 1 videos" in output
    assert "clips/s; of the processes' time: decode" in output
