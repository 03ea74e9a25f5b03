"""Recipes: the JSON files in `configs/` that say what to train and how."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipsonic.config import Config, TrainingConfig
from clipsonic.errors import ConfigError

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True, kw_only=True)
class Recipe(Config):
    """One training: the loop's settings, the model's, and the task's own."""

    training: TrainingConfig
    model: dict = field(default_factory=dict)
    task: dict = field(default_factory=dict)
    parts: dict = field(default_factory=dict)
    """Parts that a new model takes from elsewhere if no --base is given: "clip" as a `ClipConfig`, "vocoder" and
    "prior" as a `PartEntry` of a repository on the hub."""

    @classmethod
    def find(cls, part: str, name_or_file: str, **training_overrides: Any) -> Recipe:
        """Read `configs/PART-NAME.json`, or a file of the user's; overrides that are None change nothing.

        Raises:
            ConfigError: There is no such recipe, or it has a misspelt or missing key.
        """
        path = Path(name_or_file)
        if not path.is_file():
            path = CONFIGS / f"{part}-{name_or_file}.json"
        if not path.is_file():
            known = sorted(p.stem.removeprefix(f"{part}-") for p in CONFIGS.glob(f"{part}-*.json"))
            raise ConfigError(f"no recipe {name_or_file!r} for {part}; allowed: a JSON file or {', '.join(known)}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            given = {k: v for k, v in training_overrides.items() if v is not None}
            return cls.from_dict({**values, "training": {**values["training"], **given}})
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path}: {error}") from error
