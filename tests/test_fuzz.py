"""Arbitrary values and mutated files at every way in: what comes out is a value or one of our own errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from video_files import write_video

from clipsonic.config import DenoiserConfig, GenerationSettings, MelConfig
from clipsonic.errors import ClipSonicError, MediaError
from clipsonic.media import open_picture, open_sound
from clipsonic.queries import check_prompt
from clipsonic.ui.controls import read_settings
from clipsonic.ui.links import link_to, read_file_settings, read_link
from clipsonic.video import open_video

NAMES = st.sampled_from(tuple(GenerationSettings().to_dict())) | st.text(max_size=8)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4))
OBJECTS = st.dictionaries(NAMES, JSON, max_size=5)
WORDS = st.text(max_size=600)
CHANGES = st.lists(st.tuples(st.integers(0, 10**9), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6)


def fuzz(examples: int) -> Callable[[Any], Any]:
    """The same examples every time, however slow the machine is."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=quiet)


def value_or_refusal(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a call gives, None if it refuses in one line that can be shown."""
    try:
        return call(*arguments)
    except ClipSonicError as error:
        assert 0 < len(str(error)) < 2000
        return None


@fuzz(80)
@given(OBJECTS)
def test_settings_from_any_json(values: dict[str, Any]) -> None:
    made = value_or_refusal(GenerationSettings.from_dict, values)
    if made is not None:
        assert GenerationSettings.from_dict(json.loads(made.to_json())) == made


@fuzz(60)
@given(OBJECTS)
def test_other_configurations_from_any_json(values: dict[str, Any]) -> None:
    value_or_refusal(MelConfig.from_dict, values)
    value_or_refusal(DenoiserConfig.from_dict, values | {"embedding_dim": 8})


@fuzz(60)
@given(OBJECTS, st.booleans())
def test_settings_from_any_values_of_the_page(values: dict[str, Any], keep_seed: bool) -> None:
    known = {name: value for name, value in values.items() if name in GenerationSettings().to_dict()}
    value_or_refusal(read_settings, ("zs",), keep_seed, {"seed": 0} | known)


@fuzz(150)
@given(JSON | WORDS)
def test_any_prompt(prompt: Any) -> None:
    kept = value_or_refusal(check_prompt, prompt)
    assert kept is None or (kept == prompt and kept.encode())


@fuzz(150)
@given(st.text(alphabet="{}!:.[]0a \\%$é", max_size=12) | WORDS, WORDS)
def test_any_template_that_is_taken_can_be_filled_in(template: str, prompt: str) -> None:
    made = value_or_refusal(lambda: GenerationSettings(template=template))
    if made is not None:
        assert made.template.format(prompt) == template.replace("{}", prompt)


@fuzz(150)
@given(st.dictionaries(NAMES, WORDS | st.integers().map(str) | st.floats().map(str), max_size=5), WORDS)
def test_any_address(query: dict[str, str], prompt: str) -> None:
    value_or_refusal(read_link, query | {"prompt": prompt})


@fuzz(150)
@given(st.dictionaries(st.sampled_from(("prompt", "settings", "image")), WORDS, max_size=3), OBJECTS | JSON)
def test_any_settings_in_a_file(tags: dict[str, str], values: Any) -> None:
    value_or_refusal(read_file_settings, tags)
    value_or_refusal(read_file_settings, tags | {"settings": json.dumps(values)})


@fuzz(60)
@given(st.text(min_size=1, max_size=40), st.integers(0, 2**31), st.sampled_from((1, 25, 200)))
def test_a_link_gives_back_what_it_was_made_from(prompt: str, seed: int, steps: int) -> None:
    from urllib.parse import parse_qs

    made = GenerationSettings(seed=seed, num_inference_steps=steps)
    link = link_to({"prompt": prompt, "settings": json.dumps(made.to_dict())})
    query = {name: values[0] for name, values in parse_qs(link[1:], keep_blank_values=True).items()}
    back, values = read_link(query)
    assert back == prompt and values["seed"] == seed and values.get("num_inference_steps", 25) == steps


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """Small valid files of every kind."""
    folder = tmp_path_factory.mktemp("good")
    videos = [write_video(folder / f"a{suffix}", 0.5).read_bytes() for suffix in (".mp4", ".mkv", ".avi")]
    pictures, sounds = hostile.good_pictures(), hostile.good_sounds()
    return {"picture": list(pictures.values()), "sound": list(sounds.values()), "video": videos}


def mutate(data: bytes, changes: list[tuple[int, bytes]], cut: int) -> bytes:
    """Overwrite bytes here and there, most often in the header, and cut off the end."""
    changed = bytearray(data)
    for number, (place, new) in enumerate(changes):
        start = place % (len(data) if number % 2 else min(len(data), 200))
        changed[start : start + len(new)] = new
    return bytes(changed[: len(changed) - cut])


OPENERS = {"picture": (open_picture, 120), "sound": (open_sound, 120), "video": (open_video, 40)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", OPENERS)
def test_mutated_files(kind: str, good: dict[str, list[bytes]]) -> None:
    opener, examples = OPENERS[kind]
    ends = {"read": 0, "refused": 0}

    @fuzz(examples)
    @given(st.integers(0, len(good[kind]) - 1), CHANGES, st.sampled_from((0, 0, 0, 1, 50)))
    def look(number: int, changes: list[tuple[int, bytes]], cut: int) -> None:
        try:
            opener(mutate(good[kind][number], changes, cut))
            ends["read"] += 1
        except MediaError:
            ends["refused"] += 1

    look()
    assert min(ends.values()) > 0, ends


def test_the_mutations_change_files() -> None:
    data = Path(__file__).read_bytes()
    assert mutate(data, [(5, b"\xff\xff")], 7) != data[:-7] and len(mutate(data, [(5, b"\xff")], 7)) == len(data) - 7
