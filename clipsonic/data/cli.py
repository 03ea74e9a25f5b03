"""`python -m clipsonic prepare`: datasets into shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipsonic.data import pairs
from clipsonic.data.build import prepare
from clipsonic.data.debian import Settings
from clipsonic.packages import DEFAULT_CACHE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    defaults = Settings()
    parser.add_argument(
        "dataset",
        choices=["debian", "pairs"],
        help="debian: the small free corpus, out of Debian packages; pairs: pictures with names for CLIP and the prior",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards; an interrupted run goes on")
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="folder for the packages (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="same seed, same shards (default: %(default)s)")
    parser.add_argument(
        "--train-per-thing",
        type=int,
        default=defaults.train_per_thing,
        help="train videos a thing (default: %(default)s)",
    )
    parser.add_argument(
        "--test-per-thing", type=int, default=defaults.test_per_thing, help="test videos a thing (default: %(default)s)"
    )
    parser.add_argument(
        "--things", nargs="+", default=[], metavar="LABEL", help="only these things, such as 'dog barking'"
    )


def run(args: argparse.Namespace) -> int:
    """Prepare the dataset; return the exit status."""
    if args.dataset == "pairs":
        return pairs.run(args)
    settings = Settings(
        seed=args.seed,
        train_per_thing=args.train_per_thing,
        test_per_thing=args.test_per_thing,
        things=tuple(args.things),
    )
    index = prepare(args.out, settings, cache=args.cache, workers=max(1, args.workers))
    print(f"wrote {', '.join(f'{count} {split}' for split, count in index.counts.items())} samples to {args.out}")
    return 0
