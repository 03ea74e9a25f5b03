"""Many ways to say what a picture shows, made from its name and the dictionary alone; no sound is involved."""

from __future__ import annotations

import re

from clipsonic.training.views import PictureName

EVALUATED = ("{}", "a photo of {}")
"""Templates that held-out figures are given for; a free prompt and the paper's form."""

_ANY = (
    "a photo of a {}",
    "a picture of a {}",
    "an illustration of {}",
    "the sound of a {}",
    "a {} making noise",
    "the noise of {}",
    "a {} can be heard",
)
_KINDS = (
    (re.compile(r"instrument|drum|percussion"), ("playing {}", "a person playing the {}", "{} music", "a {} solo")),
    (
        re.compile(
            r"animal|mammal|bird|breed|insect|rodent|canine|feline|domestic|monkey|dog|fowl|amphibian|bovine|horse"
        ),
        ("a {} calling", "the cry of a {}", "an animal, {}", "a {} in the wild"),
    ),
    (
        re.compile(r"vehicle|motor|aircraft|ship|vessel|boat|locomotive|carriage|engine|machine|craft"),
        ("a {} passing by", "the engine of a {}", "a {} running", "using a {}"),
    ),
    (
        re.compile(r"weather|storm|water|wind|rain|fire|atmospher|electric|flame"),
        ("{} outside", "{} falling", "listening to {}", "{} in nature"),
    ),
    (re.compile(r"tool|device|implement|weapon|equipment|apparatus|appliance"), ("using a {}", "someone with a {}")),
    (re.compile(r"person|someone|man|woman|child|people"), ("the voice of a {}", "{} talking", "a {} doing something")),
)


def captions_of(pair: PictureName) -> list[str]:
    """Return the captions of a picture, the evaluated ones of its first name first."""
    first = [template.format(pair.names[0]) for template in EVALUATED]
    about = f"{pair.gloss} {' '.join(pair.tags)}"
    kinds = [template for pattern, templates in _KINDS if pattern.search(about) for template in templates]
    more = [template.format(name) for name in pair.names for template in (*_ANY, *kinds)]
    others = [template.format(name) for name in pair.names[1:] for template in EVALUATED]
    described = [f"{pair.names[0]}, {', '.join(pair.tags)}"] if pair.tags else []
    if pair.gloss:
        described += [pair.gloss, f"{pair.names[0]}: {pair.gloss}"]
    return list(dict.fromkeys([*first, *others, *more, *described]))
