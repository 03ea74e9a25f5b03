"""Windows cover any length, and join without a seam."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from clipsonic.audio import log_mel
from clipsonic.config import MelConfig
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.windows import OVERLAP, Windows


@pytest.mark.parametrize("frames", [1, 63, 64, 65, 111, 112, 113, 500, 5168])
def test_windows_cover_everything_and_overlap(frames: int) -> None:
    windows = Windows.cover(frames, 64)
    assert windows.starts[0] == 0
    assert windows.starts[-1] + 64 == windows.span == max(frames, 64)
    overlaps = [a + 64 - b for a, b in zip(windows.starts, windows.starts[1:], strict=False)]
    assert all(overlap >= 64 * OVERLAP - 1 for overlap in overlaps)


@pytest.mark.parametrize("frames", [64, 65, 100, 177, 1000])
def test_joining_what_was_cut_gives_it_back(frames: int) -> None:
    windows = Windows.cover(frames, 64)
    mel = torch.randn(1, 80, windows.span)
    torch.testing.assert_close(windows.join(windows.cut(mel)), mel)


def test_weights_are_smooth_where_windows_meet() -> None:
    """Windows that disagree wholly (0, 1, 0, 1 …) still join in a curve that never jumps."""
    windows = Windows.cover(300, 64)
    pieces = (torch.arange(len(windows.starts)) % 2).float()[:, None, None].expand(-1, 80, 64)
    steps = windows.join(pieces)[0, 0].diff().abs()
    assert steps.max() < 2 / (OVERLAP * 64)
    assert steps.max() > 0


@pytest.mark.parametrize(("seconds", "frames"), [(0.0, 352), (1.0, 87), (4.0, 345), (60.0, 5168)])
def test_seconds_become_frames(seconds: float, frames: int) -> None:
    assert Windows.lasting(seconds, MelConfig(), 352).frames == frames


@pytest.mark.timeout(600)
def test_no_seam_is_heard_in_a_long_sound() -> None:
    """Around the edges of windows the trained model's spectrum moves no more than elsewhere; cut ones do."""
    pipeline = ClipSonicPipeline.from_pretrained("checkpoints/mini", device="cpu")
    query = {"methods": "zs", "guidance_scale": 1.0, "num_inference_steps": 6}
    windows = Windows.lasting(7.0, MelConfig(), 352)
    edges = [frame for start in windows.starts for frame in (start, start + 352) if 0 < frame < windows.frames]
    joined = pipeline("rain", **query, duration_s=7.0, num_audios=8).audios
    assert len(edges) == 2
    assert np.mean([flux_at(audio.waveform, edges) for audio in joined]) < 1.1, "a drop may fall on an edge, not eight"
    apart = [audio.waveform for audio in pipeline("rain", **query, num_audios=3).audios]
    cut = [flux_at(np.concatenate(pair), [352]) for pair in itertools.permutations(apart, 2)]
    assert np.mean(cut) > 1.3
    assert max(cut) > 1.5


def flux_at(waveform: np.ndarray, edges: list[int]) -> float:
    """Return how much more the log-mel changes from frame to frame near some frames than elsewhere."""
    mel = log_mel(torch.from_numpy(waveform)[None], MelConfig())[0].clamp(min=-9)
    flux = mel.diff(dim=1).abs().mean(0)
    near = torch.zeros(len(flux), dtype=torch.bool)
    for edge in edges:
        near[edge - 3 : edge + 3] = True
    return float(flux[near].mean() / flux[~near].mean())
