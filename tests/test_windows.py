"""Windows cover any length, and join without a seam."""

from __future__ import annotations

import pytest
import torch

from clipsonic.config import MelConfig
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
