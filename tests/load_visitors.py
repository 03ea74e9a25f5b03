"""Many visitors at once, against an app of its own: `PYTHONPATH=. python tests/load_visitors.py --visitors 100`.

Loopback only; it stops by itself. Each sound's tags must match its request, nobody may meet another error than a polite
"busy", and the app's memory must come back. `pytest` runs a small version (`tests/test_live_app.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from app_server import ROOT, serve_app

from clipsonic.audio import read_tags

QUIET_S = 120
"""How long to wait for the last runs to end."""
LEAVERS = 0.1
"""The share of requests whose visitor hangs up."""


@dataclass
class Tally:
    """What the visitors met.

    Attributes:
        ends: How requests ended: "done", "busy" or "left".
        wrong: Sounds that are not what was asked for, and errors other than "busy".
        seconds: How long the requests that got sounds took, waiting included.
        longest_line: The most requests seen waiting.
    """

    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    longest_line: int = 0


class Visitor:
    """Asks for one sound after the other, from an address of its own, and looks at what comes."""

    def __init__(self, number: int, url: str, tally: Tally, steps: int) -> None:
        self._random = random.Random(number)
        self._number, self._url, self._tally, self._steps = number, url.rstrip("/"), tally, steps
        address = f"10.1.{number // 250}.{number % 250 + 1}"
        self._client = httpx.AsyncClient(timeout=QUIET_S, headers={"X-Forwarded-For": address})

    async def stay(self, deadline: float) -> None:
        """Ask until the time is over."""
        async with self._client:
            for request in range(10**6):
                await asyncio.sleep(self._random.uniform(0, 0.5))
                if time.monotonic() > deadline:
                    return
                try:
                    await self._ask(request)
                except httpx.HTTPError as error:
                    self._tally.wrong.append(f"visitor {self._number}: {error!r}")

    async def _ask(self, request: int) -> None:
        wanted = {
            "prompt": f"visitor {self._number}, request {request}",
            "seed": self._random.randrange(10**6),
            "num_inference_steps": self._steps + self._random.randrange(3),
        }
        start = time.monotonic()
        call = f"{self._url}/gradio_api/call/v2/text_to_audio"
        joined = await self._client.post(call, json=wanted)
        if joined.status_code == 503:
            self._tally.ends["busy"] += 1
            await asyncio.sleep(1)
            return
        joined.raise_for_status()
        answer = await self._listen(f"{call}/{joined.json()['event_id']}")
        if answer is None:
            self._tally.ends["left"] += 1
            return
        await self._check(answer, wanted)
        self._tally.ends["done"] += 1
        self._tally.seconds.append(time.monotonic() - start)

    async def _listen(self, url: str) -> Any:
        """Return what the run gives, or None after hanging up."""
        leaves, event = self._random.random() < LEAVERS, ""
        async with self._client.stream("GET", url) as stream:
            if leaves:
                await asyncio.sleep(self._random.uniform(0, 1))
                return None
            async for line in stream.aiter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: ") and event in ("complete", "error"):
                    data = json.loads(line.removeprefix("data: "))
                    if event == "error":
                        self._tally.wrong.append(f"visitor {self._number}: {data}")
                    return data if event == "complete" else None
        self._tally.wrong.append(f"visitor {self._number}: the stream ended early")
        return None

    async def _check(self, answer: Any, wanted: dict[str, Any]) -> None:
        """Compare each sound's own tags with what was asked for."""
        files, facts = answer
        if [audio["method"] for audio in facts["audios"]] != ["zs", "pd"] or len(files) != 2:
            self._tally.wrong.append(f"{wanted} got {facts['audios']}")
        for file, method in zip(files, ("zs", "pd"), strict=False):
            data = (await self._client.get(f"{self._url}/gradio_api/file={file['path']}")).content
            with tempfile.NamedTemporaryFile(suffix=".wav") as kept:
                Path(kept.name).write_bytes(data)
                tags = read_tags(Path(kept.name))
            got = {"prompt": tags.get("prompt"), "seed": int(tags.get("seed", -1)), "method": tags.get("method")}
            got["num_inference_steps"] = json.loads(tags.get("settings", "{}")).get("num_inference_steps")
            if got != wanted | {"method": method}:
                self._tally.wrong.append(f"{wanted} got {got}")


async def watch_line(url: str, tally: Tally, deadline: float) -> None:
    """See how long the line gets."""
    async with httpx.AsyncClient(timeout=QUIET_S) as client:
        while time.monotonic() < deadline:
            health = (await client.get(f"{url}health")).json()
            tally.longest_line = max(tally.longest_line, health["waiting"])
            await asyncio.sleep(0.5)


def visit(url: str, visitors: int, seconds: float, steps: int) -> Tally:
    """Let visitors come for a while, and wait until the app is at rest."""
    tally, deadline = Tally(), time.monotonic() + seconds

    async def everybody() -> None:
        crowd = (Visitor(number, url, tally, steps).stay(deadline) for number in range(visitors))
        await asyncio.gather(watch_line(url, tally, deadline), *crowd)

    asyncio.run(everybody())
    wait_for_rest(url)
    return tally


def wait_for_rest(url: str, seconds: float = QUIET_S) -> None:
    """Return once nobody waits and nothing runs.

    Raises:
        TimeoutError: Something still runs after that many seconds.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        health = httpx.get(f"{url}health", timeout=QUIET_S).json()
        if health["waiting"] == health["running"] == 0:
            return
        time.sleep(0.2)
    raise TimeoutError(f"the app is not at rest: {health}")


def memory_mb(url: str) -> float:
    """Return the app's resident memory in megabytes, as it says itself."""
    text = httpx.get(f"{url}metrics", timeout=QUIET_S).text
    found = re.search(r"^process_resident_memory_bytes (\S+)", text, re.MULTILINE)
    return float(found[1]) / 1e6 if found else float("nan")


def main() -> int:
    """Run the test by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--model", type=Path, default=ROOT / "checkpoints" / "mini")
    parser.add_argument("--warm-up", type=float, default=60, help="seconds of the same before memory is looked at")
    parser.add_argument("--memory", type=float, default=5, help="per cent that memory may have grown in the end")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    with tempfile.TemporaryDirectory() as folder, serve_app(options.model, Path(folder) / "log.txt") as server:
        visit(server.url, options.visitors, options.warm_up, options.steps)
        before = memory_mb(server.url)
        tally = visit(server.url, options.visitors, options.seconds, options.steps)
        after = memory_mb(server.url)
    times = sorted(tally.seconds) or [float("nan")]
    print(f"requests: {dict(tally.ends)}; longest line {tally.longest_line}; wrong: {len(tally.wrong)}")
    print(f"seconds to a sound: median {times[len(times) // 2]:.1f}, longest {times[-1]:.1f}")
    print(f"memory: {before:.0f} MB, then {after:.0f} MB ({100 * (after / before - 1):+.1f} %)")
    print(*tally.wrong[:20], sep="\n")
    return int(bool(tally.wrong) or after > before * (1 + options.memory / 100))


if __name__ == "__main__":
    sys.exit(main())
