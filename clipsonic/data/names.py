"""What pictures are called: titles, file names, sentences and emoji turned into plain English names."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from clipsonic.errors import DataError

_WORDNET = "usr/share/wordnet"
_ARTICLE = re.compile(r"^(an?|the|some|a (pair|bunch|piece|type|kind) of)\s+", re.IGNORECASE)
_CLAUSE = re.compile(r"[,.;:!?(]|\s(is|are|was|called|which|that|used|means|also|often)\s")
_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_FOREIGN = re.compile(r"architett|francesc|\d{3}")
_NOT_THINGS = re.compile(
    r"button|arrow|square|o’clock|thirty|keycap|symbol|sign\b|flag|letter|mark|skin tone|hair\b|hexagram|bracket|circle"
    r"|diamond|zodiac|japanese .*button|fitzpatrick"
)


class Dictionary:
    """WordNet's nouns with the definition of their commonest sense."""

    def __init__(self, root: Path) -> None:
        """Read the files below an unpacked `wordnet-base`.

        Raises:
            DataError: A file is missing.
        """
        try:
            index = (root / _WORDNET / "index.noun").read_text(encoding="latin-1")
            self._data = (root / _WORDNET / "data.noun").read_bytes()
        except OSError as error:
            raise DataError(f"no WordNet under {root}: {error.strerror}; fetch wordnet-base again") from error
        lines = (line.split() for line in index.splitlines() if not line.startswith(" "))
        self._offsets = {fields[0]: int(fields[-int(fields[2])]) for fields in lines}

    def __contains__(self, name: str) -> bool:
        """Say whether a name, singular or plural, is a noun of the dictionary."""
        return self._lemma(name) is not None

    def known(self, name: str) -> str:
        """Return the longest beginning of a name that ends in a noun, or "" if no noun of it is known."""
        words = name.split()[:6]
        for end in range(len(words), 0, -1):
            if len(words[end - 1]) > 2 and (words[end - 1] in self or " ".join(words[:end]) in self):
                return " ".join(words[:end])
        return ""

    def gloss(self, name: str) -> str:
        """Return the definition of a noun's commonest sense, or "" for no noun."""
        lemma = self._lemma(name)
        if lemma is None:
            return ""
        start = self._offsets[lemma]
        line = self._data[start : self._data.index(b"\n", start)].decode("latin-1")
        return line.partition("| ")[2].partition(";")[0].strip()

    def _lemma(self, name: str) -> str | None:
        lemma = name.lower().replace(" ", "_")
        forms = (lemma, lemma.removesuffix("s"), lemma.removesuffix("es"))
        return next((form for form in forms if form in self._offsets), None)


def plain(text: str) -> str:
    """Return a sentence or title in lower case without the article in front and the full stop."""
    return _ARTICLE.sub("", " ".join(text.strip().rstrip(".!").split())).lower().strip(" \"'")


def short(sentence: str) -> str:
    """Return the name that a description opens with: "A prune, a dried plum." gives "prune"."""
    name = plain(_CLAUSE.split(plain(sentence) + " ")[0])
    return name if len(name.split()) <= 4 else ""


def from_file(stem: str) -> str:
    """Return a file name as words: "drum_kit2" gives "drum kit"."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem)
    words = re.sub(r"[^A-Za-z]+", " ", spaced).lower().split()
    return " ".join(word for word in words if len(word) > 1 and not _FOREIGN.search(word))


def clipart(drawing: Path) -> tuple[str, list[str]]:
    """Return title and keywords of an SVG drawing, ("", []) where it states none."""
    try:
        root = ElementTree.parse(drawing).getroot()
    except (OSError, ElementTree.ParseError):
        return "", []
    title = next((t.text for t in root.iter(f"{_DUBLIN_CORE}title") if t.text), "")
    title = re.sub(r"\(.*?\)|[^A-Za-z' -]|\bb and w\b", " ", title, flags=re.IGNORECASE)
    keywords = [
        k.text.strip().lower() for s in root.iter(f"{_DUBLIN_CORE}subject") for k in s.iter(f"{_RDF}li") if k.text
    ]
    return ("" if _FOREIGN.search(title.lower()) else plain(title)), keywords


def emoji(annotations: Path) -> dict[str, tuple[str, list[str]]]:
    """Read Unicode's names of single-character emoji that show things.

    Args:
        annotations: CLDR's `annotations/en.xml`.

    Returns:
        Name and keywords for each code point, such as "1F415".

    Raises:
        DataError: The file cannot be read.
    """
    try:
        entries = ElementTree.parse(annotations).getroot().iter("annotation")
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"cannot read {annotations}: {error}; fetch unicode-cldr-core again") from error
    found: dict[str, dict[str, str]] = {}
    for entry in entries:
        symbol = entry.get("cp", "")
        if len(symbol) == 1 and ord(symbol) >= 0x2300:
            found.setdefault(f"{ord(symbol):04X}", {})[entry.get("type", "keywords")] = entry.text or ""
    return {
        code: (forms["tts"].lower(), [k.strip().lower() for k in forms.get("keywords", "").split("|") if k.strip()])
        for code, forms in found.items()
        if "tts" in forms and not _NOT_THINGS.search(forms["tts"].lower())
    }


def mention(concept: str) -> re.Pattern[str]:
    """Return a pattern that finds a concept's name, singular or plural, in any text."""
    return re.compile(rf"\b{re.escape(concept)}(s|es)?\b", re.IGNORECASE)


def read_lines(path: Path) -> list[str]:
    """Return a text file's lines that are not empty.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; reinstall the package") from error


def read_rows(path: Path) -> Iterable[dict[str, str]]:
    """Return a CSV file's rows by column name.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; reinstall the package") from error
