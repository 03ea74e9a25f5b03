"""The app: `python app.py` here, the same file on a Space."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

try:
    import spaces  # on a ZeroGPU Space, before torch, which it patches
except ImportError:
    spaces = None

from clipsonic.errors import ClipSonicError
from clipsonic.ui import Abilities, Desk, build_ui, launch_options, place_at_start

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicPipeline

HERE = Path(__file__).resolve().parent


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the flags; those left out come from the environment, then from the defaults."""
    parser = argparse.ArgumentParser(description="Sounds from words and pictures, in the browser.")
    parser.add_argument(
        "--model",
        default=os.environ.get("CLIPSONIC_MODEL", str(HERE / "checkpoints" / "mini")),
        help="model folder or hub repository (environment: CLIPSONIC_MODEL)",
    )
    parser.add_argument(
        "--device",
        default=os.environ.get("CLIPSONIC_DEVICE", "auto"),
        choices=("auto", "cpu", "cuda", "mps"),
        help="where to compute (environment: CLIPSONIC_DEVICE)",
    )
    parser.add_argument("--host", help="address to listen on; 0.0.0.0 is all (environment: GRADIO_SERVER_NAME)")
    parser.add_argument("--port", type=int, help="port to listen on (environment: GRADIO_SERVER_PORT; first is 7860)")
    parser.add_argument("--share", action="store_true", help="open a public gradio.live address too")
    parser.add_argument(
        "--listening-test",
        type=Path,
        metavar="SET",
        help="serve the listening test of this sample set, and nothing else",
    )
    tests = os.environ.get("CLIPSONIC_LISTENING_TESTS")
    parser.add_argument(
        "--listening-tests",
        type=Path,
        default=Path(tests) if tests else None,
        metavar="DIR",
        help="add tabs to curate, take and analyse the listening tests of this folder"
        " (environment: CLIPSONIC_LISTENING_TESTS)",
    )
    return parser.parse_args(arguments)


def opener(model: str, device: str) -> Callable[[], ClipSonicPipeline]:
    """Return what opens a model when it is first called, and returns the same from then on, to any thread."""
    lock = Lock()
    opened: list[ClipSonicPipeline] = []

    def load() -> ClipSonicPipeline:
        from clipsonic.pipeline import ClipSonicPipeline

        with lock:
            if not opened:
                opened.append(ClipSonicPipeline.from_pretrained(model, device=device))
            return opened[0]

    return load


def main(arguments: list[str] | None = None) -> None:
    """Open the model and serve the page; the weights are read when the first visitor asks for a sound."""
    options = parse_arguments(arguments)
    if options.listening_test:
        serve_listening_test(options)
        return
    load = opener(options.model, options.device)
    place_at_start(load)
    if os.environ.get("SPACE_ID"):  # a Space's proxy says who the visitors are; without it all are one
        os.environ.setdefault("FORWARDED_ALLOW_IPS", "*")
    desk = Desk(model=Path(options.model).name)
    page = build_ui(load, HERE / "examples", Abilities.ask(options.model), desk, options.listening_tests)
    address = {"server_name": options.host, "server_port": options.port, "share": options.share}
    served = desk.launch_options()
    if options.listening_tests:
        from clipsonic.ui.take_test import listening_route, open_tests

        served["app_kwargs"]["routes"].append(listening_route(open_tests(options.listening_tests)))
    page.launch(**address, **launch_options(), **served, prevent_thread_lock=True)
    # Opened now and not while somebody waits: the imports would hold up every open page for seconds.
    with suppress(ClipSonicError):  # every request says what is wrong
        load()
        import_module("clipsonic.parts")
    page.block_thread()


def serve_listening_test(options: argparse.Namespace) -> None:
    """Serve the listeners' page alone; the answers go into the set's folder."""
    from clipsonic.listening.server import serve

    try:
        serve(options.listening_test, options.host, options.port)
    except ClipSonicError as error:
        print(f"app.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
