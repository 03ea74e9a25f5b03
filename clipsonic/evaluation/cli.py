"""`python -m clipsonic evaluate`: how recognisable a model's sounds are."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsonic.config import GenerationSettings
from clipsonic.errors import SettingsError
from clipsonic.methods import METHODS

if TYPE_CHECKING:
    from clipsonic.evaluation.rows import Plan

SETS = ("corpus", "free-form", "pictures")
BASELINES = ("vocoder", "oracle", "unconditional", "retrieval")
METRICS = ("fad", "clap", "clip", "kl", "accuracy", "judge", "copies", "diversity", "condition")
EMBEDDINGS = ("aisfx", "vggish", "clap", "panns")
_RESERVED = ("real", "chance", "retrieval-iq", "retrieval-zs", *METHODS, *BASELINES)
ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "--sampler": "sampler",
    "--steps": "num_inference_steps",
    "--guidance-scale": "guidance_scale",
    "--prior-steps": "prior_num_inference_steps",
    "--prior-guidance-scale": "prior_guidance_scale",
    "--template": "template",
    "--candidates": "candidates",
}
"""Flags that set a field of `GenerationSettings`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `evaluate`."""
    defaults = GenerationSettings()
    parser.add_argument("--model", default="checkpoints/mini", help="model folder or hub repository")
    parser.add_argument("--data", type=Path, required=True, help="folder of shards that `prepare` wrote")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for report, plots, page and sounds; sounds that lie there already are not made again",
    )
    parser.add_argument(
        "--methods", nargs="+", choices=(*METHODS, *BASELINES), help="rows beside real and chance; all if not given"
    )
    parser.add_argument(
        "--metrics", nargs="+", choices=METRICS, help="all but clap, whose model comes from the hub, if not given"
    )
    parser.add_argument("--fad", choices=EMBEDDINGS, default="aisfx", help="embedding of the Fréchet distance (aisfx)")
    parser.add_argument("--clap-model", default="", help="CLAP: a folder or hub id (laion/clap-htsat-unfused)")
    parser.add_argument(
        "--extra", action="append", default=[], metavar="NAME=DIR", help="another system's sounds and their manifest"
    )
    parser.add_argument(
        "--system", action="append", default=[], metavar="NAME=MODEL[@METHOD]", help="another model, asked by zs"
    )
    parser.add_argument(
        "--card", action="append", default=[], type=Path, metavar="FILE", help="Markdown whose table is written anew"
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="what to ask for")
    parser.add_argument("--things", type=int, default=48, help="things of the corpus to ask for (48)")
    parser.add_argument("--seeds", type=int, default=4, help="sounds of each thing or prompt (4)")
    parser.add_argument("--limit", type=int, help="at most this many prompts and pictures of the other sets")
    parser.add_argument("--prompts", type=Path, help="CSV with prompt,label for the free-form set")
    parser.add_argument(
        "--pictures",
        type=Path,
        default=ROOT / "examples" / "LICENSES.csv",
        help="CSV with file,label beside a folder `pictures` (examples/LICENSES.csv)",
    )
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="SETTING=V,V",
        help="repeat every row for each value, such as guidance_scale=1,3,5; may be given more than once",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    for flag, name in SETTINGS.items():
        value = getattr(defaults, name)
        parser.add_argument(flag, dest=name, type=type(value), default=value, help=f"({value})")


def run(args: argparse.Namespace) -> int:
    """Evaluate, write the report and print its table; return the exit status."""
    plan = make_plan(args)
    from clipsonic.evaluation.card import check_card, update_card
    from clipsonic.evaluation.evaluation import evaluate

    for card in args.card:
        check_card(card)
    report = evaluate(plan)
    for card in args.card:
        update_card(card, args.out / "report.json")
    print(report.table())
    print(f"written to {args.out}: report.md, index.html", file=sys.stderr)
    return 0


def make_plan(args: argparse.Namespace) -> Plan:
    """Check the arguments.

    Raises:
        SettingsError: A number is out of range, a sweep names no setting, or a name cannot be a row's.
    """
    from clipsonic.evaluation.rows import Plan

    for name in ("things", "seeds", "limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise SettingsError(f"{name} is {value}; allowed: whole numbers from 1")
    base = GenerationSettings(**{name: getattr(args, name) for name in SETTINGS.values()})
    return Plan(
        model=args.model,
        data=args.data,
        out=args.out,
        methods=tuple(args.methods or ()),
        metrics=tuple(args.metrics or (name for name in METRICS if name != "clap")),
        sets=tuple(args.sets),
        things=args.things,
        seeds=args.seeds,
        limit=args.limit,
        prompts=args.prompts,
        pictures=args.pictures,
        device=args.device,
        settings=dict(sweep(base, args.sweep)),
        systems={name: _system(value) for name, value in _named(args.system, "--system NAME=MODEL", args.extra)},
        extras={name: Path(value) for name, value in _named(args.extra, "--extra NAME=DIR", args.system)},
        fad=args.fad,
        clap_model=args.clap_model,
    )


def _named(texts: Sequence[str], form: str, others: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield name and value of texts such as "AudioLDM=folder"."""
    taken = {text.partition("=")[0] for text in others} | set(_RESERVED)
    for text in texts:
        name, _, value = text.partition("=")
        if not value or not name.replace("-", "").isalnum() or not name.isascii() or name in taken:
            raise SettingsError(
                f"{form} came as {text!r}; allowed: a new name of letters, digits and hyphens, none of "
                f"{', '.join(_RESERVED)}"
            )
        taken.add(name)
        yield name, value


def _system(text: str) -> tuple[str, str]:
    model, _, method = text.rpartition("@") if "@" in text else (text, "", "zs")
    if method not in METHODS:
        raise SettingsError(f"the method of --system is {method!r}; allowed: {', '.join(METHODS)}")
    return model, method


def sweep(base: GenerationSettings, sweeps: Sequence[str]) -> Iterator[tuple[str, GenerationSettings]]:
    """Vary settings over every combination of the values asked for.

    Args:
        base: The settings that stay.
        sweeps: Texts such as "guidance_scale=1,3,5".

    Yields:
        A suffix that names the combination ("" without sweeps), and its settings.

    Raises:
        SettingsError: A text names no setting, or a value does not fit it.
    """
    axes = [_axis(base, text) for text in sweeps]
    for values in itertools.product(*axes):
        suffix = "".join(f" {name}={value}" for name, value in values)
        yield suffix, dataclasses.replace(base, **dict(values))


def _axis(base: GenerationSettings, text: str) -> list[tuple[str, Any]]:
    name, _, values = text.partition("=")
    if name not in SETTINGS.values() or not values:
        raise SettingsError(f"sweep is {text!r}; allowed: NAME=V,V with NAME one of {', '.join(SETTINGS.values())}")
    kind = type(getattr(base, name))
    try:
        return [(name, kind(value)) for value in values.split(",")]
    except ValueError as error:
        raise SettingsError(f"sweep is {text!r}; the values of {name} must be of type {kind.__name__}") from error
