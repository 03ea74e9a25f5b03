"""What the model at hand can do, read from its index alone so that the page offers nothing it lacks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from clipsonic.config import METHODS

INDEX_NAME = "model_index.json"
NEEDS = {"pd": "prior", "sd": "supervised_prior", "aq": "audio_clip"}
"""The part that a method needs beside those that every model has."""


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
    def of(cls, parts: set[str]) -> Self:
        """Return what a model of these parts can do."""
        return cls(
            methods=tuple(method for method in METHODS if NEEDS.get(method, "clip") in parts),
            scores="audio_clip" in parts,
        )

    @classmethod
    def read(cls, model: str) -> Self:
        """Read a model's index, without opening any of its parts.

        Args:
            model: A folder, or the id of a repository on the hub.

        Returns:
            The defaults if the index cannot be read: the first request then says what is wrong with the model.
        """
        try:
            return cls.of(set(json.loads(_index_path(model).read_text(encoding="utf-8"))["parts"]) | {"clip"})
        except (OSError, ValueError, KeyError, TypeError):
            return cls()


def _index_path(model: str) -> Path:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder / INDEX_NAME
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(model, INDEX_NAME))
