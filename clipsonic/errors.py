"""What can go wrong, named: every error a user can cause is a `ClipSonicError`.

A message is one line that says what came, what is allowed and what to do.
"""


class ClipSonicError(Exception):
    """Any mistake that the caller can mend."""


class SettingsError(ClipSonicError, ValueError):
    """A setting is outside what is allowed: steps, guidance, sampler, method, seed."""


class PromptError(ClipSonicError, ValueError):
    """A prompt is empty, too long or not text."""


class MediaError(ClipSonicError, ValueError):
    """A picture, video or sound cannot be read, or is not what it says it is."""


class CheckpointError(ClipSonicError, OSError):
    """A model folder lacks a part, or its parts do not fit together."""


class DataError(ClipSonicError, ValueError):
    """A corpus, shard or manifest cannot be used."""


class ConfigError(ClipSonicError, ValueError):
    """A configuration has an unknown, missing or impossible value."""


class OutOfMemoryError(ClipSonicError, MemoryError):
    """The device has too little memory, even for one sound at a time."""


class OutputError(ClipSonicError, OSError):
    """A file cannot be written where it was asked for."""


class Cancelled(ClipSonicError):
    """The caller asked for the run to stop."""
