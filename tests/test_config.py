"""Settings go to JSON and back, and say what is wrong with them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from clipsonic.config import (
    MAX_AUDIOS,
    DenoiserConfig,
    GenerationSettings,
    MelConfig,
    PriorConfig,
    VocoderConfig,
)
from clipsonic.errors import ClipSonicError, ConfigError, SettingsError

CONFIGS = [
    MelConfig(sample_rate=16_000),
    DenoiserConfig(embedding_dim=8),
    PriorConfig(embedding_dim=8),
    VocoderConfig(dim=8),
    GenerationSettings(seed=3, methods=("pd",)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
def test_json_round_trip(config: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    assert type(config).load(path) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embedding_dim": 8, "colour": 1}, "no setting colour"),
        ({}, "lacks embedding_dim"),
        ({"embedding_dim": "8"}, "expected int"),
        ({"embedding_dim": True}, "expected int"),
        ({"embedding_dim": 8, "fold": 4}, "expected a list"),
        ({"embedding_dim": 8, "embedding_widths": [64, 0]}, r"embedding_widths is \(64, 0\); allowed: .* from 1"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DenoiserConfig.from_dict(values)


@pytest.mark.parametrize("text", ["", "{", "[1]", None])
def test_files_that_are_no_configuration_are_told(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"config.json"):
        MelConfig.load(path)


def test_mel_durations_are_written_once() -> None:
    mel = MelConfig()
    assert mel.frames(mel.duration_s(352)) == 352
    assert mel.duration_s(352) == pytest.approx(4.0867, abs=1e-4)
    assert mel.log_floor == math.log(1e-5)


@pytest.mark.parametrize(
    "values",
    [
        {"num_inference_steps": 0},
        {"num_inference_steps": -1},
        {"num_inference_steps": "abc"},
        {"num_inference_steps": 2.5},
        {"num_inference_steps": True},
        {"num_inference_steps": 1001},
        {"prior_num_inference_steps": 0},
        {"guidance_scale": math.nan},
        {"guidance_scale": math.inf},
        {"guidance_scale": -1.0},
        {"prior_guidance_scale": math.nan},
        {"guidance_scale": "3"},
        {"sampler": "euler-xyz"},
        {"methods": ("zs", "mp3")},
        {"methods": ()},
        {"methods": ("zs", "zs")},
        {"seed": -1},
        {"seed": 2**32},
        {"seed": 2**32 - 1, "num_audios": 2},
        {"num_audios": 0},
        {"num_audios": MAX_AUDIOS + 1},
        {"template": "a photo"},
        {"template": "{} and {}"},
        {"template": "{0}"},
        {"template": "{} {x}"},
        {"negative_prompt": "x" * 501},
        {"negative_prompt": 3},
        {"strength": 0},
        {"strength": 0.04},
        {"strength": 1.5},
        {"strength": math.nan},
        {"strength": "1"},
        {"strength": True},
    ],
    ids=str,
)
def test_impossible_settings_say_what_is_allowed(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="allowed:") as caught:
        GenerationSettings(**values)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ClipSonicError)
    assert isinstance(caught.value, ValueError)


def test_settings_survive_json() -> None:
    settings = GenerationSettings(seed=2**32 - 1, guidance_scale=1)
    assert GenerationSettings.from_dict(json.loads(settings.to_json())) == settings
