"""The listener's side of a test over HTTP: a page without any build step, and the few calls that it makes."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from clipsonic.errors import ClipSonicError, DataError, OutputError
from clipsonic.listening.sessions import Refusal, RunningTest
from clipsonic.listening.sets import MANIFEST
from clipsonic.listening.sounds import volume_noise
from clipsonic.listening.store import Listener

WEB = Path(__file__).with_name("web")
ASSETS = {path.name: path for path in WEB.iterdir()} if WEB.is_dir() else {}
MAX_BODY = 16_384
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; media-src 'self' blob:; img-src 'self' blob: data:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Tests:
    """The tests that are served, each opened when it is first asked for."""

    __test__ = False  # no test case, whatever pytest makes of the name

    def __init__(self, folder: Path, single: bool = False) -> None:
        """Serve the sets in a folder, or the one set that the folder is.

        Raises:
            ClipSonicError: The one set cannot be used.
        """
        self._folder = folder
        self._single = single
        self._open: dict[str, RunningTest] = {}
        self._lock = threading.Lock()
        if single:
            self.open(self.names()[0])

    def names(self) -> list[str]:
        """Return the names of the sets, which are those of their folders."""
        if self._single:
            return [self._folder.resolve().name]
        folders = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        return [path.name for path in folders if NAME.fullmatch(path.name) and (path / MANIFEST).is_file()]

    def path(self, name: str) -> Path:
        """Return the folder of a set.

        Raises:
            Refusal: There is none of this name.
        """
        if name not in self.names():
            raise Refusal(404, "there is no test of this name here; ask for the address again")
        return self._folder if self._single else self._folder / name

    def open(self, name: str) -> RunningTest:
        """Return a running test.

        Raises:
            Refusal: There is none of this name.
            ClipSonicError: Its set cannot be used.
        """
        path = self.path(name)
        with self._lock:
            if name not in self._open:
                self._open[name] = RunningTest(path)
            return self._open[name]


def create_app(tests: Tests) -> FastAPI:
    """Return the web application; all its addresses are relative, so that it can be mounted anywhere."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(ClipSonicError, _told)
    app.middleware("http")(_with_headers)

    @app.get("/")
    def front(request: Request) -> Response:
        names = tests.names()
        if len(names) == 1:
            return RedirectResponse(f"{names[0]}/")
        links = "".join(f'<li><a href="{escape(name)}/">{escape(name)}</a></li>' for name in names)
        body = f"<ul>{links}</ul>" if names else "<p>No test is running here.</p>"
        return HTMLResponse(
            f'<!doctype html><html lang="en"><title>Listening tests</title><h1>Listening tests</h1>{body}'
        )

    @app.get("/{name}/")
    def page(name: str) -> Response:
        tests.path(name)
        return FileResponse(ASSETS["index.html"])

    @app.get("/{name}/web/{asset}")
    def asset(name: str, asset: str) -> Response:
        if asset not in ASSETS:
            raise Refusal(404, "there is no such file")
        return FileResponse(ASSETS[asset])

    _add_sessions(app, tests)
    _add_answers(app, tests)
    _add_media(app, tests)
    return app


def _add_sessions(app: FastAPI, tests: Tests) -> None:
    """Add how a listener comes in, and comes back."""

    @app.get("/{name}/api/test")
    def describe(name: str) -> dict[str, Any]:
        return tests.open(name).describe()

    @app.post("/{name}/api/join")
    async def join(name: str, request: Request) -> Response:
        body = await read_json(request)
        key = await run_in_threadpool(lambda: tests.open(name).join(body.get("consent")))
        return JSONResponse({"key": key})

    @app.get("/{name}/api/session")
    def session(name: str, request: Request) -> dict[str, Any]:
        test, listener = _who(tests, name, request)
        return test.session(listener)


def _add_answers(app: FastAPI, tests: Tests) -> None:
    """Add what a listener says; it is kept in a thread of the pool, for that writes files."""

    async def said(name: str, request: Request, do: Callable[[RunningTest, Listener, dict[str, Any]], Any]) -> Response:
        body = await read_json(request)
        return JSONResponse(await run_in_threadpool(lambda: do(*_who(tests, name, request), body)))

    @app.post("/{name}/api/answer")
    async def answer(name: str, request: Request) -> Response:
        def keep(test: RunningTest, listener: Listener, body: dict[str, Any]) -> dict[str, bool]:
            test.answer(listener, body)
            return {"kept": True}

        return await said(name, request, keep)

    @app.post("/{name}/api/check")
    async def check(name: str, request: Request) -> Response:
        return await said(
            name, request, lambda test, listener, body: {"passed": test.check(listener, body.get("answers"))}
        )

    @app.post("/{name}/api/finish")
    async def finish(name: str, request: Request) -> Response:
        return await said(name, request, lambda test, listener, body: {"code": test.finish(listener, body)})


def _add_media(app: FastAPI, tests: Tests) -> None:
    """Add what a listener hears and sees; FastAPI runs what is not `async` in a thread, for that reads files."""

    @app.get("/{name}/api/sound/{token}")
    def sound(name: str, token: str, request: Request) -> Response:
        test, listener = _who(tests, name, request)
        return Response(test.sound(listener, token), media_type="audio/wav")

    @app.get("/{name}/api/picture/{token}")
    def picture(name: str, token: str, request: Request) -> Response:
        test, listener = _who(tests, name, request)
        return Response(test.picture(listener, token), media_type="application/octet-stream")

    @app.get("/{name}/api/check/{trial}")
    def check_sound(name: str, trial: int, request: Request) -> Response:
        test, listener = _who(tests, name, request)
        return Response(test.check_sound(listener, trial), media_type="audio/wav")

    @app.get("/{name}/api/volume")
    def volume(name: str) -> Response:
        tests.path(name)
        return Response(volume_noise(), media_type="audio/wav")


def _who(tests: Tests, name: str, request: Request) -> tuple[RunningTest, Listener]:
    """Return the test that is asked for, and the listener whose key came along."""
    test = tests.open(name)
    return test, test.listener(request.headers.get("authorization", "").removeprefix("Bearer "))


async def read_json(request: Request) -> dict[str, Any]:
    """Return the JSON object that was sent.

    Raises:
        Refusal: It is too long, or no JSON object; NaN and infinity are no JSON.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise Refusal(413, f"the message is too long; allowed: {MAX_BODY} bytes")
    try:
        value = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refusal(422, "the message is no JSON; reload the page") from error
    if not isinstance(value, dict):
        raise Refusal(422, "the message is no JSON object; reload the page")
    return value


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


async def _told(_: Request, error: Exception) -> Response:
    """Answer an error with its message; what is wrong with the set is the organiser's to read, in the log."""
    if isinstance(error, Refusal):
        return JSONResponse({"error": str(error)}, error.status)
    if isinstance(error, OutputError):
        return JSONResponse({"error": "the answer cannot be saved at the moment; it will be sent again"}, 503)
    status = 409 if isinstance(error, DataError) else 500
    print(f"listening test: {error}", flush=True)
    return JSONResponse({"error": "this test cannot be run at the moment; tell the organiser"}, status)


async def _with_headers(request: Request, proceed: Callable[[Request], Any]) -> Response:
    response: Response = await proceed(request)
    response.headers.update(HEADERS)
    return response


def serve(folder: Path, host: str | None = None, port: int | None = None) -> None:
    """Serve the test of one set until stopped.

    Raises:
        ClipSonicError: The set cannot be used.
    """
    import uvicorn

    tests = Tests(folder, single=True)
    address, number = host or "127.0.0.1", port or 7860
    print(f"Listening test on http://{address}:{number}/", flush=True)
    uvicorn.run(create_app(tests), host=address, port=number, log_level="warning")
