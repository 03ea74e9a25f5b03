"""The page around a pipeline that only pretends: what a click asks for, what a visitor gets to see."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl

import av
import gradio as gr
import numpy as np
import pytest
import torch
from fake_pipeline import MEL, SAMPLES, FakePipeline
from gradio_client import Client

from clipsonic import cli
from clipsonic.audio import log_mel, read_audio, read_tags
from clipsonic.config import GenerationSettings
from clipsonic.errors import Cancelled, DataError, MediaError, OutputError, PromptError, SettingsError
from clipsonic.examples import MANIFEST_NAME, ExampleSounds, comparable, list_pictures, read_prompts
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.ui import build_ui, launch_options
from clipsonic.ui.abilities import Abilities
from clipsonic.ui.asking import Ask, AskForMix, AskForTwo, AskForVideo
from clipsonic.ui.cards import file_name, places, write_sounds
from clipsonic.ui.controls import read_settings
from clipsonic.ui.handlers import Studio, Tab
from clipsonic.ui.links import link_to, read_file_settings, read_link
from clipsonic.ui.page import QUEUE
from clipsonic.ui.ready import ReadyMade
from clipsonic.ui.results import Results, bar, message
from clipsonic.ui.runs import Report, Runs, watch
from clipsonic.ui.spectrogram import axes, draw_spectrogram
from clipsonic.ui.stage import converted
from clipsonic.ui.words import stage_name
from clipsonic.ui.zerogpu import duration_s, place_at_start

EXAMPLES = Path(__file__).parents[1] / "examples"
VALUES = {name: value for name, value in GenerationSettings().to_dict().items() if name != "methods"}
EVERYTHING = Abilities(methods=("iq", "zs", "pd", "sd", "aq"), scores=True)


def visit(name: str) -> SimpleNamespace:
    return SimpleNamespace(session_hash=name)


def make_tab(pipeline: FakePipeline, ask: Ask | None = None, ready: object = None) -> Tab:
    with gr.Blocks():
        ask = ask or Ask(("prompt",), ("zs", "pd"))
        return Tab(Studio(lambda: pipeline), ask, gr.Number(), Results("test"), ready)


def cards_of(update: dict) -> list[dict]:
    """The cards that an update shows, if it shows any."""
    return next((v["cards"] for v in update.values() if isinstance(v, dict) and "cards" in v), [])


def test_nothing_is_loaded_before_the_first_sound() -> None:
    def load() -> FakePipeline:
        raise AssertionError("loaded too early")

    assert build_ui(load, EXAMPLES)._queue.max_size == QUEUE


def test_endpoints_are_those_of_the_model_and_their_defaults_are_the_settings() -> None:
    few = build_ui(FakePipeline, EXAMPLES).get_api_info()["named_endpoints"]
    assert sorted(few) == ["/image_to_audio", "/text_to_audio", "/video_to_audio"]
    endpoints = build_ui(FakePipeline, EXAMPLES, EVERYTHING).get_api_info()["named_endpoints"]
    assert sorted(endpoints) == ["/audio_to_audio", "/image_to_audio", "/text_to_audio", "/video_to_audio"]
    text = {p["parameter_name"]: p for p in endpoints["/text_to_audio"]["parameters"]}
    assert list(text)[0] == "prompt" and not text["prompt"]["parameter_has_default"]
    told = {n: p["parameter_default"] for n, p in text.items() if n not in ("prompt", "toward", "methods")}
    assert told | {"strength": 1.0} == VALUES and "strength" not in told
    image = {p["parameter_name"] for p in endpoints["/image_to_audio"]["parameters"]}
    of_text = {"prompt", "methods", "prior_num_inference_steps", "prior_guidance_scale", "template"}
    assert image == set(text) - of_text | {"image"}
    assert text["methods"]["label"] == "Methods" and text["methods"]["parameter_default"] == ["zs", "pd"]
    assert text["methods"]["type"]["items"]["enum"] == ["zs", "pd", "sd"]
    assert {p["parameter_name"] for p in endpoints["/audio_to_audio"]["parameters"]} == image - {"image"} | {
        "audio",
        "template",
        "strength",
    }
    (strength,) = (p for p in endpoints["/audio_to_audio"]["parameters"] if p["parameter_name"] == "strength")
    assert strength["parameter_has_default"] and strength["parameter_default"] == 1
    assert "`strength` below 1" in endpoints["/audio_to_audio"]["description"]
    assert "zero-shot" in endpoints["/text_to_audio"]["description"]
    assert endpoints["/image_to_audio"]["description"].startswith("Turn a picture into sounds")


def test_all_generation_shares_one_queue() -> None:
    page = build_ui(FakePipeline, EXAMPLES, EVERYTHING)
    generating = [fn for fn in page.fns.values() if fn.concurrency_id == "generation"]
    # Click, re-roll and Enter or example in the tabs, the two of "Why PD?", four endpoints.
    assert len(generating) == 4 + 3 + 2 + 3 + 3 + 4 + 2 + 4
    assert {fn.concurrency_limit for fn in generating} == {1}


def test_only_what_the_model_can_do_is_offered() -> None:
    def shown(abilities: Abilities) -> tuple[set, set]:
        blocks = build_ui(FakePipeline, EXAMPLES, abilities).blocks.values()
        tabs = {block.label for block in blocks if isinstance(block, gr.Tab)}
        sides = {v for b in blocks if isinstance(b, gr.Dropdown) for _, v in b.choices if b.elem_id == "compare-a"}
        return tabs, sides

    tabs, sides = shown(EVERYTHING)
    assert tabs >= {"Text", "Image", "Video", "Sound", "Compare", "Morph", "Why PD?"}
    assert sides == {"iq", "zs", "pd", "sd", "aq"}
    fewer, sides = shown(Abilities(methods=("iq", "zs")))
    assert tabs - fewer == {"Sound", "Why PD?"} and sides == {"iq", "zs"}


def test_the_sound_tab_alone_asks_how_much_is_made_anew() -> None:
    page = build_ui(FakePipeline, EXAMPLES, EVERYTHING)
    (slider,) = (b for b in page.blocks.values() if isinstance(b, gr.Slider) and b.label == "How much is made anew")
    assert (slider.minimum, slider.maximum, slider.step, slider.value) == (0.05, 1, 0.05, 1)
    tab = slider
    while not isinstance(tab, gr.Tab):
        tab = tab.parent
    assert tab.label == "Sound" and "your sound's course stays" in slider.info


def test_abilities_are_those_of_the_model(
    tiny_model: Path, tiny_pipeline: ClipSonicPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Abilities.ask(str(tiny_model)) == Abilities.of(["clip", "prior"]) == Abilities()
    assert tiny_pipeline.methods == Abilities().methods
    assert Abilities.of(["clip", "audio_clip", "supervised_prior"]) == Abilities(
        methods=("iq", "zs", "sd", "aq"), scores=True
    )
    assert Abilities.ask("no/such/model") == Abilities()
    assert "there is no model folder no/such/model" in capsys.readouterr().out


def test_every_control_has_words_for_it() -> None:
    page = build_ui(FakePipeline, EXAMPLES, EVERYTHING)
    kinds = gr.Slider | gr.Number | gr.Dropdown | gr.Checkbox
    controls = [block for block in page.blocks.values() if isinstance(block, kinds)]
    assert len(controls) > 50 and all(control.info for control in controls)
    named = [b for b in page.blocks.values() if isinstance(b, gr.Textbox | gr.Image | gr.Audio | gr.Video | gr.File)]
    assert all(block.label for block in named)


def test_examples_are_there_and_licensed() -> None:
    assert len(read_prompts(EXAMPLES)) >= 10
    pictures = list_pictures(EXAMPLES)
    assert len(pictures) >= 12
    licences = (EXAMPLES / "LICENSES.csv").read_text(encoding="utf-8")
    for path in pictures:
        assert path.stat().st_size <= 60_000
        assert f"\n{path.name}," in licences
    assert read_prompts(None) == list_pictures(None) == read_prompts(EXAMPLES / "nowhere") == []


def test_seed_is_kept_only_when_locked() -> None:
    assert read_settings(("zs",), True, VALUES | {"seed": 7}).seed == 7
    drawn = {read_settings(("zs",), False, VALUES | {"seed": 7}).seed for _ in range(8)}
    assert len(drawn) > 4 and all(0 <= seed < 1_000_000 for seed in drawn)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_inference_steps", 0),
        ("num_inference_steps", -1),
        ("num_inference_steps", "abc"),
        ("num_inference_steps", None),
        ("guidance_scale", float("nan")),
        ("sampler", "magic"),
        ("sampler", ["ddim"]),
        ("seed", -3),
        ("seed", 1.5),
        ("template", "no place"),
        ("num_audios", 99),
        ("strength", 0),
        ("strength", None),
        ("strength", [0.5]),
    ],
)
def test_bad_values_are_named(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        read_settings(("zs", "pd"), True, VALUES | {name: value})


def test_generate_shows_progress_then_sounds() -> None:
    tab = make_tab(FakePipeline(seconds_a_step=0.1))
    bars, previews, last, files = [], 0, {}, []
    for update in tab.generate(True, visit("a"), prompt="a dog", **VALUES | {"num_audios": 2, "seed": 5}):
        named = {getattr(block, "elem_id", None) or type(block).__name__: v for block, v in update.items()}
        bars.append(named.get("test-status", ""))
        shown = cards_of(update)
        previews += any("picture" in card for card in shown) and not any("sound" in card for card in shown)
        files += [card["sound"]["path"] for card in shown if "sound" in card]
        last = named
    assert any("step" in bar and "<progress value=" in bar and "s left" in bar for bar in bars)
    assert "Done in" in last["test-status"] and previews
    assert [Path(f).name for f in files] == [f"a-dog_{m}_s{s}.wav" for s in (5, 6) for m in ("zs", "pd")]
    assert not any(Path(f).exists() for f in files), "files must go once the page has its copies"
    for card in last["test-stage"]["cards"]:
        assert card["picture"].startswith("data:image/png") and card["axes"]["khz"][-1] == {"at": 1.0, "label": "8"}
        assert (card["side"] == "A") == (card["method"] == "zs")
        assert read_link(parse(card["link"])) == ("a dog", {"seed": 4 + card["take"]})


def parse(link: str) -> dict[str, str]:
    return dict(parse_qsl(link.removeprefix("?")))


def test_generate_tells_what_is_wrong_and_escapes_it() -> None:
    tab = make_tab(FakePipeline())
    with pytest.raises(gr.Error, match="the prompt is empty") as caught:
        list(tab.generate(True, visit("a"), prompt="", **VALUES))
    assert not caught.value.print_exception
    with pytest.raises(gr.Error) as caught:
        list(tab.generate(True, visit("a"), prompt="x", **VALUES | {"template": "<img src=x onerror=alert(1)>"}))
    assert "<img" not in caught.value.message and "&lt;img" in caught.value.message


def test_each_setting_reaches_the_pipeline() -> None:
    pipeline = FakePipeline()
    wanted = {
        "num_audios": 2, "seed": 9, "num_inference_steps": 3, "guidance_scale": 1.5, "negative_prompt": "music",
        "sampler": "ddim", "prior_num_inference_steps": 4, "prior_guidance_scale": 0.5, "template": "the sound of {}",
        "candidates": 3, "duration_s": 1.5, "morph": 0.25, "strength": 0.4,
    }  # fmt: skip
    assert set(wanted) == set(VALUES)
    list(make_tab(pipeline).generate(True, visit("a"), prompt="a dog", **wanted))
    assert pipeline.calls == [GenerationSettings(methods=("zs", "pd"), **wanted)]


def test_reroll_draws_a_new_seed_even_if_the_seed_is_locked() -> None:
    pipeline = FakePipeline()
    list(make_tab(pipeline).reroll(visit("a"), prompt="a dog", **VALUES | {"seed": 2**31}))
    assert pipeline.calls[0].seed < 1_000_000


def test_two_ways_ask_with_what_each_needs_and_stand_side_by_side(tmp_path: Path) -> None:
    picture = {"path": str(EXAMPLES / "pictures" / "dog.jpg")}
    ask = AskForTwo(("method_a", "method_b", "prompt", "image"), ("iq", "zs", "pd"))
    pipeline = FakePipeline()
    chosen = {"method_a": "iq", "method_b": "pd", "prompt": "a dog", "image": picture}
    *_, last = make_tab(pipeline, ask).generate(True, visit("a"), **chosen, **VALUES | {"num_audios": 2})
    assert [(c["method"], c["take"], c["side"]) for c in cards_of(last)] == [
        ("iq", 1, "A"), ("pd", 1, "B"), ("iq", 2, "A"), ("pd", 2, "B"),
    ]  # fmt: skip
    for card in cards_of(last):
        assert card["settings"]["method"] == card["method"] and card["settings"]["seed"] == str(card["take"] - 1)
    with pytest.raises(SettingsError, match="two different"):
        ask.read(chosen | {"method_b": "iq"})
    with pytest.raises(SettingsError, match="aq"):
        ask.read(chosen | {"method_b": "aq"})
    with pytest.raises(MediaError, match="picture"):
        ask.read(chosen | {"image": None})


def write_silent_video(path: Path, seconds: int = 2) -> Path:
    """Write a film of a square that wanders over the picture."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(8 * seconds):
            picture = np.zeros((48, 64, 3), np.uint8)
            picture[8:24, number : number + 16] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))
    return path


def test_a_video_comes_back_with_its_sound(tmp_path: Path) -> None:
    tab = make_tab(FakePipeline(), AskForVideo(("video",), ("iq",)))
    video = {"video": {"path": str(write_silent_video(tmp_path / "film.mp4"))}}
    for update in tab.generate(True, visit("a"), video=video, **VALUES | {"duration_s": 2.0}):
        stage = next((v for v in update.values() if isinstance(v, dict) and v.get("video")), None)
        if stage:
            path = Path(stage["video"]["path"])
            assert path.name == "film_iq_s0.mp4" and stage["cards"][0]["video"] == stage["video"]
            with av.open(path) as container:
                kinds = {s.type: float(s.duration * s.time_base) for s in container.streams}
            assert abs(kinds["audio"] - 2) < 0.1 and abs(kinds["video"] - 2) < 0.3
    assert stage, "the last update shows the video"
    with pytest.raises(gr.Error, match="there is no video"):
        list(tab.generate(True, visit("a"), video=None, **VALUES))


def test_each_sound_of_a_video_has_a_video_of_its_own(tmp_path: Path) -> None:
    tab = make_tab(FakePipeline(), AskForVideo(("video",), ("iq", "mq")))
    video = {"video": {"path": str(write_silent_video(tmp_path / "film.mp4"))}}
    shown, heard = {}, {}
    for update in tab.generate(True, visit("a"), video=video, **VALUES | {"duration_s": 2.0}):
        stage = next((v for v in update.values() if isinstance(v, dict) and v.get("video")), None)
        for each in stage["cards"] if stage else ():
            path = Path(each["video"]["path"])
            shown[each["method"]] = path.name
            with av.open(path) as container:
                frames = [frame.to_ndarray().mean(axis=0) for frame in container.decode(audio=0)]
            heard[each["method"]] = np.concatenate(frames)
    assert shown == {"iq": "film_iq_s0.mp4", "mq": "film_mq_s0.mp4"}
    assert np.abs(heard["iq"]).max() > 0.1 and not np.allclose(heard["iq"], heard["mq"], atol=0.05)


def test_a_mix_goes_towards_the_picture_or_the_words() -> None:
    ask = AskForMix(("prompt", "toward", "toward_picture"), ("zs",))
    both = {"prompt": "a", "toward": "b", "toward_picture": {"path": "/x/c.png"}}
    assert ask.read(both)[0] == {"prompt": "a", "toward": Path("/x/c.png")}
    assert ask.read(both | {"toward_picture": None})[0] == {"prompt": "a", "toward": "b"}
    assert ask.read(both | {"toward_picture": None, "toward": ""})[0] == {"prompt": "a", "toward": None}


def test_places_follow_the_order_of_the_pipeline() -> None:
    pipeline, order = FakePipeline(), places(("prompt", "image"), ("iq", "pd", "zs"), 2)
    settings = GenerationSettings(methods=("iq", "pd", "zs"), num_audios=2)
    dog = str(EXAMPLES / "pictures" / "dog.jpg")
    output = pipeline(prompt="a dog", image=dog, settings=settings, callback=lambda _: None)
    assert [(p.method, p.take - 1) for p in order] == [(a.method, a.seed) for a in output.audios]


LINKED = {
    "seed": 7, "num_inference_steps": 3, "guidance_scale": 1.5, "negative_prompt": "music & noise", "sampler": "ddim",
    "prior_num_inference_steps": 4, "prior_guidance_scale": 0.5, "template": "the sound of {}", "duration_s": 2.0,
    "candidates": 2, "morph": 0.25, "strength": 0.4,
}  # fmt: skip


def test_a_link_and_a_file_bring_the_settings_back() -> None:
    settings = GenerationSettings(methods=("zs", "pd"), **LINKED)
    output = FakePipeline()(prompt="a dog?&=", settings=settings, callback=lambda _: None)
    tags = output.tags(output.audios[0])
    assert read_link(parse(link_to(tags))) == ("a dog?&=", LINKED)
    prompt, values = read_file_settings(tags)
    assert prompt == "a dog?&=" and values == LINKED | {"num_audios": 1}
    assert link_to({**tags, "toward": "x"}) == link_to({"image": "x", "settings": "{}"}) == ""
    assert read_link({}) == read_link({"seed": "3"}) == ("", {})


@pytest.mark.parametrize("query", [{"seed": "x"}, {"seed": "-1"}, {"sampler": "magic"}, {"duration_s": "1e9"}])
def test_bad_links_are_told(query: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=next(iter(query))):
        read_link({"prompt": "a", **query})


@pytest.mark.parametrize("tags", [{}, {"settings": "{"}, {"settings": "[1]"}, {"settings": '{"magic": 1}'}])
def test_files_without_settings_are_told(tags: dict[str, str]) -> None:
    with pytest.raises(MediaError):
        read_file_settings(tags)


def test_the_examples_that_come_with_the_project_were_made_with_the_default_settings() -> None:
    sounds = ExampleSounds.read(EXAMPLES / "sounds")
    assert sounds.settings == comparable(GenerationSettings()) == comparable(GenerationSettings(strength=0.5))


def ready_made(tmp_path: Path, **changes: object) -> ExampleSounds:
    """Sounds of "a dog" as the command leaves them, with a changed manifest."""
    output = FakePipeline()(prompt="a dog", settings=GenerationSettings(), callback=lambda _: None)
    sounds = []
    for audio, path in zip(output.audios, write_sounds(output, tmp_path), strict=True):
        entry = {"file": path.name, "query": "a dog", "method": audio.method, "seed": 0, "score": 0.5}
        sounds.append(entry | {"tags": output.tags(audio)})
    manifest = {"model_sha256": "0" * 64, "settings": comparable(output.settings), "sounds": sounds}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(manifest | changes))
    return ExampleSounds.read(tmp_path)


def test_an_example_plays_what_this_model_made_before(tmp_path: Path) -> None:
    pipeline = FakePipeline()
    tab = make_tab(pipeline, ready=ReadyMade(ready_made(tmp_path)))
    (update,) = tab.example(False, visit("a"), prompt="a dog", **VALUES)
    stage = next(v for v in update.values() if isinstance(v, dict) and "cards" in v)
    assert stage["autoplay"] and [card["method"] for card in stage["cards"]] == ["zs", "pd"] and not pipeline.calls
    assert stage["cards"][0]["score"] == "Clip-Score 0.50" and stage["cards"][0]["settings"]["prompt"] == "a dog"


@pytest.mark.parametrize(
    ("changes", "keep_seed", "asked"),
    [
        ({"model_sha256": "1" * 64}, False, {}),
        ({}, False, {"num_inference_steps": 3}),
        ({}, False, {"num_audios": 2}),
        ({}, True, {"seed": 5}),
        ({}, False, {"prompt": "a cat"}),
    ],
)
def test_stale_examples_are_made_anew(tmp_path: Path, changes: dict, keep_seed: bool, asked: dict) -> None:
    pipeline = FakePipeline()
    tab = make_tab(pipeline, ready=ReadyMade(ready_made(tmp_path, **changes)))
    *_, last = tab.example(keep_seed, visit("a"), **{"prompt": "a dog"} | VALUES | asked)
    assert len(pipeline.calls) == 1 and cards_of(last)[0]["sound"]


def test_a_broken_manifest_is_told_and_does_not_stop_the_page(tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / MANIFEST_NAME).write_text('{"sounds": 3}')
    with pytest.raises(DataError, match="manifest"):
        ExampleSounds.read(tmp_path / "sounds")
    build_ui(FakePipeline, tmp_path)


def test_the_examples_command_makes_what_the_page_finds(
    tiny_model: Path, tiny_pipeline: ClipSonicPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in" / "pictures").mkdir(parents=True)
    (tmp_path / "in" / "prompts.txt").write_text("a dog\n")
    shutil.copy(EXAMPLES / "pictures" / "dog.jpg", tmp_path / "in" / "pictures")
    out = tmp_path / "out"
    command = ["examples", "--model", str(tiny_model), "--examples", str(tmp_path / "in"), "--out", str(out)]
    assert cli.main([*command, "--device", "cpu", "--format", "mp3"]) == 0
    assert cli.main([*command, "--device", "cpu"]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "a-dog_pd_s0.ogg", "a-dog_zs_s0.ogg", "dog_iq_s0.ogg", MANIFEST_NAME,
    ]  # fmt: skip
    sounds, sha256 = ExampleSounds.read(out), tiny_pipeline.folder.sha256
    found = sounds.find("a dog", GenerationSettings(methods=("zs", "pd")), None, sha256)
    assert [sound.method for sound in found] == ["zs", "pd"]
    assert [s.method for s in sounds.find("dog.jpg", GenerationSettings(methods=("iq",)), 0, sha256)] == ["iq"]
    assert read_tags(out / found[0].file) == found[0].tags
    assert cli.main([*command[:3], "--examples", str(out), "--out", str(out)]) == 2


def test_sounds_are_converted_only_if_the_page_serves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))
    (tmp_path / "served").mkdir()
    output = FakePipeline()(prompt="a dog", settings=GenerationSettings(), callback=lambda _: None)
    served, elsewhere = write_sounds(output, tmp_path / "served")[0], write_sounds(output, tmp_path / "elsewhere")[0]
    for suffix in ("flac", "ogg", "mp3", "wav"):
        made = converted({"path": str(served), "format": suffix})
        assert made.name == f"a-dog_zs_s0.{suffix}" and read_tags(made) == read_tags(served)
    for path in (
        str(elsewhere),
        f"{tmp_path}/served/../elsewhere/{elsewhere.name}",
        "/etc/passwd",
        "",
        None,
        3,
        "a\0b",
    ):
        with pytest.raises(MediaError, match="make it again"):
            converted({"path": path, "format": "mp3"})
    for asked in ({"path": str(served), "format": "exe"}, {"path": str(served)}, [], None):
        with pytest.raises(OutputError, match="wav, flac, ogg, mp3"):
            converted(asked)


def test_sessions_that_nobody_comes_back_to_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsonic.ui.page.SESSIONS", 3)
    page = build_ui(FakePipeline)
    address = {"server_name": "127.0.0.1", "prevent_thread_lock": True, "quiet": True}
    app, url, _ = page.launch(**address, **launch_options())
    try:
        for _ in range(6):
            client = Client(url, verbose=False)
            assert client.predict("a dog", api_name="/text_to_audio")
        assert 1 <= len(app.state_holder.session_data) <= 4
    finally:
        page.close()


def test_stop_ends_this_visitors_run_alone_within_a_step() -> None:
    pipeline = FakePipeline(seconds_a_step=0.05)
    tab = make_tab(pipeline)
    seen: dict[str, list[str]] = {}

    def go(name: str) -> None:
        many = VALUES | {"num_inference_steps": 400}
        seen[name] = [str(list(update.values())[0]) for update in tab.generate(True, visit(name), prompt=name, **many)]

    threads = [threading.Thread(target=go, args=(name,)) for name in ("stopped", "other")]
    for thread in threads:
        thread.start()
    while min(pipeline.steps_of[name] for name in ("stopped", "other")) < 3:
        assert all(thread.is_alive() for thread in threads)
        time.sleep(0.01)
    tab.stop(visit("stopped"))
    before = pipeline.steps_of["stopped"]
    threads[0].join(timeout=15)
    assert not threads[0].is_alive() and threads[1].is_alive()
    assert pipeline.steps_of["stopped"] - before <= 1, "the step it was in, and none after"
    pipeline.seconds_a_step = 0.0
    threads[1].join()
    assert "Stopped" in seen["stopped"][-1] and "Done in" in seen["other"][-1]
    assert pipeline.stopped == 1


def test_an_abandoned_run_stops() -> None:
    pipeline = FakePipeline(seconds_a_step=0.02)
    updates = make_tab(pipeline).generate(True, visit("a"), prompt="a dog", **VALUES | {"num_inference_steps": 500})
    for _ in range(3):
        next(updates)
    updates.close()
    assert pipeline.stopped == 1 and pipeline.steps < 50


def test_runs_forget_who_is_done() -> None:
    runs = Runs()
    with runs.begin("a") as first, runs.begin("a") as second, runs.begin("b") as other:
        assert runs.stop("a") == 2 and runs.stop("nobody") == 0
        assert first.is_set() and second.is_set() and not other.is_set()
    assert other.is_set() and runs.stop("a") == runs.stop("b") == 0


def test_watch_passes_errors_on_and_skips_stale_reports() -> None:
    def fail(callback: object) -> None:
        raise PromptError("no")

    with pytest.raises(PromptError, match="no"):
        list(watch(fail, threading.Event()))
    pipeline = FakePipeline()
    events = watch(
        lambda callback: pipeline(prompt="x", settings=GenerationSettings(), callback=callback), threading.Event()
    )
    first = next(events)
    while pipeline.steps < 26:
        time.sleep(0.05)
    rest = list(events)
    assert isinstance(first, Report) and len(rest) < 15 and len(rest[-1].audios) == 2


def test_watch_stops_before_the_first_step() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        list(watch(lambda callback: FakePipeline()(prompt="x", settings=GenerationSettings(), callback=callback), stop))


def test_files_carry_names_tags_and_the_whole_sound(tmp_path: Path) -> None:
    output = FakePipeline()(prompt="¡Ein Hund, bellt!", settings=GenerationSettings(seed=3), callback=lambda _: None)
    paths = write_sounds(output, tmp_path)
    assert [path.name for path in paths] == ["ein-hund-bellt_zs_s3.wav", "ein-hund-bellt_pd_s3.wav"]
    wave, rate = read_audio(paths[0])
    assert len(wave) == SAMPLES and rate == MEL.sample_rate
    tags = read_tags(paths[1])
    assert tags["prompt"] == "¡Ein Hund, bellt!" and tags["method"] == "pd" and tags["seed"] == "3"


@pytest.mark.parametrize("prompt", ["../../etc/passwd", "a/b\\c:d", "...", "日本語", "x" * 400, "con\x00trol\n"])
def test_file_names_are_tame(prompt: str) -> None:
    audio = SimpleNamespace(prompt=prompt, image=None, video=None, audio=None, method="zs", seed=1)
    name = file_name(audio)
    assert Path(name).name == name and len(name) < 100 and name.endswith("_zs_s1.wav") and name[0] != "_"


def test_spectrogram_puts_a_tone_where_it_belongs() -> None:
    seconds = torch.arange(SAMPLES) / MEL.sample_rate
    mel = log_mel(torch.sin(2 * torch.pi * 1000 * seconds), MEL).numpy()
    start = time.thread_time()
    picture = draw_spectrogram(mel)
    assert time.thread_time() - start < 0.5
    assert picture.size == (352, 80)
    brightness = np.asarray(picture.convert("RGB")).astype(int).sum(axis=2)[:, 200]
    height = 1 - (brightness.argmax() + 0.5) / 80
    (tick,) = (t["at"] for t in axes(MEL, 352)["khz"] if t["label"] == "1")
    assert abs(height - tick) < 1.5 / 80
    assert brightness[5] < 30, "dark where nothing sounds"


@pytest.mark.parametrize(
    ("frames", "labels"), [(352, ["0", "1", "2", "3", "4"]), (43, ["0", "0.1", "0.2", "0.3", "0.4"])]
)
def test_seconds_stand_where_they_are(frames: int, labels: list[str]) -> None:
    ticks = axes(MEL, frames)["seconds"]
    assert [tick["label"] for tick in ticks] == labels
    assert all(abs(t["at"] - float(t["label"]) / MEL.duration_s(frames)) < 1e-3 for t in ticks)


def test_long_sounds_are_drawn_no_wider_than_a_screen() -> None:
    mel = np.full((80, 5168), -9.0, np.float32)
    mel[:, 5000] = 0
    picture = np.asarray(draw_spectrogram(mel))
    assert picture.shape == (80, 720) and picture[0].argmax() == picture[40].argmax() == int(5000 / 5168 * 720)
    assert axes(MEL, 5168)["seconds"][-1]["label"] == "60"


def test_words_on_the_page_are_escaped_and_plain() -> None:
    assert message("<b>") == "<p>&lt;b&gt;</p>"
    assert "<progress></progress>" in bar(Report("loading clip", 0, 1)) and "CLIP" in bar(Report("loading clip", 0, 1))
    assert 'value="3" max="25"' in bar(Report("denoising", 3, 25))
    assert stage_name("loading flux") == "Loading the flux (only before the first sound)"
    assert stage_name("new") == "New"


def test_zerogpu_is_asked_for_what_the_request_needs() -> None:
    short = duration_s("a", {}, GenerationSettings(num_inference_steps=10))
    long = duration_s("a", {}, GenerationSettings(num_inference_steps=50, num_audios=4))
    longer = duration_s("a", {}, GenerationSettings(num_inference_steps=50, duration_s=20.0))
    longest = duration_s("a", {}, GenerationSettings(num_inference_steps=1000, num_audios=4, candidates=8))
    assert 20 <= short < long < longer < longest == 120


def test_a_zerogpu_space_places_every_part_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    placed = []
    pipeline = SimpleNamespace(preload=lambda: placed.append("all"))
    assert not place_at_start(lambda: pipeline) and not placed
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    assert place_at_start(lambda: pipeline) and placed == ["all"]


def test_on_zerogpu_a_run_goes_through_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def gpu(duration: object) -> object:
        def wrap(produce: object) -> object:
            def run(*args: object) -> object:
                asked.append(duration(*args))
                return produce(*args)

            return run

        return wrap

    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=gpu))
    *_, last = make_tab(FakePipeline()).generate(True, visit("a"), prompt="a dog", **VALUES)
    assert cards_of(last)[0]["sound"] and asked == [duration_s("", {}, GenerationSettings(methods=("zs", "pd")))]


def test_a_model_with_a_memory_shows_a_third_sound_of_each_take() -> None:
    abilities = Abilities.of(["clip", "prior", "memory"])
    assert abilities.methods == ("iq", "mq", "zs", "pd", "mp")
    assert [(p.method, p.side) for p in places({"image"}, ("iq", "mq"), 1)] == [("iq", "A"), ("mq", "B")]
    pipeline = FakePipeline(methods=abilities.methods)
    tab = make_tab(pipeline, Ask(("image",), ("iq", "mq")))
    *_, last = tab.generate(True, visit("a"), image=str(next((EXAMPLES / "pictures").glob("*.jpg"))), **VALUES)
    assert [card["method"] for card in cards_of(last)] == ["iq", "mq"]
    asked = places({"prompt"}, ("zs", "pd", "mp"), 2)
    assert [(place.method, place.take, place.side) for place in asked] == [
        (method, take, side) for take in (1, 2) for method, side in (("zs", "A"), ("pd", "B"), ("mp", "C"))
    ]
    page = build_ui(FakePipeline, EXAMPLES, abilities)
    choices = [
        v for b in page.blocks.values() if isinstance(b, gr.Dropdown) and b.elem_id == "compare-a" for _, v in b.choices
    ]
    assert choices == ["iq", "mq", "zs", "pd", "mp"]
