"""What the model at hand can do, so that the page offers nothing it lacks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from clipsonic.checkpoint import ModelFolder
from clipsonic.errors import ClipSonicError
from clipsonic.methods import methods_of


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What the page may offer.

    Attributes:
        methods: Those the model has the parts for, in the order of `METHODS`.
        scores: Whether sounds get a Clip-Score, so that candidates can be ranked.
    """

    methods: tuple[str, ...] = ("iq", "zs", "pd")
    scores: bool = False

    @classmethod
    def of(cls, parts: Collection[str]) -> Self:
        """Return what a model of these parts can do."""
        return cls(methods=methods_of(parts), scores="audio_clip" in parts)

    @classmethod
    def ask(cls, model: str) -> Self:
        """Open a model, which reads its index and none of its weights, and return what it can do.

        Args:
            model: Its folder or hub repository.

        Returns:
            The defaults if the model cannot be opened: every request then says what is wrong with it.
        """
        try:
            return cls.of(ModelFolder.open(model).index.parts)
        except ClipSonicError as error:
            print(f"clipsonic: {error}", flush=True)
            return cls()
