"""The layout of a test and its memory: balanced orders, answers that stay."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from pathlib import Path

import pytest
from listening_sets import build_set

from clipsonic.errors import ConfigError, DataError
from clipsonic.listening.design import Dealer, Page, TestDesign, williams_square
from clipsonic.listening.store import Listener, Store

PLAIN = TestDesign(training=0, gold=0, traps=0)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6])
def test_williams_squares_are_balanced(size: int) -> None:
    square = williams_square(size)
    places = Counter((place, condition) for row in square for place, condition in enumerate(row))
    follows = Counter(pair for row in square for pair in zip(row, row[1:], strict=False))
    assert all(sorted(row) == list(range(size)) for row in square)
    assert len(set(places.values())) == 1 and len(places) == size * size
    assert size == 1 or (len(set(follows.values())) == 1 and len(follows) == size * (size - 1))


def test_every_system_is_heard_equally_often_in_each_round(tmp_path: Path) -> None:
    sounds = build_set(tmp_path / "set", prompts=("a", "b", "c", "d"), systems=("x", "y", "z", "w"))
    dealer, heard = Dealer(sounds, PLAIN), Counter()
    for number in range(4):
        pages = dealer.pages(number)
        assert Counter((p.item, p.sounds[0].system) for p in pages) == Counter(
            {(i, s): 1 for i in sounds.items for s in sounds.systems}
        )
        heard.update((place // 4, page.item, page.sounds[0].system) for place, page in enumerate(pages))
    assert set(heard.values()) == {1}, "each prompt's systems come in each round once over four listeners"
    assert [p.item for p in dealer.pages(0)] != [p.item for p in dealer.pages(4)]
    assert dealer.pages(2) == Dealer(sounds, PLAIN).pages(2)


def test_a_share_of_the_items_is_dealt_evenly(tmp_path: Path) -> None:
    sounds = build_set(tmp_path / "set", prompts=tuple("abcdef"), systems=("x", "y", "z"))
    dealer = Dealer(sounds, TestDesign(items_per_listener=7, training=2, gold=1, traps=2))
    votes: Counter[tuple[str, str]] = Counter()
    for number in range(3):
        pages = dealer.pages(number)
        rated = [page for page in pages if page.purpose == "rating"]
        assert len(rated) == 6 and [p.purpose for p in pages[:2]] == ["training"] * 2
        assert Counter(p.purpose for p in pages) == {"rating": 6, "training": 2, "gold": 1, "trap": 2}
        assert not {p.item for p in pages[:2]} & {p.item for p in rated}, "training is not about what is rated"
        votes.update((p.item, p.sounds[0].system) for p in rated)
    assert set(votes.values()) == {1} and len(votes) == 18


def test_the_sets_own_gold_and_traps_are_taken(tmp_path: Path) -> None:
    sounds = build_set(tmp_path / "set", checks=True)
    pages = Dealer(sounds, TestDesign(training=1)).pages(0)
    special = {page.purpose: page for page in pages if page.purpose != "rating"}
    assert {p: page.item for p, page in special.items()} == {"training": "training1", "gold": "gold1", "trap": "trap1"}
    assert special["gold"].expected["fidelity"] == (1, 2) and special["trap"].expected["relevance"] == (4, 4)


def test_pairs_and_mushra_pages(tmp_path: Path) -> None:
    sounds = build_set(tmp_path / "set", systems=("x", "y", "z"), reference=True)
    pairs = [
        {(p.item, *(s.system for s in p.sounds)) for p in Dealer(sounds, replace_design("preference")).pages(n)}
        for n in range(10)
    ]
    assert len(pairs[0]) == 2 * 10
    assert Counter(pair for listener in pairs for pair in listener)[("p001", "x", "y")] == 5, "each side equally often"
    page = Dealer(sounds, replace_design("mushra")).pages(0)[0]
    assert page.reference is not None and page.reference.role == "reference" and page.reference in page.sounds
    assert len(page.sounds) == 5 and page.scales == ("fidelity",)


def replace_design(kind: str) -> TestDesign:
    return TestDesign(design=kind, training=0, gold=0, traps=0)


@pytest.mark.parametrize("values", [{"design": "abx"}, {"training": -1}, {"check_passes": 9}, {"headphones": "maybe"}])
def test_impossible_designs_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="allowed"):
        TestDesign(**values)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "answers.sqlite")


@pytest.fixture
def pages(tmp_path: Path) -> list[Page]:
    return Dealer(build_set(tmp_path / "set"), PLAIN).pages(0)


def join(store: Store, pages: list[Page]) -> tuple[str, Listener]:
    joined = store.join(100, "acr", lambda number: pages)
    assert joined is not None
    return joined


def test_an_answer_replaces_the_one_before_and_history_keeps_both(store: Store, pages: list[Page]) -> None:
    _, listener = join(store, pages)
    sound = store.pages(listener)[0].sounds[0]
    for rating in (3, 3, 5, 5, 2):
        store.answer(sound, "fidelity", rating, 1, 2.5)
    assert store.pages(listener)[0].sounds[0].answers == {"fidelity": 2}
    assert [row["rating"] for row in store.table("SELECT rating FROM history ORDER BY id")] == [3, 5, 2]
    assert len(store.table("SELECT * FROM answers")) == 1


def test_keys_are_told_apart_and_not_kept(store: Store, pages: list[Page]) -> None:
    key, listener = join(store, pages)
    other, _ = join(store, pages)
    assert store.listener(key) == listener != store.listener(other)
    secret = key.split(".")[1]
    for wrong in ("", ".", "1", f"2.{secret}", f"1.{secret}x", secret, "9" * 40, "١.x", f"-1.{secret}"):
        assert store.listener(wrong) is None
    store.close()
    assert all(secret.encode() not in path.read_bytes() for path in store.path.parent.glob("answers.sqlite*"))


def test_the_disk_is_asked_for_every_answer(store: Store) -> None:
    assert store.table("PRAGMA journal_mode")[0]["journal_mode"] == "wal"
    assert store.table("PRAGMA synchronous")[0]["synchronous"] == 2


def test_listeners_who_come_at_once_get_numbers_of_their_own(store: Store, pages: list[Page]) -> None:
    second = Store(store.path)  # as another process would
    threads = [threading.Thread(target=join, args=(s, pages)) for s in (store, second) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(r["number"] for r in store.table("SELECT number FROM listeners")) == list(range(20))
    assert store.join(20, "acr", lambda number: pages) is None


def test_a_file_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_text("not a database at all, but somebody's notes" * 30)
    with pytest.raises(DataError, match="no answer store"):
        Store(path)
    assert path.read_text().startswith("not a database")


def test_a_copy_is_whole(store: Store, pages: list[Page], tmp_path: Path) -> None:
    _, listener = join(store, pages)
    store.answer(store.pages(listener)[0].sounds[0], "relevance", 4, 1, 1.0)
    store.backup(tmp_path / "copy.sqlite")
    with sqlite3.connect(tmp_path / "copy.sqlite") as copy:
        assert copy.execute("SELECT scale, rating FROM answers").fetchall() == [("relevance", 4)]
