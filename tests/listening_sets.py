"""Small sample sets for tests, made without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from clipsonic.audio import write_audio
from clipsonic.listening.sets import File, Item, ListeningSet, Manifest, Stimulus

RATE = 16_000


def build_set(
    folder: Path,
    *,
    prompts: tuple[str, ...] = ("a dog barking", "church bells"),
    systems: tuple[str, ...] = ("zs", "pd"),
    seeds: int = 1,
    design: str = "acr",
    reference: bool = False,
    checks: bool = False,
    seconds: float = 0.5,
) -> ListeningSet:
    """Write a set of decaying tones, one pitch a stimulus; `checks` adds a training, a gold and a trap item."""
    items = [Item(id=f"p{n:03}", prompt=text) for n, text in enumerate(prompts, 1)]
    roles = dict.fromkeys(systems, "condition")
    if reference:
        roles |= {"reference": "reference", "anchor35": "anchor35"}
    stimuli = [
        Stimulus(
            id=f"{item.id}.{system}.s{seed}",
            item=item.id,
            system=system,
            role=role,
            method=system if system in ("zs", "pd") else "",
            seed=seed,
            settings={"guidance_scale": 3.0},
            model="tiny",
            model_sha256="0" * 64,
            score=0.25,
            licence="CC0-1.0",
        )
        for item in items
        for system, role in roles.items()
        for seed in (range(seeds) if role == "condition" else (0,))
    ]
    if checks:
        for kind, span in (("training", None), ("gold", [1, 2]), ("trap", [4, 4])):
            items.append(Item(id=f"{kind}1", kind=kind, prompt=f"a {kind} item"))
            expected = {} if span is None else {"fidelity": span, "relevance": span}
            stimuli.append(Stimulus(id=f"{kind}1.{kind}.s0", item=f"{kind}1", system=kind, expected=expected))
    key, seconds_axis = {}, np.arange(int(seconds * RATE)) / RATE
    for number, stimulus in enumerate(stimuli):
        wave = 0.3 * np.sin(2 * np.pi * (200 + 37 * number) * seconds_axis) * np.exp(-3 * seconds_axis)
        file = f"wavs/f{number * 7919 % 10007:07x}.wav"
        write_audio(folder / file, wave.astype(np.float32), RATE)
        key[file] = stimulus.id
    owner = {stimulus.id: stimulus.item for stimulus in stimuli}
    manifest = Manifest(
        title="A test of tones",
        items=tuple(items),
        stimuli=tuple(stimuli),
        files=tuple(File(file=file, item=owner[key[file]]) for file in sorted(key)),
        sample_rate=RATE,
        samples=len(seconds_axis),
        design=design,
    )
    listening_set = ListeningSet(folder, manifest, key)
    listening_set.save()
    return listening_set


def add_picture(folder: Path, name: str = "dog.jpg") -> Path:
    """Write a picture that is a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 48), "red").save(folder / name)
    return folder / name
