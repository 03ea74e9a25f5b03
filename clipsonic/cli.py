"""The command line: one subcommand a task, each in a module of its own that loads only when it is called."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from textwrap import shorten
from typing import NoReturn

from clipsonic import __version__
from clipsonic.errors import ClipSonicError

COMMANDS = {
    "generate": ("clipsonic.generate", "turn prompts and pictures into sound files"),
    "prepare": ("clipsonic.data.cli", "turn videos, or the free corpus, into training shards"),
    "train": ("clipsonic.training.cli", "train one part of a model"),
    "evaluate": ("clipsonic.evaluation.cli", "measure a model"),
    "evaluate-card": ("clipsonic.evaluation.card", "write a report's table into README and model card"),
    "evaluate-figures": ("clipsonic.evaluation.figures", "measure what a test can measure again within seconds"),
    "evaluate-vocoder": ("clipsonic.evaluation.vocoders", "measure a model's vocoder beside others"),
    "evaluate-audio-clip": ("clipsonic.evaluation.retrieval", "measure a model's audio encoder by retrieval"),
    "listen": ("clipsonic.listening.cli", "prepare a listening test and read its results"),
    "examples": ("clipsonic.examples", "make the sounds of the app's examples beforehand"),
    "info": ("clipsonic.benchmark", "say what runs here, and how fast"),
}
"""Each module has `add_arguments(parser)` and `run(args)`."""

USAGE_ERROR = 2
MAX_COMPLAINT = 300
"""Characters of argparse's message that are shown; it may quote a whole argument."""
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: {shorten(message, MAX_COMPLAINT)}; see {self.prog} --help\n")


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; only the named command's own arguments are filled in, for its module has to be imported."""
    parser = _Parser(prog="python -m clipsonic", description="Text and pictures to sound.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"clipsonic {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, (module, summary) in COMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        if name == command:
            import_module(module).add_arguments(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; those of the process if left out.

    Returns:
        The exit status: 0, or 2 for a user's mistake, which is told in one line on standard error.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((a for a in arguments if not a.startswith("-")), None)
    try:
        args = build_parser(command).parse_args(arguments)
        import_module(COMMANDS[args.command][0]).run(args)
    except ClipSonicError as error:
        print(f"python -m clipsonic: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("python -m clipsonic: stopped", file=sys.stderr)
        return INTERRUPTED
    return 0
