"""`python -m clipsonic train PART`: one command for every part."""

from __future__ import annotations

import argparse
import importlib
import inspect
from pathlib import Path
from typing import Any

PARTS = ("clip", "prior", "denoiser", "vocoder", "audio-clip")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `train`."""
    parser.add_argument("part", choices=PARTS, help="the part of the model to train")
    parser.add_argument("--config", default="mini", help="a recipe's name (tiny, mini) or a JSON file")
    parser.add_argument("--data", type=Path, required=True, help="folder of shards that `prepare` wrote")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write; also holds what --resume needs")
    parser.add_argument("--base", type=Path, help="model folder that the other parts are taken from")
    parser.add_argument("--init-from", type=Path, help="model folder whose part the training goes on from (denoiser)")
    parser.add_argument("--name", help="name of the model that --out becomes; the folder's if not given")
    parser.add_argument("--max-steps", type=int, help="steps to train; the recipe's number if not given")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")


def run(args: argparse.Namespace) -> int:
    """Train the part, then make `--out` a whole model folder; return the exit status."""
    from clipsonic.training.loop import Trainer, copy_other_parts, processes
    from clipsonic.training.recipe import Recipe

    part = args.part.replace("-", "_")
    recipe = Recipe.find(part, args.config, max_steps=args.max_steps)
    with processes().main_process_first():  # the first fills the caches, the others read them
        task = build_task(part, recipe, args.data, args.base, args.init_from)
    trainer = Trainer(task, recipe.training, args.out)
    if args.resume:
        trainer.resume()
    if args.base is not None and trainer.accelerator.is_main_process:
        copy_other_parts(args.base, args.out, task.part)
    trainer.run()
    if trainer.accelerator.is_main_process:
        finish(args.out, args.name or args.out.resolve().name)
    trainer.accelerator.wait_for_everyone()
    return 0


def finish(folder: Path, name: str) -> None:
    """Write `model_index.json` once every part is there; until then say what is still to be trained."""
    from clipsonic.checkpoint import REQUIRED_PARTS, write_index

    if missing := [part for part in REQUIRED_PARTS if not (folder / part).is_dir()]:
        print(f"{folder} still lacks {', '.join(missing)}: train them with --base {folder}, or give --base next time")
    else:
        write_index(folder, name)


def build_task(part: str, recipe: Any, data: Path, base: Path | None, init_from: Path | None = None) -> Any:
    """Return the `Task` of a part; each module of that name in this package has a `build(recipe, data, base)`.

    Raises:
        ConfigError: `init_from` is given for a part that always begins anew.
    """
    build = importlib.import_module(f"clipsonic.training.{part}").build
    if init_from is None:
        return build(recipe, data, base)
    if "init_from" not in inspect.signature(build).parameters:
        from clipsonic.errors import ConfigError

        raise ConfigError(f"--init-from does not work for {part}; only the denoiser can go on from another model")
    return build(recipe, data, base, init_from)
