"""`python -m clipsonic evaluate-figures`: figures that a test takes again within seconds, from what the project ships.

The example pictures and their things' prompts are all it needs. They show the modality gap: how far CLIP embeds a
prompt from the picture of the same thing, and how much nearer the prior brings it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipsonic.config import GenerationSettings
from clipsonic.errors import DataError
from clipsonic.evaluation.card import check_card, replace_between
from clipsonic.evaluation.corpus import read_pairs
from clipsonic.evaluation.report import Interval
from clipsonic.evaluation.sets import canonical_prompts
from clipsonic.media import open_picture
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.storage import write_text

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "LICENSES.csv"
MARK = "figures"
RESAMPLES = 1000
SOUNDS, STEPS = 4, 2
"""Clip-Scores are taken of so few sounds, in so few steps and without guidance, that a test has time for them."""
PRIOR_STEPS, PRIOR_GUIDANCE = 10, 2.0
MEANINGS = {
    "text to picture, cosine": "prompt and picture of one thing in CLIP's space",
    "prior to picture, cosine": "the same after the prior drew an image embedding from the prompt",
    "text to picture, gap": "distance between the mean of the prompts and the mean of the pictures",
    "prior to picture, gap": "the same after the prior",
    "text to picture, R@1": "prompts whose nearest picture is of their thing",
    "prior to picture, R@1": "the same after the prior",
    "IQ, Clip-Score": f"cosine of {SOUNDS} sounds, of {STEPS} steps without guidance, to their pictures",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `evaluate-figures`."""
    parser.add_argument("--model", default="checkpoints/mini", help="model folder or hub repository")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--card", type=Path, nargs="+", default=[], help=f"Markdown files with {MARK} markers")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or mps (cpu)")


def run(args: argparse.Namespace) -> int:
    """Measure, write the file, and print the figures; return the exit status."""
    for card in args.card:
        check_card(card, MARK)
    pipeline = ClipSonicPipeline.from_pretrained(args.model, device=args.device)
    figures = measure(pipeline)
    values = {"model_sha256": pipeline.folder.sha256, "figures": {name: asdict(v) for name, v in figures.items()}}
    write_text(args.out, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    for card in args.card:
        replace_between(card, table(figures), MARK)
    print(table(figures))
    return 0


@torch.inference_mode()
def measure(pipeline: ClipSonicPipeline, pictures: Path = EXAMPLES) -> dict[str, Interval]:
    """Take the figures.

    Args:
        pipeline: The model.
        pictures: CSV file with file,label beside a folder `pictures`.

    Returns:
        Those of `MEANINGS` that the model has the parts for, with 95 % bootstrap intervals over pictures.

    Raises:
        DataError: There are fewer than five pictures.
    """
    pairs = list(read_pairs(pictures, "file"))
    if len(pairs) < 5:
        raise DataError(f"{pictures} names {len(pairs)} pictures; at least 5 are needed")
    opened = [open_picture(pictures.parent / "pictures" / file) for file, _ in pairs]
    labels = [label for _, label in pairs]
    prompts = canonical_prompts(labels)
    settings, clip = GenerationSettings(), pipeline.folder.part("clip")
    images = torch.cat([clip.encode_images([picture]).cpu() for picture in opened])
    texts = torch.cat([clip.encode_text([settings.template.replace("{}", prompts[x])]).cpu() for x in labels])
    found = _compare("text", texts, images, labels)
    if "pd" in pipeline.methods:
        found |= _compare("prior", _draw(pipeline, texts), images, labels)
    if "audio_clip" in pipeline.folder.index.parts:
        quick: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 1.0}
        output = pipeline(image=tuple(opened[:SOUNDS]), settings=settings, methods=("iq",), **quick)
        scores = np.array([audio.score for audio in output.audios], dtype=np.float64)
        found["IQ, Clip-Score"] = _interval(lambda rows: float(scores[rows].mean()), len(scores))
    return found


def _draw(pipeline: ClipSonicPipeline, texts: Tensor) -> Tensor:
    """Return what the prior draws from each text, L2-normalised, one seed a text."""
    with pipeline.folder.accelerator.autocast():
        drawn = pipeline.folder.part("prior").sample(
            texts,
            num_inference_steps=PRIOR_STEPS,
            guidance_scale=PRIOR_GUIDANCE,
            generators=[torch.Generator().manual_seed(row) for row in range(len(texts))],
        )
    return torch.nn.functional.normalize(drawn.float(), dim=-1).cpu()


def _compare(name: str, queries: Tensor, images: Tensor, labels: list[str]) -> dict[str, Interval]:
    """Return cosine, gap and R@1 of queries to the pictures of the same rows."""
    cosines = (queries * images).sum(1).numpy()
    nearest = (queries @ images.T).argmax(1).tolist()
    hits = np.array([float(labels[column] == label) for column, label in zip(nearest, labels, strict=True)])

    def gap(rows: np.ndarray) -> float:
        return float((queries[rows].mean(0) - images[rows].mean(0)).norm())

    return {
        f"{name} to picture, cosine": _interval(lambda rows: float(cosines[rows].mean()), len(labels)),
        f"{name} to picture, gap": _interval(gap, len(labels)),
        f"{name} to picture, R@1": _interval(lambda rows: float(hits[rows].mean()), len(labels)),
    }


def _interval(statistic: Callable[[np.ndarray], float], count: int) -> Interval:
    """Return a statistic of all rows with the spread of its bootstrap, moved to lie around it."""
    rng = np.random.default_rng(0)
    draws = [statistic(rng.integers(0, count, count)) for _ in range(RESAMPLES)]
    value = statistic(np.arange(count))
    low, high = np.percentile(draws, [2.5, 97.5]) - np.mean(draws)
    return Interval(value=value, low=value + float(low), high=value + float(high), n=count)


def table(figures: dict[str, Interval]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| figure | value | n | what |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {value} | {value.n} | {MEANINGS[name]} |" for name, value in figures.items()]
    return "\n".join(lines)
