"""One loudness, one length, one rate: what makes sounds of several systems comparable to a listener."""

from __future__ import annotations

import numpy as np

from clipsonic.audio import loudness, resample

OVERSAMPLING = 4
"""ITU-R BS.1770-5, annex 2, measures the true peak on the signal at four times its rate."""
ANCHORS_HZ = {"anchor35": 3500.0, "anchor70": 7000.0}
"""ITU-R BS.1534-3, section 5.1: the low and the mid anchor are the reference, low-passed."""
_TRANSITION_HZ = 500.0
_STOPBAND_DB = 60.0
_FADE_IN_S, _FADE_OUT_S = 0.005, 0.05


def true_peak_dbtp(waveform: np.ndarray) -> float:
    """Measure the true peak of ITU-R BS.1770.

    Args:
        waveform: Sound, float, shape (samples,).

    Returns:
        The peak between the samples, in dB relative to full scale; minus infinity for silence.
    """
    from scipy.signal import resample_poly

    peak = float(np.abs(waveform).max(initial=0.0))
    if len(waveform) > 1:
        peak = max(peak, float(np.abs(resample_poly(waveform.astype(np.float64), OVERSAMPLING, 1)).max()))
    return float(20 * np.log10(peak)) if peak > 0 else float("-inf")


def level(waveform: np.ndarray, sample_rate: int, target_lufs: float, ceiling_dbtp: float) -> np.ndarray:
    """Bring sound to a loudness, or as near as its true peak allows; nothing is compressed or clipped.

    Args:
        waveform: Sound in [-1, 1], float32, shape (samples,).
        sample_rate: In Hz.
        target_lufs: ITU-R BS.1770 integrated loudness wanted.
        ceiling_dbtp: The true peak not to exceed, in dB relative to full scale.

    Returns:
        Sound of the same shape, float32; silence comes back as it is.
    """
    now = loudness(waveform, sample_rate)
    if not np.isfinite(now):
        return waveform.astype(np.float32)
    gain_db = min(target_lufs - now, ceiling_dbtp - true_peak_dbtp(waveform))
    return (waveform * 10 ** (gain_db / 20)).astype(np.float32)


def fit(waveform: np.ndarray, sample_rate: int, target_rate: int, samples: int) -> np.ndarray:
    """Give sound a rate and a length: cut or padded with silence, faded at both ends so that nothing clicks.

    Args:
        waveform: Sound, float32, shape (n,).
        sample_rate: Its rate in Hz.
        target_rate: The rate wanted, in Hz.
        samples: The length wanted.

    Returns:
        Sound, float32, shape (samples,), at `target_rate` Hz.
    """
    cut = np.array(resample(waveform, sample_rate, target_rate)[:samples], dtype=np.float32)
    for seconds, end in ((_FADE_IN_S, slice(None)), (_FADE_OUT_S, slice(None, None, -1))):
        length = min(int(seconds * target_rate), len(cut))
        ramp = 0.5 - 0.5 * np.cos(np.pi * np.arange(length) / max(length, 1))
        cut[end][:length] *= ramp.astype(np.float32)
    return np.pad(cut, (0, samples - len(cut)))


def low_pass(waveform: np.ndarray, sample_rate: int, cutoff_hz: float) -> np.ndarray:
    """Make a degraded anchor: linear phase, flat up to the cutoff, 60 dB down 500 Hz above it.

    Args:
        waveform: Sound, float32, shape (samples,).
        sample_rate: In Hz.
        cutoff_hz: Where the passband ends. At or above half the rate the sound comes back as it is.

    Returns:
        Sound of the same shape, float32.
    """
    from scipy.signal import firwin, kaiserord, oaconvolve

    nyquist = sample_rate / 2
    if cutoff_hz + _TRANSITION_HZ >= nyquist:
        return waveform.astype(np.float32)
    taps, beta = kaiserord(_STOPBAND_DB, _TRANSITION_HZ / nyquist)
    kernel = firwin(taps | 1, cutoff_hz + _TRANSITION_HZ / 2, window=("kaiser", beta), fs=sample_rate)
    return oaconvolve(waveform.astype(np.float64), kernel, mode="same").astype(np.float32)
