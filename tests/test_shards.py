import json

import numpy as np
import pytest
from PIL import Image

from clipsonic.errors import DataError, OutputError
from clipsonic.shards import Index, Label, Sample, ShardWriter, read_labels, read_samples, write_labels


def make_sample(number: int, frames: int = 2) -> Sample:
    random = np.random.default_rng(number)
    waveform = random.uniform(-0.5, 0.5, 512).astype(np.float32)
    colours = [Image.new("RGB", (32, 32), (40 * number, 10 * i, 90)) for i in range(frames)]
    return Sample(f"train-{number:06d}", waveform, tuple(colours), {"sound": {"source": str(number)}}, 22050)


@pytest.fixture
def folder(tmp_path):
    with ShardWriter(tmp_path / "train-000000.tar") as writer:
        for number in range(3):
            writer.write(make_sample(number))
    Index(settings={"seed": 0}, shards=(writer.entry("plan"),), counts={"train": 3}).write(tmp_path)
    return tmp_path


def test_samples_come_back_as_they_were_written(folder):
    samples = list(read_samples(folder, "train"))
    assert [sample.key for sample in samples] == ["train-000000", "train-000001", "train-000002"]
    for number, sample in enumerate(samples):
        wanted = make_sample(number)
        assert np.abs(sample.waveform - wanted.waveform).max() < 1e-4
        assert sample.provenance == wanted.provenance
        assert sample.sample_rate == 22050
        assert len(sample.frames) == 2
        assert np.abs(np.asarray(sample.frames[1], int) - np.asarray(wanted.frames[1], int)).max() < 8


def test_pictures_and_sounds_are_decoded_only_if_wanted(folder):
    assert all(not sample.frames for sample in read_samples(folder, "train", frames=False))
    assert all(len(sample.waveform) == 0 for sample in read_samples(folder, "train", sounds=False))


def test_same_samples_give_the_same_bytes(folder, tmp_path):
    again = tmp_path / "again" / "train-000000.tar"
    with ShardWriter(again) as writer:
        for number in range(3):
            writer.write(make_sample(number))
    assert again.read_bytes() == (folder / "train-000000.tar").read_bytes()


def test_a_failed_shard_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path / "train-000000.tar") as writer:
        writer.write(make_sample(0))
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose a writable folder"), ShardWriter(tmp_path / "file" / "a.tar"):
        pass


def test_labels_travel_beside_the_shards_only(folder):
    labels = [
        Label("train-000000", "bee, wasp, etc. buzzing", "train", "a"),
        Label("train-000001", "frog", "train", "b"),
    ]
    write_labels(folder, labels)
    assert list(read_labels(folder).values()) == labels
    assert b"buzzing" not in (folder / "train-000000.tar").read_bytes()


def test_index_keeps_its_counts_and_sums(folder):
    index = Index.read(folder)
    assert index.counts == {"train": 3}
    assert index.shards[0].samples == 3
    assert len(index.shards[0].sha256) == 64


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "index.json").unlink(), "is no folder of shards"),
        (lambda f: (f / "index.json").write_text("{"), "is no folder of shards"),
        (lambda f: (f / "index.json").write_text(json.dumps({"settings": {}, "version": 99})), "version 99"),
        (lambda f: (f / "train-000000.tar").unlink(), "lacks train-000000.tar"),
        (lambda f: (f / "train-000000.tar").write_bytes(b"x" * 600), "train-000000.tar is damaged"),
        (lambda f: (f / "train-000000.tar").write_bytes((f / "train-000000.tar").read_bytes()[:1500]), "is damaged"),
    ],
)
def test_damage_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(DataError, match=message):
        list(read_samples(folder, "train"))


def test_unknown_and_absent_splits_are_named(folder):
    with pytest.raises(DataError, match="no split 'valid'"):
        list(read_samples(folder, "valid"))
    with pytest.raises(DataError, match="has no test shards"):
        list(read_samples(folder, "test"))


def test_missing_or_malformed_labels_are_named(folder):
    with pytest.raises(DataError, match="cannot read"):
        read_labels(folder)
    (folder / "labels.csv").write_text("key,what\na,b\n")
    with pytest.raises(DataError, match="cannot read"):
        read_labels(folder)
