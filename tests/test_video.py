"""Videos of every kind: read, sounded, and put together with the sound."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from test_pipeline import FAST, PICTURE, same
from videos import make_video

from clipsonic.audio import write_audio
from clipsonic.errors import MediaError, SettingsError
from clipsonic.mux import write_video
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.video import Video, open_video

RATE = 22_050
RED, BLUE = (255, 0, 0), (0, 0, 255)
KINDS = {
    "a.mp4": {"sound": "aac"},
    "a.webm": {"codec": "libvpx-vp9", "sound": "libopus"},
    "a.mkv": {"codec": "mpeg4"},
    "a.avi": {"codec": "mjpeg"},
    "a.mov": {"codec": "libx264"},
    "a.gif": {"codec": "gif"},
    "a.ts": {"codec": "mpeg2video", "fps": 25},
    "vp8.webm": {"codec": "libvpx"},
}


def nearest(pixel: np.ndarray) -> str:
    red, _, blue = (int(value) for value in pixel)
    return "red" if red > blue else "blue"


def colours(video: Video) -> list[str]:
    return [nearest(np.asarray(frame)[-4, -4]) for frame in video.frames]


def streams(path: Path) -> tuple[float, float, str]:
    """Return the seconds of pictures and of sound that can be decoded from a file, and the pictures' coding."""
    with av.open(str(path)) as container:
        frames = [float(frame.time) for frame in container.decode(video=0)]
        coding = container.streams.video[0].codec_context.name
    with av.open(str(path)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
        rate = container.streams.audio[0].rate
    return frames[-1] - frames[0], samples / rate, coding


@pytest.mark.parametrize("name", KINDS)
def test_every_container_is_read_and_sounded(name: str, tiny_pipeline: ClipSonicPipeline, tmp_path: Path) -> None:
    path = make_video(tmp_path / name, **KINDS[name])
    video = open_video(path)
    assert video.duration_s == pytest.approx(2, abs=0.15)
    assert colours(video) == ["red", "blue"]
    assert video.times == pytest.approx((0.5, 1.5), abs=0.15)
    audio = tiny_pipeline(video=video, settings=FAST).audios[0]
    assert (audio.method, audio.video, audio.prompt, audio.image) == ("iq", name, None, None)
    assert len(audio.waveform) == round(video.duration_s * RATE)
    out = tmp_path / "out.mp4"
    copied = write_video(out, video, audio.waveform, RATE)
    pictures_s, sound_s, coding = streams(out)
    assert copied == (coding != "h264" or KINDS[name].get("codec", "libx264") == "libx264")
    assert pictures_s == pytest.approx(2 - 1 / KINDS[name].get("fps", 8), abs=0.15)
    assert sound_s == pytest.approx(2, abs=0.15)


def test_windows_follow_the_pictures_of_their_own_time(tiny_pipeline: ClipSonicPipeline, tmp_path: Path) -> None:
    """Two videos that begin alike sound alike until they part."""
    same_end = make_video(tmp_path / "a.mp4", seconds=4.0, colours=(RED,))
    other_end = make_video(tmp_path / "b.mp4", seconds=4.0, colours=(RED, RED, RED, BLUE))
    one, other = (tiny_pipeline(video=path, settings=FAST).audios[0] for path in (same_end, other_end))
    assert np.array_equal(one.mel[:, :150], other.mel[:, :150])
    assert not np.array_equal(one.mel[:, -60:], other.mel[:, -60:])
    still = tiny_pipeline(video=[same_end, other_end], image=PICTURE, settings=FAST).audios
    assert [audio.image or audio.video for audio in still] == ["picture 1", "a.mp4", "b.mp4"]
    assert same(still[2], other)


def test_rotation_is_applied_and_kept(tmp_path: Path) -> None:
    path = make_video(tmp_path / "phone.mp4", rotation=90)
    video = open_video(path)
    assert video.frames[0].size == (48, 64)
    corners = {name: np.asarray(video.frames[0])[y, x].min() for name, (y, x) in {"tl": (3, 3), "bl": (-4, 3)}.items()}
    assert corners["bl"] > 200 > corners["tl"]  # the white corner, turned counterclockwise
    sound = np.zeros(2 * RATE, np.float32)
    assert write_video(tmp_path / "out.mp4", video, sound, RATE)
    assert open_video(tmp_path / "out.mp4").frames[0].size == (48, 64)
    path = make_video(tmp_path / "phone.avi", codec="mjpeg")
    assert not write_video(tmp_path / "out.mp4", open_video(path), sound, RATE)


def test_rates_that_vary_keep_their_time(tmp_path: Path) -> None:
    video = open_video(make_video(tmp_path / "a.mp4", seconds=6.0, gaps=True))
    assert video.duration_s == pytest.approx(6, abs=0.6)
    assert colours(video) == ["red"] * 3 + ["blue"] * 3
    write_video(tmp_path / "out.mp4", video, np.zeros(round(video.duration_s * RATE), np.float32), RATE)
    again = open_video(tmp_path / "out.mp4")
    assert again.times == pytest.approx(video.times, abs=0.05)


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.webm"])
def test_a_tail_that_is_cut_off_is_left_out(name: str, tmp_path: Path) -> None:
    path = make_video(tmp_path / name, **(KINDS[name] | {"seconds": 6.0, "size": (320, 240)}))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    video = open_video(path)
    assert 0.5 < video.duration_s <= 6.2
    sound = np.zeros(round(video.duration_s * RATE), np.float32)
    write_video(tmp_path / "out.mp4", video, sound, RATE)
    assert streams(tmp_path / "out.mp4")[1] == pytest.approx(video.duration_s, abs=0.1)


def test_long_videos_are_cut_and_short_ones_sound_too(tiny_pipeline: ClipSonicPipeline, tmp_path: Path) -> None:
    long = open_video(make_video(tmp_path / "long.mp4", seconds=70.0, fps=2))
    assert (long.duration_s, long.whole_s, long.cut) == (60.0, pytest.approx(70, abs=1), True)
    assert len(long.frames) == 60
    three = tiny_pipeline(video=long, settings=FAST, duration_s=3.0).audios[0]
    assert len(three.waveform) == 3 * RATE
    write_video(tmp_path / "out.mp4", long, three.waveform, RATE)
    assert streams(tmp_path / "out.mp4")[0] == pytest.approx(2.5, abs=0.6)
    blink = open_video(make_video(tmp_path / "blink.mp4", seconds=0.25, colours=(RED,)))
    assert (len(blink.frames), blink.duration_s, blink.cut) == (1, pytest.approx(0.25, abs=0.02), False)
    assert len(tiny_pipeline(video=blink, settings=FAST).audios[0].waveform) == round(blink.duration_s * RATE)


def test_what_is_no_video_is_told(tiny_pipeline: ClipSonicPipeline, tmp_path: Path) -> None:
    write_audio(tmp_path / "song.ogg", np.zeros(RATE, np.float32), RATE)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:2,\nfile://{make_video(tmp_path / 'a.mp4')}\n")
    (tmp_path / "list.txt").write_text(f"ffconcat version 1.0\nfile {tmp_path / 'a.mp4'}\n")
    for name, message in {
        "song.ogg": "song.ogg has no moving pictures",
        "text.mp4": "text.mp4 is not a video",
        "empty.mp4": "empty.mp4 is not a video",
        "list.mp4": "list.mp4 is not a video",
        "list.txt": "list.txt is not a video",
        "nowhere.mp4": "cannot read the video nowhere.mp4: No such file",
    }.items():
        with pytest.raises(MediaError, match=message):
            open_video(tmp_path / name)
    with pytest.raises(SettingsError, match="none that renders a video; add iq"):
        tiny_pipeline(video=tmp_path / "a.mp4", methods=("zs",))


def test_bytes_are_videos_too(tmp_path: Path) -> None:
    video = open_video(make_video(tmp_path / "a.mp4").read_bytes())
    assert (video.name, len(video.frames)) == ("the video", 2)
