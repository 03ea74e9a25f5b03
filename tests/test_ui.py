"""The page around a pipeline that only pretends: what a click asks for, what a visitor gets to see."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from fake_pipeline import MEL, SAMPLES, FakePipeline

from clipsonic.audio import log_mel, read_audio, read_tags
from clipsonic.config import GenerationSettings
from clipsonic.errors import Cancelled, PromptError, SettingsError
from clipsonic.ui import build_ui
from clipsonic.ui.controls import read_settings
from clipsonic.ui.handlers import Studio, Tab
from clipsonic.ui.page import QUEUE, list_pictures, read_prompts
from clipsonic.ui.results import Results, bar, file_name, message, write_sounds
from clipsonic.ui.runs import Report, Runs, watch
from clipsonic.ui.spectrogram import draw_spectrogram
from clipsonic.ui.words import stage_name
from clipsonic.ui.zerogpu import duration_s

EXAMPLES = Path(__file__).parents[1] / "examples"
VALUES = {name: value for name, value in GenerationSettings().to_dict().items() if name not in ("methods",)}


def visit(name: str) -> SimpleNamespace:
    return SimpleNamespace(session_hash=name)


def make_tab(pipeline: FakePipeline, methods: tuple[str, ...] = ("zs", "pd")) -> Tab:
    with gr.Blocks():
        return Tab(Studio(lambda: pipeline), "prompt", gr.Number(), Results(methods))


def test_nothing_is_loaded_before_the_first_sound() -> None:
    def load() -> FakePipeline:
        raise AssertionError("loaded too early")

    assert build_ui(load, EXAMPLES)._queue.max_size == QUEUE


def test_only_the_two_endpoints_are_public_and_their_defaults_are_the_settings() -> None:
    endpoints = build_ui(FakePipeline, EXAMPLES).get_api_info()["named_endpoints"]
    assert sorted(endpoints) == ["/image_to_audio", "/text_to_audio"]
    text = {p["parameter_name"]: p for p in endpoints["/text_to_audio"]["parameters"]}
    assert list(text)[0] == "prompt" and not text["prompt"]["parameter_has_default"]
    assert {n: p["parameter_default"] for n, p in text.items() if n != "prompt"} == VALUES
    image = {p["parameter_name"]: p for p in endpoints["/image_to_audio"]["parameters"]}
    assert list(image)[0] == "image"
    about_text = {"prior_num_inference_steps", "prior_guidance_scale", "template"}
    assert set(image) == set(text) - {"prompt"} - about_text | {"image"}
    assert "zero-shot" in endpoints["/text_to_audio"]["description"]
    assert endpoints["/image_to_audio"]["description"].startswith("Turn a picture into sounds")


def test_all_generation_shares_one_queue() -> None:
    page = build_ui(FakePipeline, EXAMPLES)
    generating = [fn for fn in page.fns.values() if fn.concurrency_id == "generation"]
    assert len(generating) == 7  # click, Enter and example; click and example; two endpoints
    assert {fn.concurrency_limit for fn in generating} == {1}


def test_every_control_has_words_for_it() -> None:
    page = build_ui(FakePipeline)
    controls = [b for b in page.blocks.values() if isinstance(b, gr.Slider | gr.Number | gr.Dropdown | gr.Checkbox)]
    assert len(controls) == 8 + 6, "sliders, number, menu and lock of the text tab and of the image tab"
    assert all(control.info for control in controls)


def test_examples_are_there_and_licensed() -> None:
    assert len(read_prompts(EXAMPLES)) >= 10
    pictures = list_pictures(EXAMPLES)
    assert len(pictures) >= 12
    licences = (EXAMPLES / "LICENSES.csv").read_text(encoding="utf-8")
    for path in map(Path, pictures):
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
    ],
)
def test_bad_values_are_named(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        read_settings(("zs", "pd"), True, VALUES | {name: value})


def test_generate_shows_progress_then_sounds() -> None:
    tab = make_tab(FakePipeline(seconds_a_step=0.01))
    updates, files = [], []
    for update in tab.generate("a dog", True, visit("a"), **VALUES | {"num_audios": 2, "seed": 5}):
        updates.append({getattr(block, "elem_id", None) or type(block).__name__: v for block, v in update.items()})
        files += [v["value"] for v in update.values() if isinstance(v, dict) and str(v.get("value")).endswith(".wav")]
    assert updates[0]["Number"] == 5
    assert any("step" in update["HTML"] and "<progress value=" in update["HTML"] for update in updates)
    assert "Done in" in updates[-1]["HTML"]
    assert [Path(f).name for f in files] == [f"a-dog_{m}_s{s}.wav" for s in (5, 6) for m in ("zs", "pd")]
    assert not any(Path(f).exists() for f in files), "files must go once the page has its copies"
    assert {v.size for v in updates[-1].values() if hasattr(v, "size")} == {(720, 340)}


def test_generate_tells_what_is_wrong_and_escapes_it() -> None:
    tab = make_tab(FakePipeline())
    with pytest.raises(gr.Error, match="the prompt is empty") as caught:
        list(tab.generate("", True, visit("a"), **VALUES))
    assert not caught.value.print_exception
    with pytest.raises(gr.Error) as caught:
        list(tab.generate("x", True, visit("a"), **VALUES | {"template": "<img src=x onerror=alert(1)>"}))
    assert "<img" not in caught.value.message and "&lt;img" in caught.value.message


def test_each_setting_reaches_the_pipeline() -> None:
    pipeline = FakePipeline()
    wanted = {
        "num_audios": 2, "seed": 9, "num_inference_steps": 3, "guidance_scale": 1.5, "negative_prompt": "music",
        "sampler": "ddim", "prior_num_inference_steps": 4, "prior_guidance_scale": 0.5, "template": "the sound of {}",
    }  # fmt: skip
    assert set(wanted) == set(VALUES)
    list(make_tab(pipeline).generate("a dog", True, visit("a"), **wanted))
    assert pipeline.calls == [GenerationSettings(methods=("zs", "pd"), **wanted)]


def test_stop_ends_this_visitors_run_alone_within_a_step() -> None:
    pipeline = FakePipeline(seconds_a_step=0.05)
    tab = make_tab(pipeline)
    seen: dict[str, list[str]] = {}

    def go(name: str) -> None:
        many = VALUES | {"num_inference_steps": 20}
        seen[name] = [str(list(update.values())[0]) for update in tab.generate("a dog", True, visit(name), **many)]

    threads = [threading.Thread(target=go, args=(name,)) for name in ("stopped", "other")]
    for thread in threads:
        thread.start()
    time.sleep(0.4)
    before = pipeline.steps
    tab.stop(visit("stopped"))
    threads[0].join(timeout=0.5)
    assert not threads[0].is_alive() and threads[1].is_alive()
    assert pipeline.steps - before <= 6, "two runs of a step each, and what passed meanwhile"
    threads[1].join()
    assert "Stopped" in seen["stopped"][-1] and "Done in" in seen["other"][-1]
    assert pipeline.stopped == 1


def test_an_abandoned_run_stops() -> None:
    pipeline = FakePipeline(seconds_a_step=0.02)
    updates = make_tab(pipeline).generate("a dog", True, visit("a"), **VALUES | {"num_inference_steps": 500})
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
    events = watch(lambda callback: pipeline("x", settings=GenerationSettings(), callback=callback), threading.Event())
    first = next(events)
    while pipeline.steps < 26:
        time.sleep(0.05)
    rest = list(events)
    assert isinstance(first, Report) and len(rest) < 15 and len(rest[-1].audios) == 2


def test_watch_stops_before_the_first_step() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        list(watch(lambda callback: FakePipeline()("x", settings=GenerationSettings(), callback=callback), stop))


def test_files_carry_names_tags_and_the_whole_sound(tmp_path: Path) -> None:
    output = FakePipeline()("¡Ein Hund, bellt!", settings=GenerationSettings(seed=3), callback=lambda _: None)
    paths = write_sounds(output, tmp_path)
    assert [path.name for path in paths] == ["ein-hund-bellt_zs_s3.wav", "ein-hund-bellt_pd_s3.wav"]
    wave, rate = read_audio(paths[0])
    assert len(wave) == SAMPLES and rate == MEL.sample_rate
    tags = read_tags(paths[1])
    assert tags["prompt"] == "¡Ein Hund, bellt!" and tags["method"] == "pd" and tags["seed"] == "3"


@pytest.mark.parametrize("prompt", ["../../etc/passwd", "a/b\\c:d", "...", "日本語", "x" * 400, "con\x00trol\n"])
def test_file_names_are_tame(prompt: str) -> None:
    audio = SimpleNamespace(prompt=prompt, image=None, method="zs", seed=1)
    name = file_name(audio)
    assert Path(name).name == name and len(name) < 100 and name.endswith("_zs_s1.wav") and name[0] != "_"


def test_spectrogram_puts_a_tone_where_it_belongs() -> None:
    seconds = torch.arange(SAMPLES) / MEL.sample_rate
    mel = log_mel(torch.sin(2 * torch.pi * 1000 * seconds), MEL).numpy()
    start = time.thread_time()
    picture = np.asarray(draw_spectrogram(mel, MEL).convert("RGBA"))
    assert time.thread_time() - start < 1.0
    assert picture.shape == (340, 720, 4) and picture[0, 0, 3] == 0
    column = picture[:, 400, :3].astype(int).sum(axis=1) * (picture[:, 400, 3] > 0)
    # Slaney's mel scale is linear below 1 kHz, which lies at 15 of the 45.2 mel that 8 kHz are at.
    top, bottom = 340 * 0.02, 340 * 0.79
    assert abs(column.argmax() - (bottom - (bottom - top) * 15 / 45.245)) < 5


def test_words_on_the_page_are_escaped_and_plain() -> None:
    assert message("<b>") == "<p>&lt;b&gt;</p>"
    assert "<progress></progress>" in bar(Report("loading clip", 0, 1)) and "CLIP" in bar(Report("loading clip", 0, 1))
    assert 'value="3" max="25"' in bar(Report("denoising", 3, 25))
    assert stage_name("loading flux") == "Loading the flux (only before the first sound)"
    assert stage_name("new") == "New"


def test_zerogpu_is_asked_for_what_the_request_needs() -> None:
    short = duration_s("a", {}, GenerationSettings(num_inference_steps=10))
    long = duration_s("a", {}, GenerationSettings(num_inference_steps=100, num_audios=4))
    assert 20 <= short < long <= 120
