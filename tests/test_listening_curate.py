"""Curating: candidates, decisions that nothing loses, and sets of sounds that are equal in all but their system."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from clipsonic.audio import loudness, read_audio, write_audio
from clipsonic.cli import main
from clipsonic.config import GenerationSettings
from clipsonic.errors import DataError, OutputError, PromptError, SettingsError
from clipsonic.listening.build import build
from clipsonic.listening.curate import Candidate, Curation, choose
from clipsonic.listening.loudness import fit, level, low_pass, true_peak_dbtp
from clipsonic.listening.plan import Plan, Query, System, read_queries
from clipsonic.listening.sets import ListeningSet
from clipsonic.listening.verify import verify
from clipsonic.pipeline import ClipSonicPipeline
from tests.fake_pipeline import FakePipeline
from tests.listening_sets import add_picture

FAST = GenerationSettings(num_inference_steps=1, seed=5)
RATE = 22_050


def plan_of(**values: object) -> Plan:
    queries = (Query(prompt="a dog barking"), Query(prompt="church bells"))
    return Plan(**{"queries": queries, "methods": ("zs", "pd"), "candidates": 3, "settings": FAST} | values)


@pytest.fixture
def curation(tmp_path: Path) -> Curation:
    begun = Curation.create(tmp_path / "set", plan_of())
    begun.generate(FakePipeline(methods=("iq", "zs", "pd", "sd")))  # a model that cannot score
    return begun


class Scored(FakePipeline):
    """Gives later candidates better scores, as a model with an audio encoder would."""

    def _audio(self, *args: object, **kwargs: object):
        audio = super()._audio(*args, **kwargs)
        object.__setattr__(audio, "score", audio.seed / 100)
        return audio


def contents(made: ListeningSet) -> dict[str, bytes]:
    return {stimulus: (made.folder / file).read_bytes() for file, stimulus in made.key.items()}


def test_candidates_are_made_for_every_cell(curation: Curation) -> None:
    made = curation.candidates()
    assert [c.id for c in made if c.item == "p001"] == [f"p001.{m}.s{s}" for m in ("pd", "zs") for s in (5, 6, 7)]
    assert len(made) == 12
    for candidate in made:
        assert GenerationSettings.from_dict(json.loads(candidate.settings)).seed == candidate.seed
        assert soundfile.info(curation.path(candidate)).subtype == "FLOAT"


def test_slots_have_seeds_of_their_own(tmp_path: Path) -> None:
    begun = Curation.create(tmp_path, plan_of(seeds=2))
    begun.generate(FakePipeline())
    seeds = {(c.slot, c.seed) for c in begun.candidates() if c.system == "zs" and c.item == "p001"}
    assert seeds == {(0, 5), (0, 6), (0, 7), (1, 8), (1, 9), (1, 10)}
    assert [s.id for s in build(begun).of_item("p001")] == [f"p001.{m}.s{n}" for m in ("zs", "pd") for n in (0, 1)]


def test_without_scores_the_first_seed_is_taken_and_said_so(curation: Curation) -> None:
    made = build(curation)
    assert {s.seed for s in made.manifest.stimuli} == {5}
    assert any("there is no Clip-Score" in note for note in made.manifest.notes)
    assert verify(curation.folder) == []


def test_the_best_score_is_taken_and_kept(tmp_path: Path) -> None:
    begun = Curation.create(tmp_path, plan_of())
    begun.generate(Scored())
    made = build(begun)
    assert {(s.seed, s.score) for s in made.manifest.stimuli} == {(7, 0.07)}
    assert any("best Clip-Score" in note for note in made.manifest.notes)


def test_the_curator_overrules_the_score(tmp_path: Path) -> None:
    begun = Curation.create(tmp_path, plan_of())
    begun.generate(Scored())
    begun.decide("p001.zs.s7", "reject")
    begun.decide("p001.pd.s5", "keep")
    begun.decide("p002.pd.s6", "keep")
    begun.decide("p002.pd.s5", "star")
    chosen = {cell: c.seed for cell, c in choose(begun.candidates()).items()}
    assert chosen == {
        ("p001", "zs", 0): 6,
        ("p001", "pd", 0): 5,
        ("p002", "zs", 0): 7,
        ("p002", "pd", 0): 5,
    }
    begun.decide("p001.zs.s7", "")
    assert choose(begun.candidates())["p001", "zs", 0].seed == 7
    assert any("chose 2 of 4" in note for note in build(begun).manifest.notes)


def test_a_cell_of_rejected_candidates_is_told(curation: Curation) -> None:
    for seed in (5, 6, 7):
        curation.decide(f"p002.zs.s{seed}", "reject")
    with pytest.raises(DataError, match="all candidates were rejected for p002 zs 0"):
        build(curation)


def test_bad_decisions_are_told(curation: Curation) -> None:
    with pytest.raises(SettingsError, match="decision is 'maybe'"):
        curation.decide("p001.zs.s5", "maybe")
    with pytest.raises(DataError, match="no candidate 'p001.zs.s99'"):
        curation.decide("p001.zs.s99", "keep")
    with pytest.raises(DataError, match="no candidate"):
        curation.decide("' OR 1=1 --", "reject")
    assert {c.decision for c in curation.candidates()} == {""}


def test_another_plan_in_the_same_place_is_told(curation: Curation) -> None:
    with pytest.raises(SettingsError, match="begun with other title, candidates"):
        Curation.create(curation.folder, replace(plan_of(), candidates=2, title="Other"))
    with pytest.raises(DataError, match="nothing is being curated"):
        Curation.open(curation.folder / "nowhere")


def test_opening_again_gives_the_same(curation: Curation) -> None:
    again = Curation.open(curation.folder)
    assert (again.plan, again.salt) == (curation.plan, curation.salt)
    assert contents(build(again)) == contents(build(curation))


FORK = multiprocessing.get_context("fork")


def decide_all(folder: Path, system: str, decision: str) -> None:
    begun = Curation.open(folder)
    for candidate in begun.candidates():
        if candidate.system == system:
            begun.decide(candidate.id, decision)


@pytest.mark.timeout(300)
def test_two_curators_at_once_lose_nothing(tmp_path: Path) -> None:
    queries = tuple(Query(prompt=f"sound {n}") for n in range(6))
    begun = Curation.create(tmp_path, plan_of(queries=queries, methods=("zs", "pd")))
    begun.generate(FakePipeline())
    jobs = [FORK.Process(target=decide_all, args=(tmp_path, *said)) for said in (("zs", "keep"), ("pd", "star"))]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(240)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert {(c.system, c.decision) for c in begun.candidates()} == {("zs", "keep"), ("pd", "star")}


def curate_slowly(folder: Path) -> None:
    Curation.create(folder, plan_of(seeds=4)).generate(FakePipeline(0.3))


@pytest.mark.timeout(300)
def test_a_killed_run_goes_on_to_the_same_set(tmp_path: Path) -> None:
    job = FORK.Process(target=curate_slowly, args=(tmp_path / "killed",))
    job.start()
    deadline = time.monotonic() + 120
    folder = tmp_path / "killed/curation"
    while len(list(folder.glob("candidates/p*.wav"))) < 7 and time.monotonic() < deadline:
        time.sleep(0.05)
    job.kill()
    job.join()
    killed = Curation.open(tmp_path / "killed")
    before = len(killed.candidates())
    assert 0 < before < 48
    first = killed.candidates()[0].id
    killed.decide(first, "star")
    with pytest.raises(DataError, match="run `listen curate` to its end"):
        build(killed)
    pipeline = FakePipeline()
    Curation.create(tmp_path / "killed", plan_of(seeds=4)).generate(pipeline)
    assert len(pipeline.calls) < 8
    whole = Curation.create(tmp_path / "whole", plan_of(seeds=4))
    whole.generate(FakePipeline())
    assert next(c for c in killed.candidates() if c.id == first).decision == "star"
    whole.decide(first, "star")
    one, other = build(killed), build(whole)
    assert contents(one) == contents(other)
    assert one.manifest.stimuli == other.manifest.stimuli
    assert not set(one.key) & set(other.key), "file names must not be guessable from another set"


def test_a_lost_candidate_is_made_again(curation: Curation) -> None:
    lost = curation.candidates()[0]
    sound = read_audio(curation.path(lost))[0]
    curation.path(lost).unlink()
    curation.generate(FakePipeline())
    assert np.array_equal(read_audio(curation.path(lost))[0], sound)


def tone(seconds: float, hertz: float = 440.0, rate: int = RATE, gain: float = 0.1) -> np.ndarray:
    return (gain * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Real recordings in other rates, lengths and channels, with licences."""
    folder = tmp_path / "real"
    folder.mkdir()
    soundfile.write(folder / "a-dog-barking_1.wav", np.stack([tone(1, rate=48_000)] * 2, axis=1), 48_000)
    write_audio(folder / "church-bells.flac", tone(9, 5000, gain=0.9), RATE)
    (folder / "LICENSES.csv").write_text("file,licence\nchurch-bells.flac,CC0-1.0\n")
    return folder


def test_other_systems_recordings_and_anchors_join(tmp_path: Path, recordings: Path) -> None:
    system = System(name="real", folder=str(recordings))
    plan = plan_of(systems=(system,), reference="real", anchors=True, design="mushra", gold=1, traps=3, licence="MIT")
    begun = Curation.create(tmp_path / "set", plan)
    begun.generate(FakePipeline())
    made = build(begun)
    assert verify(made.folder) == []
    assert made.systems == ["zs", "pd", "real", "anchor35", "anchor70"]
    assert {s.role for s in made.of_item("p001")} == {"condition", "reference", "anchor35", "anchor70"}
    licences = {s.system: s.licence for s in made.of_item("p002")}
    assert (licences["zs"], licences["real"], licences["anchor35"]) == ("MIT", "CC0-1.0", "CC0-1.0")
    sounds = {name: read_audio(made.path(name)) for name in made.stimuli}
    assert {(rate, len(sound)) for sound, rate in sounds.values()} == {(RATE, 9 * RATE)}
    for name, (sound, rate) in sounds.items():
        level_now = loudness(sound, rate)
        quiet = any(name in note for note in made.manifest.notes)
        assert quiet or abs(level_now + 23) < 0.5, (name, level_now)
        assert true_peak_dbtp(sound) <= -0.9, name
    assert sum("LUFS" in note for note in made.manifest.notes) <= 1
    traps = [s for s in made.manifest.stimuli if s.system == "trap"]
    assert [s.expected["fidelity"][0] for s in traps] == [4, 1, 3]


def test_prompt_and_picture_of_one_item(tmp_path: Path) -> None:
    picture = add_picture(tmp_path / "pics")
    exif = Image.Exif()
    exif[271] = "camera of a person"
    Image.new("RGB", (40, 40), "blue").save(picture, exif=exif)
    (tmp_path / "prompts.csv").write_text("prompt,picture\na dog barking,pics/dog.jpg\nchurch bells,\n,pics/dog.jpg\n")
    queries = read_queries(tmp_path / "prompts.csv", [])
    assert [(q.prompt, Path(q.picture).name) for q in queries] == [
        ("a dog barking", "dog.jpg"),
        ("church bells", ""),
        ("", "dog.jpg"),
    ]
    begun = Curation.create(tmp_path / "set", plan_of(queries=queries, methods=("iq", "zs")))
    begun.generate(FakePipeline())
    made = build(begun)
    assert [[s.system for s in made.of_item(i)] for i in made.items] == [["iq", "zs"], ["zs"], ["iq"]]
    assert b"camera" not in (made.folder / made.items["p001"].picture).read_bytes()
    assert verify(made.folder) == []


def test_bad_prompt_files_are_told(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    for text, message in (("\n", "no prompts"), ("x" * 600, "has 600 characters"), ("dog\ndog\n", "asked for twice")):
        file.write_text(text)
        with pytest.raises(PromptError, match=message):
            read_queries(file, [])
    (tmp_path / "p.csv").write_text("text\ndog\n")
    with pytest.raises(PromptError, match="neither a column prompt"):
        read_queries(tmp_path / "p.csv", [])
    with pytest.raises(PromptError, match="cannot read"):
        read_queries(tmp_path / "nowhere.txt", [])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeds": 0}, "seeds is 0"),
        ({"candidates": 99}, "candidates is 99"),
        ({"methods": ("zs", "zs")}, "given twice"),
        ({"methods": ()}, "no system to compare"),
        ({"methods": ("magic",)}, "method is 'magic'"),
        ({"systems": (System(name="../evil", folder="x"),)}, "system is called '../evil'"),
        ({"systems": (System(name="zs", folder="x"),)}, "given twice"),
        ({"reference": "zs"}, "reference is 'zs'"),
        ({"anchors": True}, "anchors are made of real recordings"),
        ({"design": "guess"}, "design is 'guess'"),
        ({"loudness_lufs": float("nan")}, "loudness_lufs is nan"),
        ({"duration_s": 3600.0}, "duration_s is 3600"),
    ],
)
def test_impossible_plans_are_told(values: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        plan_of(**values)


def test_a_system_without_a_sound_is_told_before_anything_is_made(tmp_path: Path, recordings: Path) -> None:
    (recordings / "church-bells.flac").unlink()
    system = System(name="real", folder=str(recordings))
    with pytest.raises(DataError, match=r"no sound for 'church bells'; put one at .*church-bells\.wav"):
        Curation.create(tmp_path / "set", plan_of(systems=(system,)))
    assert not (tmp_path / "set").exists()


def test_what_generate_wrote_is_a_system(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    entries = [("x.wav", "a dog barking"), ("y.wav", "church bells")]
    for name, _ in entries:
        write_audio(folder / name, tone(1), RATE)
    (folder / "manifest.jsonl").write_text("".join(json.dumps({"file": f, "prompt": p}) + "\n" for f, p in entries))
    begun = Curation.create(tmp_path / "set", plan_of(methods=(), systems=(System(name="other", folder=str(folder)),)))
    begun.generate(None)
    assert [s.source for s in build(begun).manifest.stimuli] == ["x.wav", "y.wav"]


def test_a_set_that_is_listened_to_is_not_built_again(curation: Curation) -> None:
    build(curation)
    (curation.folder / "answers.sqlite").write_text("")
    with pytest.raises(OutputError, match="is being listened to"):
        build(curation)


def test_two_builders_at_once_are_told(curation: Curation) -> None:
    other = sqlite3.connect(curation.folder / "curation/build.sqlite")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OutputError, match="built by another process"):
        build(curation)
    other.close()
    assert verify(build(curation).folder) == []


def test_an_earlier_build_leaves_nothing_behind(curation: Curation) -> None:
    build(curation)
    (curation.folder / "wavs/stale.wav").write_text("")
    assert verify(build(curation).folder) == []


def test_true_peaks_between_samples_are_found() -> None:
    # At a quarter of the rate and 45 degrees, every sample is 3 dB below the peak of the wave.
    wave = np.sin(np.pi / 2 * np.arange(4000) + np.pi / 4).astype(np.float32)
    assert 20 * np.log10(np.abs(wave).max()) == pytest.approx(-3.01, abs=0.01)
    assert true_peak_dbtp(wave[500:-500]) == pytest.approx(0.0, abs=0.4)
    assert true_peak_dbtp(np.zeros(10, np.float32)) == float("-inf")


def test_levelling_reaches_the_target_or_the_ceiling() -> None:
    assert loudness(level(tone(2), RATE, -23, -1), RATE) == pytest.approx(-23, abs=0.01)
    clicks = np.zeros(RATE, np.float32)
    clicks[::4000] = 0.5
    limited = level(clicks, RATE, -10, -3)
    assert true_peak_dbtp(limited) == pytest.approx(-3, abs=0.01)
    assert loudness(limited, RATE) < -10
    assert not level(np.zeros(RATE, np.float32), RATE, -23, -1).any()


@pytest.mark.parametrize("seconds", [0.001, 0.5, 3.0])
def test_fitting_gives_the_length_without_clicks(seconds: float) -> None:
    sound = fit(np.ones(max(1, int(seconds * 48_000)), np.float32), 48_000, RATE, RATE)
    assert sound.shape == (RATE,)
    assert sound.dtype == np.float32
    assert abs(sound[0]) < 0.01
    assert np.abs(np.diff(sound)).max() < 0.2


def test_anchors_pass_what_the_recommendation_passes() -> None:
    def gain(hertz: float, cutoff: float) -> float:
        wave = tone(1, hertz, 44_100)
        out = low_pass(wave, 44_100, cutoff)
        return float(20 * np.log10(np.abs(out[10_000:-10_000]).max() / np.abs(wave).max()))

    assert gain(3400, 3500) == pytest.approx(0, abs=0.1)
    assert gain(4000, 3500) < -25
    assert gain(4500, 3500) < -50
    assert gain(6900, 7000) == pytest.approx(0, abs=0.1)
    assert gain(8000, 7000) < -50
    wave = tone(0.1, rate=8000)
    assert np.array_equal(low_pass(wave, 8000, 7000), wave)


def test_the_command_curates_and_verifies(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("a dog barking\n=1+1\n")
    out = tmp_path / "set"
    arguments = ["listen", "curate", "--prompts", str(tmp_path / "prompts.txt"), "--methods", "zs", "pd"]
    arguments += ["--candidates", "2", "--model", str(tiny_model), "--device", "cpu", "--steps", "2", "--prior-steps"]
    arguments += ["2", "--out", str(out), "--zip", str(tmp_path / "set.zip"), "--traps", "1"]
    assert main(arguments) == 0
    assert "2 items, 2 systems, 5 sounds" in capsys.readouterr().out
    before = contents(ListeningSet.load(out))
    assert main(arguments) == 0
    assert contents(ListeningSet.load(out)) == before
    for path in (out, tmp_path / "set.zip"):
        assert main(["listen", "verify", str(path)]) == 0
    assert "'=1+1" in (out / "manifest.csv").read_text()
    capsys.readouterr()
    gone = sorted(ListeningSet.load(out).key)[:2]
    for name in gone:
        (out / name).unlink()
    assert main(["listen", "verify", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"{name} is missing" for name in gone]
    assert captured.err.splitlines() == [f"python -m clipsonic: {out} has 2 faults; mend or curate it again"]


def test_a_model_that_hears_chooses_by_its_scores(hearing_pipeline: ClipSonicPipeline, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a dog barking\nchurch bells\n")
    out, model = tmp_path / "set", str(hearing_pipeline.folder.part_folder("clip").parent)
    arguments = ["listen", "curate", "--prompts", str(tmp_path / "prompts.txt"), "--methods", "zs", "pd"]
    arguments += ["--candidates", "4", "--model", model, "--device", "cpu", "--steps", "2", "--prior-steps", "2"]
    assert main([*arguments, "--out", str(out)]) == 0
    begun = Curation.open(out)
    cells: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in begun.candidates():
        cells.setdefault((candidate.item, candidate.system), []).append(candidate)
    assert [len(made) for made in cells.values()] == [4] * 4
    scores = {cell: [c.score for c in made] for cell, made in cells.items()}
    assert all(row == sorted(row, reverse=True) and len(set(row)) == 4 for row in scores.values())
    assert any(made[0].seed != min(c.seed for c in made) for made in cells.values()), "not just the first seed"
    made = ListeningSet.load(out)
    kept = {(s.item, s.system): (s.seed, s.score) for s in made.manifest.stimuli}
    assert kept == {cell: (best[0].seed, best[0].score) for cell, best in cells.items()}
    assert any("best Clip-Score" in note for note in made.manifest.notes)
    best = cells["p001", "pd"][0]
    settings = GenerationSettings.from_dict(json.loads(best.settings))
    again = hearing_pipeline("a dog barking", settings=settings).audios[0]
    assert again.score == pytest.approx(best.score, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["curate", "--out", "x"], "nothing to curate"),
        (["curate", "--prompts", "/nowhere", "--out", "x"], "cannot read the prompts"),
        (["curate", "--image", "/nowhere.png", "--out", "x"], "cannot read the picture"),
        (["curate", "--prompts", "PROMPTS", "--system", "real", "--out", "x"], "allowed: NAME=DIR"),
        (["curate", "--prompts", "PROMPTS", "--system", "real=/nowhere", "--out", "x"], "has no folder /nowhere"),
        (["curate", "--prompts", "PROMPTS", "--seeds", "0", "--out", "x"], "seeds is 0"),
        (["curate", "--prompts", "PROMPTS", "--out", "/proc/x"], "cannot write into /proc/x"),
        (["verify", "/nowhere"], "is no sample set"),
        (["sing"], "invalid choice: 'sing'"),
        ([], "required: ACTION"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a dog\n")
    try:
        status = main(["listen", *(str(tmp_path / "prompts.txt") if a == "PROMPTS" else a for a in arguments)])
    except SystemExit as exit_:
        status = exit_.code
    lines = capsys.readouterr().err.splitlines()
    assert (status, len(lines)) == (2, 1), lines
    assert message in lines[0]
    assert not (tmp_path / "x").exists()
