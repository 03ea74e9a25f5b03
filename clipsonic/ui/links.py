"""Settings that travel: as an address that makes a sound again, and inside the sound's own file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from clipsonic.config import GenerationSettings
from clipsonic.errors import ConfigError, MediaError, SettingsError

DEFAULTS = GenerationSettings()
UNLINKED = ("methods", "num_audios")
"""A tab has its own methods, and a link stands for one sound."""


def link_to(tags: Mapping[str, str]) -> str:
    """Return the query part of the address that makes a sound again, "" for one that was not made from text alone.

    Args:
        tags: What the sound's file says of itself.
    """
    if "prompt" not in tags or any(kind in tags for kind in ("image", "video", "audio", "toward")):
        return ""
    settings, defaults = json.loads(tags["settings"]), DEFAULTS.to_dict()
    changed = {n: v for n, v in settings.items() if n not in UNLINKED and (n == "seed" or v != defaults[n])}
    return "?" + urlencode({"prompt": tags["prompt"], **changed})


def read_link(query: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the prompt and the settings of an address, ("", {}) if it asks for nothing.

    Raises:
        SettingsError: A value is not one that the setting can have.
    """
    prompt = query.get("prompt", "")
    if not prompt:
        return "", {}
    types = {field.name: type(getattr(DEFAULTS, field.name)) for field in dataclasses.fields(DEFAULTS)}
    values: dict[str, Any] = {}
    for name, text in query.items():
        if name not in types or name in UNLINKED:
            continue
        try:
            values[name] = types[name](text)
        except ValueError:
            raise SettingsError(f"{name} in the address is {text[:40]!r}, expected {types[name].__name__}") from None
    settings = dataclasses.replace(DEFAULTS, **values)
    return prompt, {name: getattr(settings, name) for name in values}


def read_file_settings(tags: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the prompt ("" if there was none) and the settings that a sound's file carries.

    Raises:
        MediaError: The file carries none.
        SettingsError: It carries some that cannot be.
    """
    if "settings" not in tags:
        raise MediaError("this file carries no settings of CLIPSonic; drop one that was saved here, unchanged")
    try:
        settings = GenerationSettings.from_dict(dict(json.loads(str(tags["settings"]))))
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, SettingsError):
            raise
        reason = str(error) if isinstance(error, ConfigError) else "they are not JSON"
        raise MediaError(f"the settings in this file cannot be used: {reason}") from error
    values = {name: value for name, value in settings.to_dict().items() if name != "methods"}
    return str(tags.get("prompt", "")), values
