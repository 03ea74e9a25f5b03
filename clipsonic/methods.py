"""The ways to ask, and the parts of a model that each needs. No torch here."""

from __future__ import annotations

from collections.abc import Collection

TEXT_METHODS = ("zs", "pd", "sd", "mp")
IMAGE_METHODS = ("iq", "mq")
"""Of pictures and videos."""
AUDIO_METHODS = ("aq",)
METHODS = (*IMAGE_METHODS, *TEXT_METHODS, *AUDIO_METHODS)
PRIORS = {"pd": "prior", "sd": "supervised_prior"}
"""The prior that each method that has one draws from."""
NEEDS = {
    **{method: (prior,) for method, prior in PRIORS.items()},
    "mp": ("prior", "memory"),
    "mq": ("memory",),
    "aq": ("audio_clip",),
}
"""The parts beside the required ones that a method needs."""


def methods_of(parts: Collection[str]) -> tuple[str, ...]:
    """Return the methods that a model of these parts can do, in the order of `METHODS`."""
    return tuple(method for method in METHODS if set(NEEDS.get(method, ())) <= set(parts))
