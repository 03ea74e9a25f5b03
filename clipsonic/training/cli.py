"""`python -m clipsonic train PART`: one command for every part."""

from __future__ import annotations

import argparse
import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsonic.errors import ConfigError

if TYPE_CHECKING:
    from clipsonic.checkpoint import PartEntry
    from clipsonic.training.recipe import Recipe

PARTS = ("clip", "prior", "denoiser", "refiner", "vocoder", "audio-clip", "memory", "condition")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `train`."""
    parser.add_argument("part", choices=PARTS, help="the part of the model to train")
    parser.add_argument("--config", default="mini", help="a recipe's name (tiny, mini) or a JSON file")
    parser.add_argument("--data", type=Path, help="folder of shards, or of pairs, that `prepare` wrote")
    parser.add_argument("--out", type=Path, help="model folder to write; also holds what --resume needs")
    parser.add_argument("--base", type=Path, help="model folder that the other parts are taken from")
    parser.add_argument(
        "--init-from", type=Path, help="model folder whose part the training goes on from (denoiser, refiner)"
    )
    parser.add_argument("--name", help="name of the model that --out becomes; the folder's if not given")
    parser.add_argument("--max-steps", type=int, help="steps to train; the recipe's number if not given")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    parser.add_argument("--dry-run", action="store_true", help="only say what it would cost (denoiser, prior)")


def run(args: argparse.Namespace) -> int:
    """Train the part, then make `--out` a whole model folder; return the exit status."""
    if args.part == "memory":
        return _remember(args)
    from clipsonic.training.loop import Trainer, copy_other_parts, processes
    from clipsonic.training.recipe import Recipe

    part = args.part.replace("-", "_")
    recipe = Recipe.find(part, args.config, max_steps=args.max_steps)
    if args.dry_run:
        return _dry_run(part, recipe)
    if missing := [name for name in ("data", "out") if getattr(args, name) is None]:
        raise ConfigError(f"training needs --{' and --'.join(missing)}; only --dry-run goes without")
    base = args.base if args.base or "clip" not in recipe.parts else _write_clip(recipe.parts["clip"], args.out)
    with processes().main_process_first():  # the first fills the caches, the others read them
        task = build_task(part, recipe, args.data, base, args.init_from)
    trainer = Trainer(task, recipe.training, args.out)
    if args.resume:
        trainer.resume()
    if base is not None and trainer.accelerator.is_main_process:
        copy_other_parts(base, args.out, task.replaces)
    trainer.run()
    if trainer.accelerator.is_main_process:
        finish(args.out, args.name or args.out.resolve().name, remote_parts(recipe.parts, base, task.replaces))
    trainer.accelerator.wait_for_everyone()
    return 0


def _remember(args: argparse.Namespace) -> int:
    """Fill the picture memory, which takes no recipe and no steps."""
    from clipsonic.training.loop import copy_other_parts
    from clipsonic.training.memory import PART, has_ears, remember

    if missing := [name for name in ("data", "base", "out") if getattr(args, name) is None]:
        raise ConfigError(f"the memory needs --{' and --'.join(missing)}")
    if args.resume or args.dry_run or args.init_from or args.max_steps is not None:
        raise ConfigError("the memory is filled at once; leave out --resume, --dry-run, --init-from and --max-steps")
    memory = remember(args.data, args.base, args.out)
    copy_other_parts(args.base, args.out, (PART,))
    alike = (
        "of videos that look and sound alike"
        if has_ears(args.base)
        else "each a video's own: the base has no audio_clip"
    )
    print(f"{args.out / PART} remembers {memory.config.size:,} pictures, {alike}")
    finish(args.out, args.name or args.out.resolve().name, remote_parts({}, args.base, (PART,)))
    return 0


def _dry_run(part: str, recipe: Recipe) -> int:
    """Print what the training would take."""
    from clipsonic.training.dry_run import describe

    rows = describe(part, recipe)
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))
    return 0


def _write_clip(values: dict[str, Any], out: Path) -> Path:
    """Write the CLIP part that a recipe names into the new model and return that as the base."""
    from clipsonic.config import ClipConfig
    from clipsonic.storage import CONFIG_NAME, write_text

    write_text(out / "clip" / CONFIG_NAME, ClipConfig.from_dict(values).to_json())
    return out


def remote_parts(parts: dict[str, Any], base: Path | None, replaced: Sequence[str]) -> dict[str, PartEntry]:
    """Return the parts that live on the hub: those of the base, and those a recipe names that the base lacks."""
    from clipsonic.checkpoint import INDEX_NAME, ModelIndex, PartEntry

    remote = {name: PartEntry.from_dict(values) for name, values in parts.items() if name != "clip"}
    if base is not None and (base / INDEX_NAME).is_file():
        index = ModelIndex.load(base / INDEX_NAME)
        remote |= {name: index.entry(name) for name in index.parts if index.entry(name).repo}
    here = () if base is None else tuple(path.name for path in base.iterdir() if path.is_dir())
    return {name: entry for name, entry in remote.items() if name not in (*replaced, *here)}


def finish(folder: Path, name: str, remote: Mapping[str, PartEntry] | None = None) -> None:
    """Write `model_index.json` once every part is there; until then say what is still to be trained."""
    from clipsonic.checkpoint import REQUIRED_PARTS, write_index

    remote = remote or {}
    if missing := [part for part in REQUIRED_PARTS if not (folder / part).is_dir() and part not in remote]:
        print(f"{folder} still lacks {', '.join(missing)}: train them with --base {folder}, or give --base next time")
    else:
        write_index(folder, name, remote=remote)


def build_task(part: str, recipe: Any, data: Path, base: Path | None, init_from: Path | None = None) -> Any:
    """Return the `Task` of a part; each module of that name in this package has a `build(recipe, data, base)`.

    Raises:
        ConfigError: `init_from` is given for a part that always begins anew.
    """
    build = importlib.import_module(f"clipsonic.training.{part}").build
    if init_from is None:
        return build(recipe, data, base)
    if "init_from" not in inspect.signature(build).parameters:
        raise ConfigError(
            f"--init-from does not work for {part}; only the denoiser and the refiner can go on from another model"
        )
    return build(recipe, data, base, init_from)
