"""The pipeline's promises, on a tiny model of random weights."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EMBEDDING_DIM, FRAMES
from PIL import Image

from clipsonic.config import GenerationSettings
from clipsonic.errors import Cancelled, CheckpointError, MediaError, PromptError, SettingsError
from clipsonic.output import ClipSonicAudio, ClipSonicOutput, Progress
from clipsonic.pipeline import ClipSonicPipeline

SAMPLES = FRAMES * 256
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
FAST = GenerationSettings(num_inference_steps=2, prior_num_inference_steps=2)


def same(one: ClipSonicAudio, other: ClipSonicAudio) -> bool:
    """Whether two sounds agree in every bit."""
    return all(np.array_equal(getattr(one, f), getattr(other, f)) for f in ("waveform", "mel", "embedding"))


def test_text_gives_zs_and_pd(tiny_pipeline: ClipSonicPipeline) -> None:
    output = tiny_pipeline("a dog barking", settings=FAST)
    assert [audio.method for audio in output.audios] == ["zs", "pd"]
    assert output.waveforms.shape == (2, SAMPLES)
    assert output.mels.shape == (2, 80, FRAMES)
    assert output.embeddings.shape == (2, EMBEDDING_DIM)
    for array in (output.waveforms, output.mels, output.embeddings):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    assert np.abs(output.waveforms).max() <= 1
    np.testing.assert_allclose(np.linalg.norm(output.embeddings, axis=1), 1, rtol=1e-4)
    assert output.sample_rate == 22_050
    assert not np.array_equal(output.mels[0], output.mels[1])


def test_a_picture_gives_iq(tiny_pipeline: ClipSonicPipeline) -> None:
    output = tiny_pipeline(image=PICTURE, settings=FAST)
    assert [(a.method, a.prompt, a.image) for a in output.audios] == [("iq", None, "picture 1")]


def test_pictures_come_in_any_form(tiny_pipeline: ClipSonicPipeline, tmp_path: Path) -> None:
    path = tmp_path / "dog.png"
    PICTURE.save(path)
    output = tiny_pipeline(image=[path, path.read_bytes(), np.asarray(PICTURE), PICTURE], settings=FAST)
    assert [a.image for a in output.audios] == ["dog.png", "picture 2", "picture 3", "picture 4"]
    assert all(same(output.audios[0], audio) for audio in output.audios)


def test_order_is_query_then_variation_then_method(tiny_pipeline: ClipSonicPipeline) -> None:
    output = tiny_pipeline(["cat", "dog"], PICTURE, settings=FAST, num_audios=2, seed=5, methods=("pd", "zs", "iq"))
    found = [(a.prompt or a.image, a.seed, a.method) for a in output.audios]
    texts = [(p, s, m) for p in ("cat", "dog") for s in (5, 6) for m in ("pd", "zs")]
    assert found == [*texts, ("picture 1", 5, "iq"), ("picture 1", 6, "iq")]


def test_a_sound_does_not_depend_on_what_else_is_asked_for(tiny_pipeline: ClipSonicPipeline) -> None:
    crowd = tiny_pipeline(["cat", "a dog barking loudly"], [PICTURE], settings=FAST, num_audios=2)
    for audio in crowd.audios:
        query = {"prompt": audio.prompt} if audio.prompt else {"image": PICTURE}
        alone = tiny_pipeline(**query, settings=FAST, methods=(audio.method,), seed=audio.seed)
        assert same(alone.audios[0], audio)


def test_a_new_pipeline_gives_the_same_sound(tiny_pipeline: ClipSonicPipeline, tiny_model: Path) -> None:
    again = ClipSonicPipeline.from_pretrained(tiny_model, device="cpu")("dog", settings=FAST)
    assert all(same(*pair) for pair in zip(again.audios, tiny_pipeline("dog", settings=FAST).audios, strict=True))


def test_two_visitors_at_once_get_their_own(tiny_pipeline: ClipSonicPipeline) -> None:
    prompts, found = ["cat", "dog", "rain", "bell"], {}

    def visit(prompt: str) -> None:
        found[prompt] = tiny_pipeline(prompt, settings=FAST)

    threads = [threading.Thread(target=visit, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for prompt in prompts:
        assert same(found[prompt].audios[0], tiny_pipeline(prompt, settings=FAST).audios[0])


def test_zs_and_pd_share_the_start_noise(tiny_pipeline: ClipSonicPipeline) -> None:
    """With guidance 0 only the start noise and "no condition" are left."""
    zs, pd = tiny_pipeline("dog", settings=FAST, guidance_scale=0.0).audios
    assert np.array_equal(zs.mel, pd.mel)
    assert not np.array_equal(zs.embedding, pd.embedding)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"num_inference_steps": 3},
        {"guidance_scale": 1.0},
        {"sampler": "ddim"},
        {"negative_prompt": "a cat"},
        {"prior_num_inference_steps": 4},
        {"prior_guidance_scale": 1.0},
        {"template": "the sound of {}"},
    ],
    ids=str,
)
def test_every_setting_changes_what_comes_out(change: dict[str, object], tiny_pipeline: ClipSonicPipeline) -> None:
    settings = GenerationSettings(num_inference_steps=4, prior_num_inference_steps=2, methods=("pd",))
    plain, changed = tiny_pipeline("dog", settings=settings), tiny_pipeline("dog", settings=settings, **change)
    assert not np.array_equal(plain.waveforms, changed.waveforms)


def test_guidance_one_is_plain_sampling_and_ignores_the_negative_prompt(tiny_pipeline: ClipSonicPipeline) -> None:
    plain = tiny_pipeline("dog", settings=FAST, guidance_scale=1.0, methods="zs")
    other = tiny_pipeline("dog", settings=FAST, guidance_scale=1.0, methods="zs", negative_prompt="cat")
    assert same(plain.audios[0], other.audios[0])


def test_the_two_halves_of_a_call_give_what_the_call_gives(tiny_pipeline: ClipSonicPipeline) -> None:
    how: dict[str, object] = {"methods": ("zs", "pd", "iq"), "seed": 5, "num_audios": 2, "num_inference_steps": 2}
    output = tiny_pipeline(["a dog", "a cat"], PICTURE, **how)
    embeddings = tiny_pipeline.embed(["a dog", "a cat"], PICTURE, **how, candidates=3)
    assert (
        [tuple(row.shape) for row in embeddings]
        == [(1, EMBEDDING_DIM)] * len(output.audios)
        == [(1, EMBEDDING_DIM)] * 10
    )
    for audio, row in zip(output.audios, embeddings, strict=True):
        np.testing.assert_allclose(row[0], audio.embedding, atol=1e-6)
    again = tiny_pipeline.render(embeddings, [audio.seed for audio in output.audios], num_inference_steps=2)
    for audio, rendering in zip(output.audios, again, strict=True):
        np.testing.assert_allclose(rendering.waveform, audio.waveform, atol=1e-4)
    with pytest.raises(PromptError, match="neither a prompt nor a picture"):
        tiny_pipeline.embed()


def test_a_generator_draws_the_seed(tiny_pipeline: ClipSonicPipeline) -> None:
    generator = torch.Generator().manual_seed(1)
    one = tiny_pipeline("dog", settings=FAST, generator=generator)
    two = tiny_pipeline("dog", settings=FAST, generator=generator)
    again = tiny_pipeline("dog", settings=FAST, seed=one.audios[0].seed)
    assert one.audios[0].seed != two.audios[0].seed
    assert same(one.audios[0], again.audios[0])


def test_progress_names_what_happens(tiny_model: Path) -> None:
    pipeline, seen = ClipSonicPipeline.from_pretrained(tiny_model, device="cpu"), []
    pipeline("dog", settings=FAST, num_inference_steps=3, callback=seen.append)
    stages = list(dict.fromkeys(p.stage for p in seen))
    loading = [f"loading {part}" for part in ("clip", "prior", "denoiser", "scheduler", "vocoder")]
    assert stages == [loading[0], "embedding", loading[1], "prior", *loading[2:4], "denoising", loading[4], "vocoder"]
    denoising = [p for p in seen if p.stage == "denoising"]
    assert [(p.step, p.total) for p in denoising] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert denoising[-1].preview().shape == (2, 80, FRAMES)
    seen.clear()
    pipeline("dog", settings=FAST, callback=seen.append)
    assert not any(p.stage.startswith("loading") for p in seen)


@pytest.mark.parametrize("stage", ["loading clip", "embedding", "prior", "denoising", "vocoder"])
def test_any_stage_can_be_stopped_and_the_pipeline_lives_on(stage: str, tiny_model: Path) -> None:
    pipeline, seen = ClipSonicPipeline.from_pretrained(tiny_model, device="cpu"), []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if progress.stage == stage and progress.step == progress.total // 2:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        pipeline("dog", settings=FAST, num_inference_steps=8, callback=stop)
    assert seen[-1].stage == stage
    assert pipeline("dog", settings=FAST).waveforms.shape == (2, SAMPLES)


def test_timings_add_up(tiny_pipeline: ClipSonicPipeline) -> None:
    timings = tiny_pipeline("dog", settings=FAST).timings
    assert set(timings) == {"loading", "embedding", "prior", "denoising", "vocoder", "scoring", "total"}
    assert timings["total"] >= sum(seconds for stage, seconds in timings.items() if stage != "total")
    assert timings["denoising"] > 0


def test_tags_bring_the_sound_back(tiny_pipeline: ClipSonicPipeline) -> None:
    output = tiny_pipeline("dog", settings=FAST, num_audios=2, seed=3, sampler="ddpm")
    for audio in output.audios:
        tags = output.tags(audio)
        settings = GenerationSettings.from_dict(json.loads(tags["settings"]))
        assert (tags["prompt"], tags["method"], tags["seed"]) == ("dog", audio.method, str(audio.seed))
        assert tags["model_sha256"] == tiny_pipeline.folder.sha256
        assert same(tiny_pipeline(tags["prompt"], settings=settings).audios[0], audio)


def test_output_fits_its_type(tiny_pipeline: ClipSonicPipeline) -> None:
    output = tiny_pipeline("dog", settings=FAST)
    assert isinstance(output, ClipSonicOutput)
    assert output.model == "tiny"
    assert output.settings == FAST


@pytest.mark.parametrize("prompt", ["", "   ", "\n", "x" * 10_000, 5, [""], ["dog", ""], [None]])
def test_impossible_prompts_are_told(prompt: object, tiny_pipeline: ClipSonicPipeline) -> None:
    with pytest.raises(PromptError, match="the prompt"):
        tiny_pipeline(prompt, settings=FAST)


@pytest.mark.parametrize("queries", [{}, {"prompt": []}, {"image": []}])
def test_nothing_to_do_is_told(queries: dict[str, list[str]], tiny_pipeline: ClipSonicPipeline) -> None:
    with pytest.raises(PromptError, match="neither a prompt nor a picture, video or sound"):
        tiny_pipeline(**queries)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps is 0; allowed"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan; allowed"),
        ({"sampler": "magic"}, "sampler is 'magic'; allowed"),
        ({"methods": "magic"}, "method is 'magic'; allowed"),
        ({"steps": 3}, "no setting steps; allowed"),
        ({"methods": ("iq",)}, "none that renders a prompt"),
        ({"methods": ("sd",)}, "cannot do 'sd', it has no supervised_prior"),
    ],
)
def test_impossible_settings_are_told(
    changes: dict[str, object], message: str, tiny_pipeline: ClipSonicPipeline
) -> None:
    with pytest.raises(SettingsError, match=message):
        tiny_pipeline("dog", **changes)


def test_pictures_need_iq_and_must_be_pictures(tiny_pipeline: ClipSonicPipeline) -> None:
    with pytest.raises(SettingsError, match="none that renders a picture; add iq"):
        tiny_pipeline(image=PICTURE, methods=("zs",))
    with pytest.raises(MediaError, match="is not a picture"):
        tiny_pipeline(image=b"no picture")


def test_unknown_devices_are_told(tiny_model: Path) -> None:
    with pytest.raises(SettingsError, match="device is 'tpu'; allowed: auto, cpu, cuda, mps"):
        ClipSonicPipeline.from_pretrained(tiny_model, device="tpu")


def test_a_broken_part_is_told_and_others_still_work(tiny_copy: Path) -> None:
    (tiny_copy / "prior/model.safetensors").unlink()
    pipeline = ClipSonicPipeline.from_pretrained(tiny_copy, device="cpu")
    with pytest.raises(CheckpointError, match="prior"):
        pipeline("dog", settings=FAST)
    assert len(pipeline("dog", settings=FAST, methods=("zs",)).audios) == 1
