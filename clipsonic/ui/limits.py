"""What one visitor may ask for, so that nobody slows the app for the others for long."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from clipsonic.config import GenerationSettings
from clipsonic.errors import SettingsError

PREFIX = "CLIPSONIC_MAX_"
PRIOR_METHODS = ("pd", "sd")
WINDOW_S = 4.0
"""About how long a sound the denoiser makes at once; longer ones take several windows."""
VIDEO_S = 60.0
"""A video is sounded to its end, a minute at most, unless `duration_s` says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is allowed; `from_environment` reads `CLIPSONIC_MAX_QUEUE` and so on.

    Attributes:
        queue: Requests that may wait; whoever comes later is told that the app is busy.
        per_visitor: Requests that one open page or client may have waiting and running.
        per_address: The same for all pages and clients of one network address.
        steps: Denoising and prior steps that one request may take, over all its sounds; see `count_steps`.
        run_s: Seconds that one run may take.
        body_bytes: Length of the body of a request other than an upload.
        files_mb: Megabytes of uploads and results that are kept; the oldest go first.
        files_s: Seconds that an upload or a result is kept.
    """

    queue: int = 32
    per_visitor: int = 3
    per_address: int = 8
    steps: int = 4000
    run_s: int = 600
    body_bytes: int = 2_000_000
    files_mb: int = 2000
    files_s: int = 24 * 3600

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Return the defaults, changed by the variables that are set.

        Raises:
            SettingsError: A variable is not a whole number above 0.
        """
        values = {}
        for field in dataclasses.fields(cls):
            text = environment.get(PREFIX + field.name.upper())
            if text is None:
                continue
            if not text.isdecimal() or int(text) < 1:
                raise SettingsError(f"{PREFIX}{field.name.upper()} is {text!r}; allowed: a whole number above 0")
            values[field.name] = int(text)
        return cls(**values)

    def check(self, query: Mapping[str, Any], settings: GenerationSettings) -> None:
        """Refuse what would keep the others waiting too long.

        Raises:
            SettingsError: The request takes more steps than are allowed.
        """
        steps = count_steps(query, settings)
        if steps > self.steps:
            raise SettingsError(
                f"this would take {steps:,} steps over all its sounds; allowed here: {self.steps:,}; "
                "lower the steps, variations, candidates or seconds"
            )


def count_steps(query: Mapping[str, Any], settings: GenerationSettings) -> int:
    """Return how many denoising and prior steps a request takes: what its time goes with.

    Each of `num_audios` × `candidates` sounds is denoised once per method and window of about four seconds, and the
    prior's methods draw one embedding each.
    """
    duration_s = settings.duration_s or (VIDEO_S if query.get("video") else 0.0)
    windows = max(1, math.ceil(duration_s / WINDOW_S))
    denoising = settings.num_inference_steps * windows * len(settings.methods)
    prior = settings.prior_num_inference_steps * sum(method in PRIOR_METHODS for method in settings.methods)
    return settings.num_audios * settings.candidates * (denoising + prior)
