"""A rating: what one listener said of one sound on one scale, wherever it was said."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from clipsonic.errors import DataError

PURPOSES = ("rating", "training", "gold", "trap")
DESIGNS = ("acr", "preference", "mushra")
RANGES = {"acr": (1.0, 5.0), "preference": (0.0, 1.0), "mushra": (0.0, 100.0)}
"""The lowest and highest value of a rating in each design."""


@dataclass(frozen=True, kw_only=True)
class Rating:
    """One row of the answers; the store, the importers and the statistics share it.

    Attributes:
        listener: Who; an opaque key, never a name.
        item: The id of the prompt or picture.
        stimulus: The id of the sound.
        system: The system that made it.
        scale: Such as "fidelity" or "relevance"; "quality" for MUSHRA pages.
        value: 1–5 (acr, whole numbers), 0–100 (mushra); for a preference 1 if `stimulus` was preferred, 0 if
            `other` was, 0.5 for neither.
        design: One of `DESIGNS`.
        other: The id of the sound it was compared with; only for a preference.
        other_system: The system that made that one.
        trial: The number of the page in this listener's order, from 1; all sounds of a MUSHRA page share it.
        seconds: Time spent, or None if not known.
        at: When, as ISO 8601 in UTC; empty if not known.
        purpose: One of `PURPOSES`; only "rating" counts towards a score. Gold and trap ratings screen listeners.
        low: For gold and trap ratings, the lowest value that one who pays attention gives.
        high: Likewise the highest.
    """

    listener: str
    item: str
    stimulus: str
    system: str
    scale: str
    value: float
    design: str = "acr"
    other: str = ""
    other_system: str = ""
    trial: int = 0
    seconds: float | None = None
    at: str = ""
    purpose: str = "rating"
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        """Check the design and the value.

        Raises:
            DataError: The design is unknown, the value is outside its range, or something is not named.
        """
        if self.design not in DESIGNS:
            raise DataError(f"design is {self.design!r}; allowed: {', '.join(DESIGNS)}")
        if self.purpose not in PURPOSES:
            raise DataError(f"purpose is {self.purpose!r}; allowed: {', '.join(PURPOSES)}")
        low, high = RANGES[self.design]
        number = self.value if isinstance(self.value, int | float) and not isinstance(self.value, bool) else math.nan
        whole = number == round(number) if math.isfinite(number) else False
        fits = {"acr": whole, "preference": number in (0, 0.5, 1), "mushra": True}[self.design]
        if not (low <= number <= high and fits):
            wanted = {"acr": "a whole number from 1 to 5", "preference": "0, 0.5 or 1", "mushra": "from 0 to 100"}
            raise DataError(f"a rating of {self.stimulus} is {self.value!r}; allowed: {wanted[self.design]}")
        for name in ("listener", "item", "stimulus", "system", "scale"):
            if not getattr(self, name):
                raise DataError(f"a rating has no {name}: {self.to_dict()}")
        if (self.design == "preference") != bool(self.other):
            raise DataError(f"`other` is {self.other!r}; a preference, and only that, names the sound compared with")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values by name, in the order of `RATING_COLUMNS`."""
        return asdict(self)


RATING_COLUMNS = tuple(f.name for f in fields(Rating))
