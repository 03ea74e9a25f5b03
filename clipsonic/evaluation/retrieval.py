"""`python -m clipsonic evaluate-audio-clip`: whether held-out sounds find their picture and their name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from clipsonic.checkpoint import ModelFolder
from clipsonic.config import GenerationSettings
from clipsonic.device import Accelerator
from clipsonic.errors import DataError
from clipsonic.evaluation.corpus import PROMPTS, Held, choose_things, read_held, read_pairs
from clipsonic.evaluation.judge import bootstrap_mean
from clipsonic.evaluation.report import Interval, Report
from clipsonic.shards import read_labels

RANKS = (1, 5, 10)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `evaluate-audio-clip`."""
    parser.add_argument("--model", default="checkpoints/mini", help="model folder or hub repository with audio_clip")
    parser.add_argument("--data", type=Path, required=True, help="folder of shards that `prepare` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for report.md and report.json")
    parser.add_argument("--things", type=int, default=100, help="things to tell apart (100)")
    parser.add_argument("--seeds", type=int, default=4, help="held-out sounds of each thing, at most (4)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def run(args: argparse.Namespace) -> int:
    """Measure retrieval, write the report and print its table; return the exit status."""
    folder = ModelFolder.open(args.model, Accelerator.choose(args.device))
    things = choose_things(read_labels(args.data), args.things)
    if len(things) < 2:
        raise DataError(f"{args.data} has {len(things)} thing to tell apart; at least 2 are needed, prepare more data")
    report = evaluate(folder, read_held(args.data, things, args.seeds), things)
    report.write(args.out)
    print(report.table())
    return 0


def evaluate(folder: ModelFolder, held: Sequence[Held], things: Sequence[str]) -> Report:
    """Rank a picture of each thing, and the name of each thing, by their cosine to every held-out sound.

    Args:
        folder: A model with the part "audio_clip".
        held: The sounds, with a frame each; the first frame of each thing stands for it.
        things: What they are to be told apart by.

    Returns:
        Rows "sound to picture", "sound to text" and "chance", with R@1, R@5 and R@10 and 95 % intervals over things.
    """
    clip, listener = folder.part("clip"), folder.part("audio_clip")
    sounds = torch.cat(
        [listener.embed(torch.from_numpy(v.waveform)[None], v.sample_rate) for v in tqdm(held, disable=None)]
    )
    first = {video.label: video.frame for video in reversed(held)}
    pictures = torch.cat([clip.encode_images([first[thing]]).cpu() for thing in things])
    names = {label: prompt for prompt, label in read_pairs(PROMPTS / "canonical.csv", "prompt")}
    template = GenerationSettings().template
    texts = torch.cat([clip.encode_text([template.format(names.get(thing, thing))]).cpu() for thing in things])
    labels = [video.label for video in held]
    report = Report(settings={"model": folder.index.name, "model_sha256": folder.sha256, "things": list(things)})
    report.rows["sound to picture"] = recall(sounds @ pictures.T, labels, things)
    report.rows["sound to text"] = recall(sounds @ texts.T, labels, things)
    count = len(things)
    report.rows["chance"] = {
        f"R@{k}": Interval(value=min(1, k / count), low=min(1, k / count), high=min(1, k / count), n=len(held))
        for k in RANKS
    }
    report.settings["modality gap, sound to picture"] = (sounds.mean(dim=0) - pictures.mean(dim=0)).norm().item()
    return report


def recall(similarity: Tensor, labels: Sequence[str], things: Sequence[str]) -> dict[str, Interval]:
    """Return the share of sounds whose thing is among the k most similar, the mean over things with its interval.

    Args:
        similarity: Cosines, float32, shape (sounds, things).
        labels: What each sound is of.
        things: The columns.
    """
    own = torch.tensor([list(things).index(label) for label in labels])
    better = (similarity > similarity.gather(1, own[:, None])).sum(dim=1)
    present = [n for n in range(len(things)) if (own == n).any()]
    return {
        f"R@{k}": bootstrap_mean([(better[own == n] < k).float().mean().item() for n in present], len(labels))
        for k in RANKS
    }
