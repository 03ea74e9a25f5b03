import numpy as np
import pyloudnorm
import pytest

from clipsonic.data.tracks import Variation, clean_recording, make_track, reverberate, set_loudness

RATE = 22050
SAMPLES = 352 * 256


def tone(seconds: float, decay_s: float | None = None, frequency: float = 440.0) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    wave = np.sin(2 * np.pi * frequency * time)
    return (wave * (np.exp(-time / decay_s) if decay_s else 1.0)).astype(np.float32)


def loud_fraction(track: np.ndarray) -> float:
    levels = np.sqrt(np.mean(track[: len(track) // 512 * 512].reshape(-1, 512) ** 2, axis=1))
    return float((levels > 0.05 * levels.max()).mean())


@pytest.mark.parametrize(
    "sound", [tone(0.2, 0.05), tone(1.5, 0.3), tone(1.2), tone(9.0)], ids=["tick", "bell", "hum", "long"]
)
def test_tracks_have_the_length_the_loudness_and_no_clipping(sound):
    for seed in range(3):
        track = make_track(sound, RATE, SAMPLES, np.random.default_rng(seed))
        assert track.shape == (SAMPLES,)
        assert track.dtype == np.float32
        assert np.abs(track).max() < 1.0
        assert -27 < pyloudnorm.Meter(RATE).integrated_loudness(track.astype(float)) < -19


def test_events_are_repeated_and_steady_sounds_go_on():
    random = np.random.default_rng(4)
    assert loud_fraction(make_track(tone(1.2), RATE, SAMPLES, random)) > 0.95
    fractions = [loud_fraction(make_track(tone(0.4, 0.1), RATE, SAMPLES, np.random.default_rng(s))) for s in range(8)]
    assert all(fraction < 0.9 for fraction in fractions)
    assert max(fractions) > 0.3


def test_gaps_hold_faint_room_noise_rather_than_zeros():
    track = make_track(tone(0.1, 0.02), RATE, SAMPLES, np.random.default_rng(0))
    assert (track == 0).mean() < 0.01


def test_long_recordings_are_cropped_where_something_is_heard():
    sound = np.zeros(RATE * 30, dtype=np.float32)
    sound[RATE * 20 : RATE * 28] = tone(8.0)
    levels = [np.abs(make_track(sound, RATE, SAMPLES, np.random.default_rng(s))).max() for s in range(10)]
    assert min(levels) > 0.02


def test_same_seed_same_track_and_variation_only_if_asked_for():
    sound = tone(9.0)
    tracks = [make_track(sound, RATE, SAMPLES, np.random.default_rng(1), Variation()) for _ in range(2)]
    assert np.array_equal(*tracks)
    plain = make_track(sound, RATE, SAMPLES, np.random.default_rng(1))
    peak = {name: np.abs(np.fft.rfft(track)).argmax() for name, track in (("plain", plain), ("varied", tracks[0]))}
    assert peak["plain"] == pytest.approx(440 * SAMPLES / RATE, abs=2)
    assert peak["varied"] != peak["plain"]


def test_recordings_are_resampled_centred_and_trimmed():
    padded = np.concatenate([np.zeros(RATE), tone(0.5), np.zeros(RATE)]).astype(np.float32) + 0.1
    sound = clean_recording(padded, RATE * 2, RATE)
    assert sound is not None
    assert 0.24 * RATE < len(sound) < 0.28 * RATE
    assert abs(sound.mean()) < 0.01


@pytest.mark.parametrize("sound", [np.zeros(RATE), np.full(RATE, np.nan), tone(0.01), 1e-4 * tone(1.0), np.zeros(0)])
def test_useless_recordings_are_left_out(sound):
    assert clean_recording(sound.astype(np.float32), RATE, RATE) is None


def test_loudness_is_limited_by_the_true_peak():
    click = np.zeros(RATE, dtype=np.float32)
    click[1000] = 0.01
    loud = set_loudness(click, RATE, -5.0)
    assert 0.9 < np.abs(loud).max() <= 0.97
    assert np.abs(set_loudness(tone(0.1), RATE, -20.0)).max() == pytest.approx(0.1 * np.sqrt(2), rel=0.02)


def test_rooms_add_a_tail():
    click = np.zeros(RATE, dtype=np.float32)
    click[100] = 0.5
    wet = reverberate(click, RATE, np.random.default_rng(0))
    assert wet.shape == click.shape
    assert wet[100] == pytest.approx(0.5, abs=0.2)
    assert 0 < np.sqrt(np.mean(wet[200:2000] ** 2)) < 0.05
