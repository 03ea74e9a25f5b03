"""The running test's memory: listeners, what each is asked, and every answer, in one SQLite file.

The file is in WAL mode with `synchronous=FULL`: once `Store.answer` has returned, the answer is on the disk, whatever
happens to the process. Several processes may open the same file. Each listener's pages are written down when they
join, so that a resumed test is the same test, whatever has become of the code or the design meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clipsonic.errors import DataError, OutputError
from clipsonic.listening.design import Page

SCHEMA = 1
BUSY_S = 20.0
REFERENCE_SLOT = -1
"""Where a page keeps the sound that is played openly for comparison."""

_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS listeners (
    id INTEGER PRIMARY KEY AUTOINCREMENT, number INTEGER NOT NULL UNIQUE, key_hash BLOB NOT NULL,
    joined_at TEXT NOT NULL, finished_at TEXT, code TEXT, details TEXT NOT NULL DEFAULT '{}');
CREATE TABLE IF NOT EXISTS pages (
    id INTEGER PRIMARY KEY, listener INTEGER NOT NULL REFERENCES listeners, position INTEGER NOT NULL,
    token TEXT NOT NULL UNIQUE, design TEXT NOT NULL, purpose TEXT NOT NULL, item TEXT NOT NULL,
    said TEXT NOT NULL, scales TEXT NOT NULL, expected TEXT NOT NULL, UNIQUE (listener, position));
CREATE TABLE IF NOT EXISTS sounds (
    id INTEGER PRIMARY KEY, page INTEGER NOT NULL REFERENCES pages, slot INTEGER NOT NULL, token TEXT NOT NULL UNIQUE,
    stimulus TEXT NOT NULL, system TEXT NOT NULL, noise INTEGER NOT NULL, UNIQUE (page, slot));
CREATE TABLE IF NOT EXISTS answers (
    sound INTEGER NOT NULL REFERENCES sounds, scale TEXT NOT NULL, rating INTEGER NOT NULL, plays INTEGER NOT NULL,
    seconds REAL NOT NULL, given_at TEXT NOT NULL, PRIMARY KEY (sound, scale));
CREATE TABLE IF NOT EXISTS history (
    id INTEGER PRIMARY KEY, sound INTEGER NOT NULL, scale TEXT NOT NULL, rating INTEGER NOT NULL,
    plays INTEGER NOT NULL, seconds REAL NOT NULL, given_at TEXT NOT NULL);
"""


@dataclass(frozen=True, kw_only=True)
class KeptSound:
    """A sound on a listener's page; `token` is all that a browser learns of it."""

    id: int
    token: str
    slot: int
    stimulus: str
    system: str
    noise: bool
    answers: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class KeptPage:
    """A page of a listener; `sounds` are in the order of the page, the open reference apart."""

    id: int
    token: str
    position: int
    design: str
    purpose: str
    item: str
    said: str
    scales: tuple[str, ...]
    expected: dict[str, tuple[int, int]]
    sounds: tuple[KeptSound, ...]
    reference: KeptSound | None

    @property
    def rated(self) -> tuple[KeptSound, ...]:
        """The sounds that answers belong to: all, but with a preference only the first, "A"."""
        return self.sounds[:1] if self.design == "preference" else self.sounds

    @property
    def complete(self) -> bool:
        """Whether nothing is left to answer."""
        return all(scale in sound.answers for sound in self.rated for scale in self.scales)


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Who takes the test."""

    id: int
    number: int
    finished_at: str
    code: str
    details: dict[str, Any]


class Store:
    """One test's SQLite file; safe to share among threads."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            DataError: It is no answer store, or one of another version.
            OutputError: It cannot be written.
        """
        self.path = path
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.executescript(_TABLES)
        except sqlite3.OperationalError as error:
            raise OutputError(f"cannot write {path}: {error}; choose a writable folder") from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path} is no answer store: {error}; name another file") from error
        if (schema := self.fact("schema", str(SCHEMA))) != str(SCHEMA):
            raise DataError(f"{path} is an answer store of version {schema}; this program reads version {SCHEMA}")

    def close(self) -> None:
        """Close the file; what was answered is in it already."""
        with self._lock:
            self._db.close()

    def fact(self, name: str, value: str) -> str:
        """Return what is known under a name; if nothing is, remember `value` and return it."""
        with self._writing() as db:
            db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))
            return str(db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()[0])

    def join(self, limit: int, design: str, deal: Callable[[int], Sequence[Page]]) -> tuple[str, Listener] | None:
        """Take in a listener.

        Args:
            limit: How many there may be in all.
            design: "acr", "preference" or "mushra".
            deal: Returns the pages of the how-manieth listener, from 0.

        Returns:
            The listener's secret key, which is not kept, and the listener; None if there are `limit` already.
        """
        secret = secrets.token_urlsafe(24)
        with self._writing() as db:
            (number,) = db.execute("SELECT count(*) FROM listeners").fetchone()
            if number >= limit:
                return None
            values = (number, _hash(secret), _now())
            id_ = db.execute("INSERT INTO listeners (number, key_hash, joined_at) VALUES (?, ?, ?)", values).lastrowid
            for position, page in enumerate(deal(number)):
                self._write_page(db, (id_, position), design, page)
        key = f"{id_}.{secret}"
        return key, self.listener(key) or Listener(id=id_ or 0, number=number, finished_at="", code="", details={})

    def listener(self, key: str) -> Listener | None:
        """Return whose key this is, None if it is nobody's; takes the same time however wrong it is."""
        name, _, secret = key.partition(".")
        id_ = int(name) if name.isascii() and name.isdecimal() and len(name) < 12 else 0
        rows = self._read("SELECT id, number, finished_at, code, details, key_hash FROM listeners WHERE id = ?", id_)
        kept = rows[0][5] if rows else b"\0" * 32
        if not secrets.compare_digest(kept, _hash(secret)) or not rows:
            return None
        id_, number, finished_at, code, details, _ = rows[0]
        return Listener(
            id=id_, number=number, finished_at=finished_at or "", code=code or "", details=json.loads(details)
        )

    def pages(self, listener: Listener) -> list[KeptPage]:
        """Return a listener's pages in their order, with the answers given so far."""
        answers: dict[int, dict[str, int]] = {}
        for sound, scale, rating in self._read(
            "SELECT sound, scale, rating FROM answers JOIN sounds ON sounds.id = sound "
            "JOIN pages ON pages.id = sounds.page WHERE listener = ?",
            listener.id,
        ):
            answers.setdefault(sound, {})[scale] = rating
        sounds: dict[int, list[KeptSound]] = {}
        for page, id_, token, slot, stimulus, system, noise in self._read(
            "SELECT page, sounds.id, sounds.token, slot, stimulus, system, noise FROM sounds "
            "JOIN pages ON pages.id = sounds.page WHERE listener = ? ORDER BY page, slot",
            listener.id,
        ):
            sound = KeptSound(
                id=id_,
                token=token,
                slot=slot,
                stimulus=stimulus,
                system=system,
                noise=bool(noise),
                answers=answers.get(id_, {}),
            )
            sounds.setdefault(page, []).append(sound)
        rows = self._read(
            "SELECT id, token, position, design, purpose, item, said, scales, expected FROM pages WHERE listener = ? "
            "ORDER BY position",
            listener.id,
        )
        return [_page(row, sounds[row[0]]) for row in rows]

    def answer(self, sound: KeptSound, scale: str, rating: int, plays: int, seconds: float) -> None:
        """Write an answer down, in place of an earlier one, of which the history keeps a copy.

        The same answer once more changes nothing.

        Raises:
            OutputError: The disk is full or the file cannot be written; the answer is not kept.
        """
        with self._writing() as db:
            old = db.execute("SELECT rating FROM answers WHERE sound = ? AND scale = ?", (sound.id, scale)).fetchone()
            if old is not None and old[0] == rating:
                return
            values = (sound.id, scale, rating, plays, seconds, _now())
            db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)", values)
            columns = "sound, scale, rating, plays, seconds, given_at"
            db.execute(f"INSERT INTO history ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values)

    def note(self, listener: Listener, **details: Any) -> None:
        """Remember things about a listener, such as the outcome of the headphone check, beside what was known."""
        with self._writing() as db:
            (known,) = db.execute("SELECT details FROM listeners WHERE id = ?", (listener.id,)).fetchone()
            merged = json.dumps(json.loads(known) | details, ensure_ascii=False)
            db.execute("UPDATE listeners SET details = ? WHERE id = ?", (merged, listener.id))

    def finish(self, listener: Listener) -> str:
        """Mark a listener's test as done and return the completion code, the same one each time."""
        with self._writing() as db:
            code = secrets.token_hex(4).upper()
            db.execute(
                "UPDATE listeners SET finished_at = ?, code = ? WHERE id = ? AND code IS NULL",
                (_now(), code, listener.id),
            )
            return str(db.execute("SELECT code FROM listeners WHERE id = ?", (listener.id,)).fetchone()[0])

    def table(self, query: str) -> list[dict[str, Any]]:
        """Return the rows that a query of this package reads, each by column name."""
        with self._lock, _as_errors(self.path):
            cursor = self._db.execute(query)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def backup(self, path: Path) -> None:
        """Write a whole copy of the file, while the test goes on."""
        with self._lock, _as_errors(path):
            target = sqlite3.connect(path)
            try:
                self._db.backup(target)
            finally:
                target.close()

    def _write_page(self, db: sqlite3.Connection, place: tuple[int | None, int], design: str, page: Page) -> None:
        texts = (json.dumps(page.scales), json.dumps(page.expected))
        id_ = db.execute(
            "INSERT INTO pages (listener, position, token, design, purpose, item, said, scales, expected) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*place, secrets.token_urlsafe(12), design, page.purpose, page.item, page.said, *texts),
        ).lastrowid
        slots = list(enumerate(page.sounds)) + ([(REFERENCE_SLOT, page.reference)] if page.reference else [])
        db.executemany(
            "INSERT INTO sounds (page, slot, token, stimulus, system, noise) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (id_, slot, secrets.token_urlsafe(12), sound.id, sound.system, slot == page.noise)
                for slot, sound in slots
            ],
        )

    def _read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock, _as_errors(self.path):
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction, which is on the disk when the block is left."""
        with self._lock, _as_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            try:
                self._db.execute("COMMIT")
            except sqlite3.Error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


@contextmanager
def _as_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OutputError(f"cannot write {path}: {error}; free some space, then send it again") from error
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} cannot be used: {error}; restore it from a copy") from error


def _page(row: tuple[Any, ...], sounds: list[KeptSound]) -> KeptPage:
    id_, token, position, design, purpose, item, said, scales, expected = row
    return KeptPage(
        id=id_,
        token=token,
        position=position,
        design=design,
        purpose=purpose,
        item=item,
        said=said,
        scales=tuple(json.loads(scales)),
        expected={scale: (low, high) for scale, (low, high) in json.loads(expected).items()},
        sounds=tuple(sound for sound in sounds if sound.slot != REFERENCE_SLOT),
        reference=next((sound for sound in sounds if sound.slot == REFERENCE_SLOT), None),
    )


def _hash(secret: str) -> bytes:
    """Hash a key; it is 192 random bits, so nothing slower is needed."""
    return hashlib.sha256(secret.encode()).digest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
