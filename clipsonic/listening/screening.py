"""Whose ratings count: listeners who fail the checks of attention are left out, and the report says who and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from clipsonic.listening.ratings import Rating

MAX_FAILED_CHECKS = 0.25
"""A listener may fail so large a share of the gold and trapping items."""
MAX_FAILED_REFERENCES = 0.15
LOWEST_REFERENCE = 90.0
"""ITU-R BS.1534-3, section 4.1.2: out who rates the hidden reference below 90 in more than 15 % of the trials."""


@dataclass(frozen=True, kw_only=True)
class Screened:
    """A listener who was left out.

    Attributes:
        listener: Who.
        reason: Why, in words with numbers.
    """

    listener: str
    reason: str


def screen(ratings: Sequence[Rating], references: frozenset[str] = frozenset()) -> tuple[list[Rating], list[Screened]]:
    """Separate the ratings that count from the listeners who were not attentive.

    Args:
        ratings: All ratings, those of gold and trapping items among them.
        references: The stimuli that are hidden references; they screen listeners of a MUSHRA test.

    Returns:
        The ratings of purpose "rating" of the remaining listeners, and who was left out.
    """
    screened = [*_by_checks(ratings), *_by_references(ratings, references)]
    out = {entry.listener for entry in screened}
    kept = [rating for rating in ratings if rating.purpose == "rating" and rating.listener not in out]
    return kept, sorted(screened, key=lambda entry: entry.listener)


def _by_checks(ratings: Sequence[Rating]) -> list[Screened]:
    """Judge listeners by gold and trapping items; one wrong scale fails the item, a training item judges nobody."""
    results: dict[str, dict[tuple[str, str, int], bool]] = defaultdict(dict)
    for rating in ratings:
        if rating.purpose in ("gold", "trap") and (rating.low is not None or rating.high is not None):
            low = rating.value if rating.low is None else rating.low
            high = rating.value if rating.high is None else rating.high
            check = (rating.purpose, rating.stimulus, rating.trial)
            right = low <= rating.value <= high
            results[rating.listener][check] = results[rating.listener].get(check, True) and right
    out = []
    for listener, checks in results.items():
        failed = [purpose for (purpose, _, _), right in checks.items() if not right]
        if len(failed) > MAX_FAILED_CHECKS * len(checks):
            kinds = " and ".join(f"{failed.count(kind)} {kind}" for kind in ("gold", "trap") if kind in failed)
            out.append(Screened(listener=listener, reason=f"failed {kinds} of {len(checks)} checks of attention"))
    return out


def _by_references(ratings: Sequence[Rating], references: frozenset[str]) -> list[Screened]:
    values: dict[str, list[float]] = defaultdict(list)
    for rating in ratings:
        if rating.design == "mushra" and rating.purpose == "rating" and rating.stimulus in references:
            values[rating.listener].append(rating.value)
    out = []
    for listener, given in values.items():
        low = sum(value < LOWEST_REFERENCE for value in given)
        if low > MAX_FAILED_REFERENCES * len(given):
            reason = f"rated the hidden reference below {LOWEST_REFERENCE:g} in {low} of {len(given)} trials"
            out.append(Screened(listener=listener, reason=reason))
    return out
