"""`python -m clipsonic listen`: curate, verify, export, import and analyze a listening test."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from clipsonic.config import GenerationSettings
from clipsonic.errors import DataError, SettingsError
from clipsonic.methods import IMAGE_METHODS, TEXT_METHODS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=type(parser))
    _curate_arguments(commands.add_parser("curate", help="make candidates and build a sample set", allow_abbrev=False))
    verify = commands.add_parser("verify", help="say what is wrong with a sample set", allow_abbrev=False)
    verify.add_argument("set", type=Path, metavar="SET", help="its folder or zip")
    export = commands.add_parser("export", help="write a set for another tool", allow_abbrev=False)
    export.add_argument("set", type=Path, metavar="SET")
    export.add_argument("--to", choices=("webmushra", "beaqle", "p808"), required=True)
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.add_argument("--url", default="", help="where the clips will be found (p808)")
    import_ = commands.add_parser("import", help="read answers from another tool", allow_abbrev=False)
    import_.add_argument("set", type=Path, metavar="SET")
    import_.add_argument("files", type=Path, nargs="+", metavar="FILE", help="CSV of webMUSHRA, pymushra or P.808")
    import_.add_argument("--listener", default="", metavar="COLUMN", help="the column that tells listeners apart")
    import_.add_argument("--scale", default="", help="what was judged, where the file does not say")
    analyze = commands.add_parser("analyze", help="compute MOS, tests and a report", allow_abbrev=False)
    analyze.add_argument("set", type=Path, metavar="SET")
    analyze.add_argument("--out", type=Path, required=True, metavar="DIR")


def _curate_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = GenerationSettings()
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a prompt a line, or CSV with prompt,picture")
    parser.add_argument("--image", type=Path, nargs="+", action="extend", default=[], metavar="PICTURE")
    parser.add_argument(
        "--methods", nargs="*", choices=(*IMAGE_METHODS, *TEXT_METHODS), default=["zs", "pd"], metavar="METHOD"
    )
    parser.add_argument("--seeds", type=int, default=1, help="sounds of each item and system in the test (1)")
    parser.add_argument("--candidates", type=int, default=1, help="sounds to choose each of them from (1)")
    parser.add_argument("--system", action="append", default=[], metavar="NAME=DIR", help="another system's sounds")
    parser.add_argument("--reference", default="", metavar="NAME", help="the system that is real recordings")
    parser.add_argument("--anchors", action="store_true", help="add the reference low-passed at 3.5 and 7 kHz")
    parser.add_argument("--design", choices=("acr", "preference", "mushra"), default="acr")
    parser.add_argument("--title", default="Listening test")
    parser.add_argument("--duration", type=float, default=0.0, help="seconds of every sound; the longest's if left out")
    parser.add_argument("--loudness", type=float, default=-23.0, help="LUFS of every sound (-23)")
    parser.add_argument("--gold", type=int, default=0, help="gold items to add (0)")
    parser.add_argument("--traps", type=int, default=0, help="trapping items to add (0)")
    parser.add_argument("--licence", default="", help="of the model's sounds")
    parser.add_argument("--out", type=Path, required=True, metavar="SET", help="the set's folder; a second run goes on")
    parser.add_argument("--zip", type=Path, metavar="FILE", help="also pack the set")
    parser.add_argument("--model", default="checkpoints/mini", help="a model folder or hub repository (%(default)s)")
    parser.add_argument("--sampler", default=defaults.sampler)
    parser.add_argument("--steps", type=int, default=defaults.num_inference_steps)
    parser.add_argument("--guidance-scale", type=float, default=defaults.guidance_scale)
    parser.add_argument("--prior-steps", type=int, default=defaults.prior_num_inference_steps)
    parser.add_argument("--prior-guidance-scale", type=float, default=defaults.prior_guidance_scale)
    parser.add_argument("--negative-prompt", default=defaults.negative_prompt)
    parser.add_argument("--template", default=defaults.template)
    parser.add_argument("--seed", type=int, default=defaults.seed, help="the first (0)")
    parser.add_argument("--device", default="auto")


def run(args: argparse.Namespace) -> None:
    """Run one sub-command."""
    actions = {"curate": _curate, "verify": _verify, "export": _export, "import": _import, "analyze": _analyze}
    actions[args.action](args)


def _curate(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from clipsonic.listening.archive import pack
    from clipsonic.listening.build import build
    from clipsonic.listening.curate import Curation
    from clipsonic.listening.plan import Plan, System, read_queries
    from clipsonic.pipeline import ClipSonicPipeline

    queries = read_queries(args.prompts, args.image)
    asked = {kind for query in queries for kind in ("prompt", "picture") if getattr(query, kind)}
    methods = tuple(m for m in args.methods if ("picture" if m in IMAGE_METHODS else "prompt") in asked)
    if asked == {"picture"} and not methods and args.methods == ["zs", "pd"]:
        methods = ("iq",)
    settings = GenerationSettings(
        methods=methods or ("zs",),
        sampler=args.sampler,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
        negative_prompt=args.negative_prompt,
        prior_num_inference_steps=args.prior_steps,
        prior_guidance_scale=args.prior_guidance_scale,
        template=args.template,
        seed=args.seed,
    )
    plan = Plan(
        title=args.title,
        queries=queries,
        methods=methods,
        seeds=args.seeds,
        candidates=args.candidates,
        settings=settings,
        systems=tuple(System(name=name, folder=folder) for name, folder in map(_name_and_folder, args.system)),
        reference=args.reference,
        anchors=args.anchors,
        design=args.design,
        duration_s=args.duration,
        loudness_lufs=args.loudness,
        gold=args.gold,
        traps=args.traps,
        licence=args.licence,
    )
    curation = Curation.create(args.out, plan)
    pipeline = ClipSonicPipeline.from_pretrained(args.model, device=args.device) if methods else None
    with tqdm(desc="curating", unit="cell", disable=not sys.stderr.isatty()) as bar:

        def show(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        curation.generate(pipeline, show)
    made = build(curation)
    for note in made.manifest.notes:
        print(note, file=sys.stderr)
    if args.zip:
        pack(made, args.zip)
    print(f"{args.out}: {len(plan.queries)} items, {len(made.systems)} systems, {len(made.key)} sounds")


def _name_and_folder(text: str) -> tuple[str, str]:
    name, _, folder = text.partition("=")
    if not (name and folder):
        raise SettingsError(f"the system is {text!r}; allowed: NAME=DIR")
    return name, folder


def _verify(args: argparse.Namespace) -> None:
    """Print every fault in a line of its own; a fault is a user's mistake, exit status 2."""
    from clipsonic.listening.archive import unpack
    from clipsonic.listening.verify import verify

    with tempfile.TemporaryDirectory() as temporary:
        folder = args.set
        if folder.is_file():
            folder = Path(temporary) / "set"
            unpack(args.set, folder)
        faults = verify(folder)
    for fault in faults:
        print(fault)
    if faults:
        raise DataError(f"{args.set} has {len(faults)} fault{'s' if len(faults) > 1 else ''}; mend or curate it again")
    print(f"{args.set} is whole")


def _export(args: argparse.Namespace) -> None:
    from clipsonic.listening.exports import export_beaqle, export_p808, export_webmushra
    from clipsonic.listening.verify import check_whole

    listening_set = check_whole(args.set)
    if args.to == "p808":
        print(export_p808(listening_set, args.out, args.url))
    else:
        print({"webmushra": export_webmushra, "beaqle": export_beaqle}[args.to](listening_set, args.out))


def _import(args: argparse.Namespace) -> None:
    from clipsonic.listening.imports import import_file, read_file
    from clipsonic.listening.sets import ListeningSet

    listening_set = ListeningSet.load(args.set)
    for path in args.files:
        read_file(listening_set, path, listener=args.listener, scale=args.scale)  # all must be good before one is kept
    for path in args.files:
        ratings = import_file(listening_set, path, listener=args.listener, scale=args.scale)
        print(f"{path}: {len(ratings)} ratings by {len({rating.listener for rating in ratings})} listeners")


def _analyze(args: argparse.Namespace) -> None:
    from clipsonic.listening.analyze import analyze, read_ratings
    from clipsonic.listening.report import write_report
    from clipsonic.listening.sets import ListeningSet

    listening_set = ListeningSet.load(args.set)
    results = analyze(listening_set, read_ratings(listening_set))
    write_report(args.out, listening_set, results)
    for name, row in results.systems.items():
        for scale, mean in row.items():
            print(f"{name} {scale} {mean.mos:.2f} n={mean.n}")
    print(f"written to {args.out / 'report.md'}", file=sys.stderr)
