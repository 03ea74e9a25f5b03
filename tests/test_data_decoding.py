"""Reading sound and pictures out of real video files, whole and broken ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from video_files import CODECS, grey, rotate_mp4, write_video

from clipsonic.data.decoding import VideoReader, find_videos
from clipsonic.errors import MediaError


def loudest_hz(sound: np.ndarray, rate: int) -> float:
    return float(np.abs(np.fft.rfft(sound)).argmax() * rate / len(sound))


def greys(reader: VideoReader, *times_s: float) -> list[int]:
    return [round(np.asarray(picture).mean()) for picture in reader.pictures(times_s, 32)]


@pytest.mark.parametrize("suffix", CODECS)
def test_every_container_gives_the_sound_and_picture_of_a_time(suffix: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"a{suffix}", 4.0)
    with VideoReader(path) as reader:
        assert reader.duration_s() == pytest.approx(4.0, abs=0.1)
        sound, rate = reader.sound(1.0, 2.0)
        assert len(sound) == 2 * rate
        assert loudest_hz(sound, rate) == pytest.approx(440, abs=1)
        assert np.abs(sound).max() == pytest.approx(0.3, abs=0.03)
        # Also back in time, and the last one: an AVI is a picture late, since it has no time stamps.
        times_s = (0.05, 1.55, 3.95, 2.05)
        assert greys(reader, *times_s) == pytest.approx([grey(time_s) for time_s in times_s], abs=6)


def test_sound_lies_where_it_was_played(tmp_path: Path) -> None:
    with VideoReader(write_video(tmp_path / "a.mp4", 3.0)) as reader:
        sound, rate = reader.sound(0.5, 1.0)
    wanted = 0.3 * np.sin(2 * np.pi * 440 * (0.5 + np.arange(len(sound)) / rate))
    assert np.abs(sound - wanted).max() < 0.01


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv"])
def test_a_picture_stays_until_the_next_one(suffix: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"a{suffix}", 4.0, times=(0.0, 0.1, 0.5, 2.0, 3.4))
    with VideoReader(path) as reader:
        wanted = [grey(shown_s) for shown_s in (0.1, 0.5, 0.5, 2.0, 3.4)]
        assert greys(reader, 0.4, 0.6, 1.9, 3.0, 3.9) == pytest.approx(wanted, abs=4)


def test_pictures_are_turned_upright_and_scaled_down_only(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 1.0)
    rotate_mp4(path)
    with VideoReader(path) as reader:
        assert reader.pictures([0.5], 24)[0].size == (24, 32)
        assert reader.pictures([0.5], 500)[0].size == (48, 64)


def test_any_sound_track_can_be_chosen(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 2.0, tones=(440.0, 1000.0))
    for track, tone in enumerate((440, 1000)):
        with VideoReader(path, track) as reader:
            assert loudest_hz(*reader.sound(0.0, 2.0)) == pytest.approx(tone, abs=1)
    with pytest.raises(MediaError, match="has 2 sound tracks, so none is number 2"):
        VideoReader(path, 2)


def test_a_length_that_nobody_wrote_down_is_found_out(tmp_path: Path) -> None:
    with VideoReader(write_video(tmp_path / "a.mkv", 3.0)) as reader:
        assert reader._scanned_duration_s() == pytest.approx(3.0, abs=0.1)


def test_a_cut_off_file_is_read_up_to_the_cut(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 4.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with VideoReader(path) as reader:
        sound, rate = reader.sound(0.0, 4.0)
        assert 1.0 < len(sound) / rate < 3.0
        assert loudest_hz(sound, rate) == pytest.approx(440, abs=2)
        assert len(reader.pictures([0.5], 32)) == 1
        with pytest.raises(MediaError, match="has no sound at 3.50 s"):
            reader.sound(3.5, 1.0)


def test_damage_in_the_middle_costs_only_what_it_hits(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 4.0)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    with VideoReader(path) as reader:
        for start_s in (0.0, 3.0):
            sound, rate = reader.sound(start_s, 0.9)
            assert loudest_hz(sound, rate) == pytest.approx(440, abs=3)


def test_what_is_no_video_with_sound_is_told(tmp_path: Path) -> None:
    silent = write_video(tmp_path / "silent.mp4", 1.0, tones=())
    with pytest.raises(MediaError, match="has no sound track"):
        VideoReader(silent)
    (tmp_path / "text.mp4").write_text("these are words, not pictures\n" * 50)
    (tmp_path / "empty.mp4").write_bytes(b"")
    headless = write_video(tmp_path / "headless.mp4", 1.0)
    headless.write_bytes(headless.read_bytes()[:400])
    for path in (tmp_path / "text.mp4", tmp_path / "empty.mp4", headless, tmp_path / "absent.mp4"):
        with pytest.raises(MediaError, match="is no video that can be read"):
            VideoReader(path)


def test_a_playlist_cannot_reach_other_files(tmp_path: Path) -> None:
    secret = write_video(tmp_path / "secret.mkv", 1.0)
    (tmp_path / "list.mp4").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret.as_uri()}\n#EXT-X-ENDLIST\n"
    )
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {secret}\n")
    for name in ("list.mp4", "concat.mp4"):
        with pytest.raises(MediaError):
            VideoReader(tmp_path / name).duration_s()


def test_only_videos_are_found(tmp_path: Path) -> None:
    for name in ("b/a.MP4", "a.webm", ".hidden/x.mp4", "notes.txt", "a.mp4.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_videos(tmp_path) == [tmp_path / "a.webm", tmp_path / "b" / "a.MP4"]
