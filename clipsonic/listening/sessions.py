"""A running test: the set, its design and its store, and what a listener may do with them."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from functools import cached_property
from pathlib import Path
from typing import Any

from clipsonic.errors import ClipSonicError, DataError
from clipsonic.listening.design import ANSWERS, DESIGN_FILE, Dealer, TestDesign
from clipsonic.listening.sets import ANSWERS as ANSWERS_FILE
from clipsonic.listening.sets import SUMS, ListeningSet
from clipsonic.listening.sounds import headphone_sound, headphone_trials, plain_sound, read_whole
from clipsonic.listening.store import KeptPage, KeptSound, Listener, Store

MAX_TEXT = 2000
MAX_SECONDS = 86_400.0
CHANGED = "the sounds of this test are not those that it began with; the organiser has to restore them"


class Refusal(ClipSonicError, ValueError):
    """Something a browser asked for is not given; `status` is HTTP's number for why."""

    def __init__(self, status: int, message: str) -> None:
        """Say why."""
        super().__init__(message)
        self.status = status


class RunningTest:
    """One test that listeners take."""

    def __init__(self, folder: Path, answers: Path | None = None) -> None:
        """Open a set for testing.

        Args:
            folder: The set; its `test.json`, if there is one, says how the test is run.
            answers: Where answers go; `answers.sqlite` in the set if left out.

        Raises:
            DataError: There is no set, its checksums do not hold, or it is not the one that the answers are about.
            ConfigError: `test.json` says something impossible.
        """
        self.set = ListeningSet.load(folder)
        path = folder / DESIGN_FILE
        self.design = TestDesign.load(path) if path.is_file() else TestDesign()
        self._sums = read_sums(folder / SUMS)
        for name in self._sums:
            self._read(name)
        self.dealer = Dealer(self.set, self.design)
        self.store = Store(answers or folder / ANSWERS_FILE)
        digest = hashlib.sha256(json.dumps(self._sums, sort_keys=True).encode()).hexdigest()
        if self.store.fact("set", digest) != digest:
            self.store.close()
            raise DataError(
                f"the set in {folder} is not the one that the answers in {self.store.path} are about; "
                "restore the set, or move the answers away and begin a new test"
            )
        self._secret = self.store.fact("secret", secrets.token_urlsafe(24))

    @cached_property
    def id(self) -> str:
        """What tells this test from others, to browsers; says nothing else."""
        return hashlib.sha256(f"id/{self._secret}".encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """What the test is called."""
        return self.design.title or self.set.manifest.title

    def describe(self) -> dict[str, Any]:
        """Return what anybody may know: the title, the consent text, what is asked."""
        names = ("consent", "contact", "break_every", "must_play", "headphones", "check_trials")
        scales = [{"name": s.name, "question": s.question, "labels": s.labels} for s in self.set.manifest.scales]
        return {
            "id": self.id,
            "title": self.title,
            "design": self.dealer.kind,
            "scales": scales,
            **{name: getattr(self.design, name) for name in names},
        }

    def join(self, consent: Any) -> str:
        """Take in a listener who consents, and return their secret key.

        Raises:
            Refusal: They do not consent, or the test is full.
        """
        if consent is not True:
            raise Refusal(422, "the test begins with your consent; tick the box first")
        joined = self.store.join(self.design.max_listeners, self.dealer.kind, self.dealer.pages)
        if joined is None:
            raise Refusal(403, f"this test has its {self.design.max_listeners} listeners; thank you all the same")
        return joined[0]

    def listener(self, key: str) -> Listener:
        """Return whose key this is.

        Raises:
            Refusal: It is nobody's.
        """
        listener = self.store.listener(key)
        if listener is None:
            raise Refusal(401, "this listener key is not known here; reload the page to begin anew")
        return listener

    def session(self, listener: Listener) -> dict[str, Any]:
        """Return all that a listener's browser needs; it tells no system, and no purpose but training."""
        pages = [self._shown(page) for page in self.store.pages(listener)]
        checked = listener.details.get("headphones", "off" if self.design.headphones == "off" else "")
        return {"pages": pages, "checked": checked, "finished": bool(listener.finished_at), "code": listener.code}

    def answer(self, listener: Listener, given: dict[str, Any]) -> None:
        """Keep an answer.

        Args:
            listener: Who gives it.
            given: `sound` (a token), `scale`, `rating`, `plays` and `seconds`.

        Raises:
            Refusal: Something in it is not what the page asks for.
        """
        if listener.finished_at:
            raise Refusal(409, "this test is finished; its answers cannot be changed any more")
        pages = self.store.pages(listener)
        page, sound = _find(pages, given.get("sound"))
        first_open = next((p.position for p in pages if not p.complete), len(pages))
        if page.position > first_open:
            raise Refusal(409, f"this is page {page.position + 1}; answer page {first_open + 1} first")
        if sound not in page.rated or given.get("scale") not in page.scales:
            raise Refusal(422, f"this page asks about {', '.join(page.scales)}; answer one of them")
        low, high = ANSWERS[page.design]
        rating: Any = given.get("rating")
        if not _whole(rating, low, high):
            raise Refusal(422, f"the rating is {json.dumps(rating)[:40]}; allowed: whole numbers from {low} to {high}")
        plays: Any = given.get("plays", 0)
        seconds: Any = given.get("seconds", 0)
        if not _whole(plays, 0, 10_000) or not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_SECONDS:
            raise Refusal(422, "plays or seconds is no sensible number; reload the page")
        if self.design.must_play and not plays:
            raise Refusal(422, "the sound was not played; play it to its end before you rate it")
        self.store.answer(sound, given["scale"], rating, plays, float(seconds))

    def sound(self, listener: Listener, token: str) -> bytes:
        """Return a sound of the listener's as a WAV file that holds nothing but the sound.

        Raises:
            Refusal: It is not one of theirs, or the file is no more what it was when the test began.
        """
        sounds = (s for p in self.store.pages(listener) for s in (*p.sounds, p.reference) if s is not None)
        kept = next((sound for sound in sounds if sound.token == token), None)
        if kept is None:
            raise Refusal(404, "this is none of your sounds; reload the page")
        return plain_sound(self._served(self.set.file_of[kept.stimulus]), kept.noise)

    def picture(self, listener: Listener, token: str) -> bytes:
        """Return the picture of one of the listener's pages.

        Raises:
            Refusal: It is not one of theirs, it has none, or the file is no more what it was.
        """
        page = next((page for page in self.store.pages(listener) if page.token == token), None)
        name = self.set.items[page.item].picture if page else ""
        if not name:
            raise Refusal(404, "this page has no picture; reload the page")
        return self._served(name)

    def check_sound(self, listener: Listener, trial: int) -> bytes:
        """Return the tones of a trial of the headphone check, counted from 0."""
        if not 0 <= trial < self.design.check_trials:
            raise Refusal(404, f"there is no trial {trial}; the check has {self.design.check_trials}")
        return headphone_sound(self._trials(listener)[trial], self.design.check_tone_s)

    def check(self, listener: Listener, answers: Any) -> bool:
        """Judge a headphone check, and note the outcome; a failed one is given again with other tones.

        Args:
            listener: Who.
            answers: For each trial which tone, from 0, was the quietest; None to go on without, where that is allowed.

        Raises:
            Refusal: It is not asked for like this.
        """
        if answers is None and self.design.headphones == "asked":
            self.store.note(listener, headphones="skipped")
            return True
        trials = self._trials(listener)
        if not isinstance(answers, list) or len(answers) != len(trials) or not all(_whole(a, 0, 2) for a in answers):
            raise Refusal(422, f"the headphone check takes {len(trials)} answers, each 0, 1 or 2; do it again")
        right = sum(kinds[answer] == 1 for kinds, answer in zip(trials, answers, strict=True))
        passed = right >= self.design.check_passes
        tries = listener.details.get("tries", 0) + 1
        self.store.note(listener, tries=tries, **({"headphones": "passed"} if passed else {}))
        return passed

    def finish(self, listener: Listener, told: dict[str, Any]) -> str:
        """End a listener's test and return the completion code.

        Args:
            listener: Who.
            told: `comment` and other answers of the questionnaire, each a short text.

        Raises:
            Refusal: Something is not answered yet, or a text is too long.
        """
        if missing := [page.position + 1 for page in self.store.pages(listener) if not page.complete]:
            raise Refusal(409, f"page {missing[0]} is not answered yet; answer it first")
        texts = {name: text for name, text in told.items() if name in ("comment", "device", "hearing")}
        if not all(isinstance(text, str) and len(text) <= MAX_TEXT for text in texts.values()):
            raise Refusal(422, f"a text is too long; allowed: {MAX_TEXT} letters")
        if not listener.finished_at:
            self.store.note(listener, **texts)
        return self.store.finish(listener)

    def _shown(self, page: KeptPage) -> dict[str, Any]:
        item = self.set.items[page.item]
        return {
            "page": page.token,
            "training": page.purpose == "training",
            "prompt": page.said or item.prompt,
            "picture": bool(item.picture) and not page.said,
            "scales": page.scales,
            "sounds": [sound.token for sound in page.sounds],
            "reference": page.reference.token if page.reference else None,
            "answers": {sound.token: sound.answers for sound in page.sounds if sound.answers},
        }

    def _trials(self, listener: Listener) -> list[tuple[int, int, int]]:
        tries = listener.details.get("tries", 0)
        return headphone_trials(f"{self._secret}/{listener.id}/{tries}", self.design.check_trials)

    def _served(self, name: str) -> bytes:
        try:
            return self._read(name)
        except (DataError, ClipSonicError) as error:
            raise Refusal(409, CHANGED) from error

    def _read(self, name: str) -> bytes:
        """Read a file of the set if it is what the checksums say."""
        content = read_whole(self.set.folder / name)
        if hashlib.sha256(content).hexdigest() != self._sums.get(name):
            raise DataError(f"{name} is not what {SUMS} says; restore it, or curate the set again")
        return content


def read_sums(path: Path) -> dict[str, str]:
    """Return the checksums of a set by file name.

    Raises:
        DataError: There are none, or they cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; the set is not whole, curate it again") from error


def _find(pages: list[KeptPage], token: Any) -> tuple[KeptPage, KeptSound]:
    for page in pages:
        for sound in page.sounds:
            if sound.token == token:
                return page, sound
    raise Refusal(404, "this is none of your sounds; reload the page")


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
