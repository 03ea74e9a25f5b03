"""The other ways in: sounds, morphing, candidates, lengths, and bare embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FRAMES
from PIL import Image
from test_pipeline import FAST, PICTURE, SAMPLES, same

from clipsonic.audio import log_mel, normalize_loudness, write_audio
from clipsonic.config import SAMPLERS, GenerationSettings, MelConfig
from clipsonic.errors import MediaError, OutOfMemoryError, PromptError, SettingsError
from clipsonic.output import ClipSonicAudio, Progress
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.queries import derive_seed

RATE = 22_050
NOISE = (np.random.default_rng(0).normal(size=RATE) * 0.1).astype(np.float32)


def test_a_sound_gives_aq(hearing_pipeline: ClipSonicPipeline, tmp_path: Path) -> None:
    path = tmp_path / "bark.wav"
    write_audio(path, NOISE, RATE)
    output = hearing_pipeline(audio=[path, path.read_bytes(), (NOISE, RATE)], settings=FAST)
    assert [(a.method, a.audio, a.prompt) for a in output.audios] == [
        ("aq", "bark.wav", None),
        ("aq", "sound 2", None),
        ("aq", "sound 3", None),
    ]
    assert same(output.audios[0], output.audios[1])
    assert output.tags(output.audios[0])["audio"] == "bark.wav"
    other = hearing_pipeline(audio=(np.sin(np.arange(RATE) / 5).astype(np.float32), RATE), settings=FAST).audios[0]
    assert not np.array_equal(other.waveform, output.audios[2].waveform)


KNOCKS = NOISE * (np.arange(RATE) % 5000 < 1500)
"""A sound with a course of its own."""


def course_kept(mel: np.ndarray) -> float:
    """How far a mel is from that of `KNOCKS`, as both begin."""
    whole = log_mel(torch.from_numpy(normalize_loudness(KNOCKS, RATE)[:SAMPLES]), MelConfig()).clamp(min=-9).numpy()
    return float(np.abs(mel - whole).mean())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_less_strength_keeps_more_of_a_sound(sampler: str, hearing_pipeline: ClipSonicPipeline) -> None:
    def make(**changes: float) -> ClipSonicAudio:
        return hearing_pipeline(audio=(KNOCKS, RATE), settings=FAST, sampler=sampler, **changes).audios[0]

    whole, most, little = make(strength=1.0), make(strength=0.6), make(strength=0.05)
    assert same(whole, make()), "1 is as if there were no such setting"
    assert course_kept(little.mel) < course_kept(most.mel) < course_kept(whole.mel)
    assert course_kept(little.mel) < course_kept(whole.mel) / 3
    assert np.array_equal(little.embedding, whole.embedding)


def test_prompts_and_pictures_take_no_notice_of_strength(hearing_pipeline: ClipSonicPipeline) -> None:
    plain = hearing_pipeline("dog", PICTURE, settings=FAST).audios
    asked = hearing_pipeline("dog", PICTURE, settings=FAST, strength=0.3).audios
    assert len(plain) == 3 and all(same(*pair) for pair in zip(plain, asked, strict=True))


def test_variations_of_a_sound_do_not_depend_on_company(hearing_pipeline: ClipSonicPipeline) -> None:
    settings = GenerationSettings.from_dict(FAST.to_dict() | {"strength": 0.4, "num_inference_steps": 3})
    seen: list[Progress] = []
    sounds = [(KNOCKS, RATE), (NOISE, RATE)]
    crowd = hearing_pipeline(
        "dog", audio=sounds, settings=settings, num_audios=2, candidates=2, toward="cat", callback=seen.append
    )
    assert [(audio.method, audio.seed) for audio in crowd.audios] == [
        *(("zs", 0), ("pd", 0), ("zs", 1), ("pd", 1)),
        *(("aq", 0), ("aq", 1)) * 2,
    ]
    for row, (sound, seed) in ((5, (sounds[0], 1)), (6, (sounds[1], 0))):
        alone = hearing_pipeline(audio=sound, settings=settings, candidates=2, toward="cat", seed=seed).audios[0]
        assert same(alone, crowd.audios[row])
    alone = hearing_pipeline("dog", settings=settings, candidates=2, toward="cat", methods="pd", seed=1).audios[0]
    assert same(alone, crowd.audios[3])
    steps = [(progress.step, progress.total) for progress in seen if progress.stage == "denoising"]
    assert steps == [(step, 6) for step in range(7)]
    assert {p.preview().shape for p in seen if p.preview} == {(8, 80, FRAMES)}


def test_a_sound_to_set_out_from_may_be_loud_slow_long_or_nothing(hearing_pipeline: ClipSonicPipeline) -> None:
    def make(waveform: np.ndarray, rate: int = RATE, **changes: float) -> ClipSonicAudio:
        waveform = waveform.astype(np.float32)
        return hearing_pipeline(audio=(waveform, rate), settings=FAST, **{"strength": 0.05} | changes).audios[0]

    plain = make(KNOCKS)
    np.testing.assert_allclose(make(KNOCKS * 0.1).mel, plain.mel, atol=0.2)
    assert course_kept(make(np.repeat(KNOCKS, 2), 2 * RATE).mel) < 2 * course_kept(plain.mel)
    assert course_kept(make(np.tile(KNOCKS, 30)).mel) == pytest.approx(course_kept(plain.mel), rel=0.2)
    long = make(np.tile(KNOCKS, 30), duration_s=2.0)
    assert long.waveform.shape == (2 * RATE,) and np.isfinite(long.mel).all()
    for nothing in (np.zeros(RATE), np.ones(5), NOISE * 1e9, NOISE * 1e-30):
        assert np.isfinite(make(nothing).mel).all()


@pytest.mark.parametrize("strength", [0, 0.04, 1.01, -1, float("nan"), "half", None, True])
def test_impossible_strengths_are_told(strength: object, hearing_pipeline: ClipSonicPipeline) -> None:
    with pytest.raises(SettingsError, match=r"strength is .*; allowed: a number from 0.05 to 1$") as caught:
        hearing_pipeline(audio=(NOISE, RATE), settings=FAST, strength=strength)
    assert "\n" not in str(caught.value)


def test_a_model_without_ears_says_so(tiny_pipeline: ClipSonicPipeline) -> None:
    assert "aq" not in tiny_pipeline.methods
    with pytest.raises(SettingsError, match="cannot do 'aq', it has no audio_clip; allowed: iq, zs, pd"):
        tiny_pipeline(audio=(NOISE, RATE), settings=FAST)
    with pytest.raises(SettingsError, match=r"candidates is 2, but .* no audio_clip to rank them by; allowed: 1"):
        tiny_pipeline("dog", settings=FAST, candidates=2)
    assert all(audio.score is None for audio in tiny_pipeline("dog", settings=FAST).audios)


@pytest.mark.parametrize(
    "sound",
    [
        b"no sound",
        b"",
        "/nowhere/bark.wav",
        (np.zeros(0, np.float32), RATE),
        (np.zeros((5, 2), np.float32), RATE),
        (np.zeros(5, np.int16), RATE),
        (NOISE, 0),
        (NOISE * np.nan, RATE),
        (NOISE * 1e18, RATE),
    ],
    ids=["text", "nothing", "missing", "empty", "stereo", "integers", "no rate", "nan", "huge"],
)
def test_impossible_sounds_are_told(sound: object, hearing_pipeline: ClipSonicPipeline) -> None:
    with pytest.raises(MediaError, match="sound"):
        hearing_pipeline(audio=sound, settings=FAST)


def test_scores_are_cosines_and_the_best_candidate_stays(hearing_pipeline: ClipSonicPipeline) -> None:
    settings = GenerationSettings.from_dict(FAST.to_dict() | {"methods": ["zs"], "seed": 7})
    kept = hearing_pipeline("dog", settings=settings, candidates=4).audios
    assert len(kept) == 1
    seeds = [7, *(derive_seed(7, f"candidate {number}") for number in (1, 2, 3))]
    alone = [hearing_pipeline("dog", settings=settings, seed=seed).audios[0] for seed in seeds]
    scores = [audio.score or 0.0 for audio in alone]
    assert len(set(scores)) == 4
    assert all(-1 <= score <= 1 for score in scores)
    assert kept[0].score == max(scores)
    assert same(kept[0], alone[int(np.argmax(scores))])
    assert kept[0].seed == 7


def test_candidates_do_not_depend_on_company(hearing_pipeline: ClipSonicPipeline) -> None:
    crowd = hearing_pipeline(["cat", "dog"], settings=FAST, candidates=2, num_audios=2)
    assert len(crowd.audios) == 8
    alone = hearing_pipeline("dog", settings=FAST, candidates=2, methods="pd", seed=1)
    assert same(alone.audios[0], crowd.audios[7])


def test_previews_show_one_candidate_each(hearing_pipeline: ClipSonicPipeline) -> None:
    shapes = []
    hearing_pipeline(
        "dog", settings=FAST, candidates=3, callback=lambda p: shapes.append(p.preview().shape) if p.preview else None
    )
    assert set(shapes) == {(2, 80, FRAMES)}


@pytest.mark.parametrize("toward", ["cat", PICTURE], ids=["text", "picture"])
def test_morph_goes_from_one_to_the_other(toward: str | Image.Image, tiny_pipeline: ClipSonicPipeline) -> None:
    query = {"prompt": toward} if isinstance(toward, str) else {"image": toward}
    start = tiny_pipeline("dog", settings=FAST).audios
    ends = tiny_pipeline(**query, settings=FAST).audios
    morphs = {m: tiny_pipeline("dog", toward=toward, settings=FAST, morph=m).audios for m in (0.0, 0.5, 1.0)}
    for row, audio in enumerate(start):
        end = ends[row % len(ends)]
        assert same(morphs[0.0][row], audio)
        assert same(morphs[1.0][row], end)
        middle = morphs[0.5][row].embedding
        assert np.linalg.norm(middle) == pytest.approx(1, abs=1e-5)
        assert middle @ audio.embedding == pytest.approx(middle @ end.embedding, abs=1e-4)
        assert morphs[0.5][row].toward == (toward if isinstance(toward, str) else "picture 1")


def test_impossible_ends_are_told(tiny_pipeline: ClipSonicPipeline) -> None:
    with pytest.raises(PromptError, match="the prompt is empty"):
        tiny_pipeline("dog", toward=" ", settings=FAST)
    with pytest.raises(MediaError, match="cannot read the picture dog.png"):
        tiny_pipeline("dog", toward=Path("/nowhere/dog.png"), settings=FAST)
    with pytest.raises(SettingsError, match="morph is 1.5; allowed: a number from 0 to 1"):
        tiny_pipeline("dog", toward="cat", settings=FAST, morph=1.5)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 3.3])
def test_sounds_are_as_long_as_asked(seconds: float, tiny_pipeline: ClipSonicPipeline) -> None:
    output = tiny_pipeline("dog", settings=FAST, duration_s=seconds, methods="zs")
    assert output.waveforms.shape == (1, round(seconds * RATE))
    assert output.mels.shape == (1, 80, -(-round(seconds * RATE) // 256))
    assert np.isfinite(output.waveforms).all()
    own = tiny_pipeline("dog", settings=FAST, methods="zs").audios[0]
    if seconds < SAMPLES / RATE:  # cut out of the sound of the model's own length, and faded
        kept = output.waveforms.shape[1] - RATE // 40
        assert np.abs(output.waveforms[0, :kept] - own.waveform[:kept]).mean() < 1e-2
        assert output.waveforms[0, -1] == 0


@pytest.mark.parametrize("seconds", [-1.0, 0.1, 61.0, float("nan"), "long"])
def test_impossible_lengths_are_told(seconds: object, tiny_pipeline: ClipSonicPipeline) -> None:
    with pytest.raises(
        SettingsError, match=r"duration_s is .*; allowed: 0 \(the model's own length\) or a number from"
    ):
        tiny_pipeline("dog", settings=FAST, duration_s=seconds)


def test_a_long_sound_does_not_depend_on_company(tiny_pipeline: ClipSonicPipeline) -> None:
    crowd = tiny_pipeline(["cat", "dog"], PICTURE, settings=FAST, duration_s=2.0)
    alone = tiny_pipeline("dog", settings=FAST, duration_s=2.0, methods="pd")
    assert same(alone.audios[0], crowd.audios[3])


def test_render_is_the_lower_half(hearing_pipeline: ClipSonicPipeline) -> None:
    whole = hearing_pipeline("dog", settings=FAST, num_audios=2)
    rows = torch.from_numpy(whole.embeddings)
    seeds = [audio.seed for audio in whole.audios]
    renderings = hearing_pipeline.render(rows, seeds, FAST, references=rows)
    for rendering, audio in zip(renderings, whole.audios, strict=True):
        assert np.array_equal(rendering.waveform, audio.waveform)
        assert np.array_equal(rendering.mel, audio.mel)
    assert renderings[0].score == pytest.approx(whole.audios[0].score, abs=1e-6)  # zs: the text's own embedding
    null = hearing_pipeline.null_embedding
    free = hearing_pipeline.render(null[None], [0], FAST, guidance_scale=7.0)[0]
    assert free.score is None
    again = hearing_pipeline.render(null[None], [0], FAST, guidance_scale=2.0)[0]
    np.testing.assert_allclose(free.mel, again.mel, atol=1e-3)  # nothing to be guided to
    lengths = hearing_pipeline.render(rows[:2], [0, 0], FAST, durations_s=[0.0, 1.0])
    assert [len(rendering.waveform) for rendering in lengths] == [SAMPLES, RATE]
    with pytest.raises(SettingsError, match="4 embeddings, 1 seeds and 1 durations"):
        hearing_pipeline.render(rows, [0])


def test_short_memory_means_smaller_batches_then_a_clear_message(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = ClipSonicPipeline.from_pretrained(tiny_model, device="cpu")
    denoiser = pipeline.folder.part("denoiser")
    forward, sizes, room = denoiser.forward, [], 3

    def tight(noisy: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        sizes.append(len(noisy))
        if len(noisy) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return forward(noisy, *others)

    monkeypatch.setattr(denoiser, "forward", tight)
    output = pipeline("dog", settings=FAST)
    assert sizes[:3] == [4, 2, 2]
    assert max(sizes[1:]) == 2
    plain = ClipSonicPipeline.from_pretrained(tiny_model, device="cpu")("dog", settings=FAST)
    np.testing.assert_allclose(output.mels, plain.mels, atol=1e-3)
    room = 1
    with pytest.raises(OutOfMemoryError, match=r"too little memory \(CUDA out of memory\); ask for a shorter"):
        pipeline("dog", settings=FAST)


def test_preload_loads_every_part(tiny_model: Path) -> None:
    pipeline = ClipSonicPipeline.from_pretrained(tiny_model, device="cpu")
    pipeline.preload()
    assert all(pipeline.folder.is_loaded(name) for name in pipeline.folder.index.parts)
