"""Over 300 hostile prompts and settings: each makes a sound or is refused in one line, and no word leaves its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hostile
import pytest
from test_hostile_media import nothing_else_happens, one_clear_line

from clipsonic.audio import FORMATS, read_tags, write_audio
from clipsonic.config import GenerationSettings
from clipsonic.errors import ClipSonicError, PromptError, SettingsError
from clipsonic.output import ClipSonicOutput
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.storage import slug
from clipsonic.ui.controls import read_settings


def usable(pipeline: ClipSonicPipeline) -> list[ClipSonicOutput]:
    """Return what the pipeline makes of the hostile prompts that it takes; it refuses the others in one line."""
    taken: list[ClipSonicOutput] = []
    for prompt in hostile.prompts():
        with nothing_else_happens():
            try:
                taken.append(pipeline(prompt=prompt, methods=("zs",), num_inference_steps=1, guidance_scale=1.0))
            except PromptError as error:
                assert one_clear_line(error), repr(prompt)
    return taken


def test_there_are_over_300_cases() -> None:
    prompts, payloads = hostile.prompts(), list(hostile.payloads())
    assert len(set(prompts)) == len(prompts)
    assert len(prompts) + len(hostile.NOT_TEXT) + len(payloads) >= 300


@pytest.mark.timeout(300)
def test_hostile_prompts_sound_and_stay_words(tiny_pipeline: ClipSonicPipeline, tmp_path: Path) -> None:
    for out in usable(tiny_pipeline):
        (audio,) = out.audios
        path = tmp_path / f"{slug(str(audio.prompt))}.wav"
        assert path.parent == tmp_path and len(path.name) <= 80
        for suffix in FORMATS:
            file = path.with_suffix(f".{suffix}")
            write_audio(file, audio.waveform[:1000], out.sample_rate, out.tags(audio))
            assert read_tags(file) == out.tags(audio), (suffix, audio.prompt)
            assert read_tags(file)["prompt"] == audio.prompt
            if suffix != "wav":
                file.unlink()
    assert {path.suffix for path in tmp_path.iterdir()} == {".wav"} and len(list(tmp_path.iterdir())) > 30


@pytest.mark.parametrize("prompt", hostile.NOT_TEXT, ids=lambda prompt: repr(prompt)[:20])
def test_what_is_no_prompt_is_refused(prompt: Any, tiny_pipeline: ClipSonicPipeline) -> None:
    with pytest.raises(PromptError) as caught:
        tiny_pipeline(prompt=[prompt], num_inference_steps=1)
    assert one_clear_line(caught.value)


def test_every_hostile_setting_is_taken_or_refused_in_one_line() -> None:
    refused = 0
    for name, value in hostile.payloads():
        values = {n: v for n, v in GenerationSettings().to_dict().items() if n != "methods"}
        methods = value if name == "methods" else ("zs",)
        try:
            settings = read_settings(methods, True, values | ({} if name == "methods" else {name: value}))
        except SettingsError as error:
            assert one_clear_line(error), (name, repr(value)[:40])
            refused += 1
        except Exception as error:
            pytest.fail(f"{name}={value!r:.40} ends in {error!r:.200}")
        else:
            json.dumps(settings.to_dict(), allow_nan=False)
    assert refused > 200


def test_messages_about_hostile_settings_are_short() -> None:
    for name, value in hostile.payloads():
        values = {n: v for n, v in GenerationSettings().to_dict().items() if n != "methods"}
        if name == "methods":
            continue
        try:
            read_settings(("zs",), True, values | {name: value})
        except ClipSonicError as error:
            assert len(str(error)) < 500, (name, repr(value)[:40])
