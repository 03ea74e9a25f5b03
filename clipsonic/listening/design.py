"""How a listening test is laid out: what is asked, of whom, in which order. Without sound, server or storage."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations

from clipsonic.config import Config
from clipsonic.errors import ConfigError, DataError
from clipsonic.listening.ratings import DESIGNS
from clipsonic.listening.sets import Item, ListeningSet, Stimulus

HEADPHONES = ("required", "asked", "off")
ANSWERS = {"acr": (1, 5), "preference": (0, 2), "mushra": (0, 100)}
"""The lowest and the highest answer on a page of each design; a preference is for sound 1, sound 2, or 0, neither."""
DESIGN_FILE = "test.json"

CONSENT = (
    "You will hear short sounds and say how good they are. Your answers are kept without your name and used for "
    "research only. You may stop at any time by closing this page; what you have answered until then is kept."
)


@dataclass(frozen=True, kw_only=True)
class TestDesign(Config):
    """What an organiser may set; `test.json` in the set's folder overrides any of it."""

    __test__ = False  # no test case, whatever pytest makes of the name

    title: str = ""
    """Empty for the title of the set."""
    consent: str = CONSENT
    contact: str = ""
    design: str = ""
    """What a page asks: "acr" one sound, 1 to 5; "preference" which of two; "mushra" all systems side by side, 0 to
    100, real recordings among them played openly too. Empty for what the set was curated for."""
    seed: int = 0
    items_per_listener: int = 0
    """Sounds to be rated by one listener, rounded down to whole prompts so that everybody hears all systems equally
    often; 0 for all of them."""
    training: int = 2
    gold: int = 1
    traps: int = 1
    break_every: int = 20
    must_play: bool = True
    headphones: str = "required"
    check_trials: int = 4
    check_passes: int = 3
    check_tone_s: float = 0.8
    max_listeners: int = 500

    def __post_init__(self) -> None:
        """Refuse what makes no test.

        Raises:
            ConfigError: A value is outside what is allowed.
        """
        for name, allowed in (("design", ("", *DESIGNS)), ("headphones", HEADPHONES)):
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}")
        for name in ("items_per_listener", "training", "gold", "traps", "break_every", "check_trials"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; allowed: 0 and more")
        if not 0.1 <= self.check_tone_s <= 5:
            raise ConfigError(f"check_tone_s is {self.check_tone_s}; allowed: 0.1 to 5 s")
        if not 0 <= self.check_passes <= self.check_trials:
            raise ConfigError(f"check_passes is {self.check_passes}; allowed: 0 to check_trials, {self.check_trials}")
        if self.max_listeners < 1:
            raise ConfigError(f"max_listeners is {self.max_listeners}; allowed: 1 and more")


@dataclass(frozen=True, kw_only=True)
class Page:
    """One thing that a listener is asked.

    Attributes:
        purpose: "training", "rating", "gold" or "trap".
        item: The id of what the sounds were made from.
        sounds: Their stimuli in the order of the page.
        scales: The names of what is asked.
        said: Shown in place of the item's prompt; the instruction of a trap.
        noise: Which of the sounds, from 0, is buried under noise to make a gold item.
        expected: With gold and trap items the lowest and highest answer of one who pays attention, by scale; it is
            about the sound in noise, or the first.
        reference: The real recording that is played openly for comparison.
    """

    purpose: str
    item: str
    sounds: tuple[Stimulus, ...]
    scales: tuple[str, ...]
    said: str = ""
    noise: int | None = None
    expected: dict[str, tuple[int, int]] = field(default_factory=dict)
    reference: Stimulus | None = None


def williams_square(size: int) -> list[list[int]]:
    """Return a balanced Latin square (Williams 1949).

    Every condition stands equally often in each place, and equally often right behind each other one.

    Args:
        size: Number of conditions.

    Returns:
        Orders of range(size): `size` of them, or twice as many if `size` is odd.
    """
    first = [0]
    for step in range(1, size):
        first.append((first[-1] + (step if step % 2 else -step)) % size)
    square = [[(condition + row) % size for condition in first] for row in range(size)]
    return square + [row[::-1] for row in square] if size % 2 and size > 1 else square


class Dealer:
    """Deals the pages of a test to its listeners."""

    def __init__(self, sounds: ListeningSet, design: TestDesign) -> None:
        """Sort the set's sounds into rows: one sound of each system for one item.

        Raises:
            DataError: The set has nothing to compare or to rate.
        """
        self.kind = design.design or sounds.manifest.design
        self.scales = tuple(scale.name for scale in sounds.manifest.scales)
        self._set, self._design = sounds, design
        self._systems = sounds.systems
        needed = 1 if self.kind == "acr" else 2
        rows = [row for item in sounds.manifest.items if item.kind == "test" for row in self._rows(item)]
        self._test = [row for row in rows if len(row) >= needed]
        if not self._test:
            raise DataError(f"no item of the set has {needed} sounds or more of different systems; curate more")

    def pages(self, number: int) -> list[Page]:
        """Lay out the test of one listener: training first, then the rest with gold and trap items scattered in it.

        Rows are dealt in turn, so that all gather answers at the same pace; each time that a row is dealt, its
        systems come in the next order of a Williams square.

        Args:
            number: The how-manieth listener this is, from 0.
        """
        rng = random.Random(f"{self._design.seed}/{number}")
        pages, dealt = self._rated(number, rng)
        pool = [row for row in self._test if id(row) not in dealt] or self._test
        gold = self._special("gold") or [self._gold(rng.choice(pool), rng) for _ in range(self._design.gold)]
        traps = self._special("trap") or [self._trap(rng.choice(pool), rng) for _ in range(self._design.traps)]
        for page in (*rng.sample(gold, min(len(gold), self._design.gold)), *traps[: self._design.traps]):
            pages.insert(rng.randint(1, len(pages)), page)
        return [*self._training(pool, rng), *pages]

    def _rows(self, item: Item) -> list[dict[str, Stimulus]]:
        """Return one sound of each system, then the next of each that has another, and so on."""
        rows: list[dict[str, Stimulus]] = []
        for stimulus in self._set.of_item(item.id):
            row = next((row for row in rows if stimulus.system not in row), None)
            if row is None:
                rows.append(row := {})
            row[stimulus.system] = stimulus
        return rows

    def _rated(self, number: int, rng: random.Random) -> tuple[list[Page], set[int]]:
        """Return the pages that count, and the identities of the rows they are of."""
        rows, square = self._test, williams_square(len(self._systems))
        per_row = len(self._systems) if self.kind == "acr" else 1
        wanted = self._design.items_per_listener // per_row if self._design.items_per_listener else len(rows)
        share = min(max(wanted, 1), len(rows))
        rounds: list[list[Page]] = []
        dealt = set()
        for place in range(number * share, (number + 1) * share):
            turn, index = divmod(place, len(rows))
            order = [self._systems[i] for i in square[(turn + index) % len(square)]]
            pages = self._of_row([rows[index][name] for name in order if name in rows[index]])
            rounds += [[] for _ in range(len(pages) - len(rounds))]
            for heard, page in zip(rounds, pages, strict=False):
                heard.append(page)
            dealt.add(id(rows[index]))
        for heard in rounds:
            rng.shuffle(heard)
        return [page for heard in rounds for page in heard], dealt

    def _of_row(self, row: list[Stimulus], purpose: str = "rating") -> list[Page]:
        """Return what is asked about one row, one page for each round of the test."""
        make = partial(Page, purpose=purpose, item=row[0].item)
        if self.kind == "acr":
            return [make(sounds=(sound,), scales=self.scales) for sound in row]
        if self.kind == "preference":
            # The order of the row is balanced over listeners, and with it who is heard first in each pair.
            return [make(sounds=pair, scales=self.scales) for pair in combinations(row, 2)]
        reference = next((sound for sound in row if sound.role == "reference"), None)
        return [make(sounds=tuple(row), scales=(scale,), reference=reference) for scale in self.scales]

    def _special(self, kind: str) -> list[Page]:
        """Return the set's own items of a kind."""
        items = [item for item in self._set.manifest.items if item.kind == kind]
        pages = []
        for row in (row for item in items for row in self._rows(item)):
            for page in self._of_row(list(row.values()), kind):
                expected = {s: (int(low), int(high)) for s, (low, high) in page.sounds[0].expected.items()}
                pages.append(replace(page, expected=expected))
        return pages

    def _training(self, pool: list[dict[str, Stimulus]], rng: random.Random) -> list[Page]:
        """Return the set's training items, or pages of rows that this listener does not rate, where there are any."""
        own = self._special("training")
        if own:
            return own[: self._design.training]
        each = []
        for row in rng.sample(pool, len(pool)):
            pages = self._of_row(rng.sample(list(row.values()), len(row)), "training")
            each.append(pages)
        longest = max(map(len, each))
        spread = [pages[i] for i in range(longest) for pages in each if i < len(pages)]
        return spread[: self._design.training]

    def _gold(self, row: dict[str, Stimulus], rng: random.Random) -> Page:
        """Return an item with a known answer: under noise a sound is no good, and worse than the sound itself."""
        sound, scale = rng.choice(list(row.values())), self.scales[0]
        make = partial(Page, purpose="gold", item=sound.item)
        if self.kind == "acr":
            return make(sounds=(sound,), scales=self.scales, noise=0, expected={scale: (1, 2)})
        noise = rng.randrange(2)
        if self.kind == "preference":
            better = 2 - noise
            return make(sounds=(sound, sound), scales=self.scales, noise=noise, expected={scale: (better, better)})
        return make(sounds=(sound, sound), scales=(scale,), noise=noise, expected={scale: (0, 50)})

    def _trap(self, row: dict[str, Stimulus], rng: random.Random) -> Page:
        """Return an item that says which answer to give."""
        sounds = rng.sample(list(row.values()), 2 if self.kind == "preference" else 1)
        low, high = ANSWERS[self.kind]
        answer = 10 * rng.randint(1, 9) if self.kind == "mushra" else rng.randint(max(low, 1), high)
        slack = 2 if self.kind == "mushra" else 0
        said = f"sound {'AB'[answer - 1]}" if self.kind == "preference" else str(answer)
        return Page(
            purpose="trap",
            item=sounds[0].item,
            sounds=tuple(sounds),
            scales=self.scales[:1] if self.kind == "mushra" else self.scales,
            said=f"This one checks your attention: whatever you hear, please answer {said} to every question.",
            expected=dict.fromkeys(self.scales, (answer - slack, answer + slack)),
        )
