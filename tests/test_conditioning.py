"""How a video's frames become one condition: by their mean, or by what a denoiser has learnt to look at."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clipsonic.conditioning import by_window, pooling
from clipsonic.config import DenoiserConfig, MelConfig
from clipsonic.denoiser import Denoiser
from clipsonic.windows import Windows

FRAME_S = MelConfig().duration_s(1)


def denoiser(attention: bool) -> Denoiser:
    config = DenoiserConfig(
        embedding_dim=32,
        frames=64,
        fold=(4, 4),
        channels=(32, 32, 64),
        head_dim=16,
        norm_groups=8,
        frame_attention=attention,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Denoiser(config)
        if attention:
            torch.nn.init.normal_(made.frame_score.weight)
    return made.eval().requires_grad_(False)


@pytest.fixture
def frames() -> torch.Tensor:
    return F.normalize(torch.randn(4, 32, generator=torch.Generator().manual_seed(1)), dim=-1)


def test_a_denoiser_that_learnt_to_weigh_frames_does_so_when_it_generates(frames):
    windows = Windows.lasting(64 * FRAME_S, MelConfig(), 64)
    times = [n * 64 * FRAME_S / 4 for n in range(4)]
    mean = by_window(frames, times, windows, FRAME_S)
    assert torch.equal(by_window(frames, times, windows, FRAME_S, pooling(denoiser(False))), mean)
    learnt = denoiser(True)
    weighed = by_window(frames, times, windows, FRAME_S, pooling(learnt))
    torch.testing.assert_close(weighed[0], learnt.pool(frames))
    assert (weighed * mean).sum() < 0.99


def test_a_single_frame_stays_as_it_is(frames):
    for attention in (False, True):
        assert torch.equal(pooling(denoiser(attention))(frames[:1]), frames[0])
