"""`python -m clipsonic info`: what runs here, what the model is made of, and how fast it is."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.utils.flop_counter import FlopCounterMode

from clipsonic import __version__
from clipsonic.checkpoint import ModelFolder
from clipsonic.device import DEVICES, Accelerator
from clipsonic.errors import ClipSonicError
from clipsonic.output import Progress
from clipsonic.pipeline import DEFAULT_MODEL, ClipSonicPipeline

PACKAGES = ("torch", "diffusers", "open_clip_torch", "transformers", "gradio", "numpy")
PROMPT = "a dog barking"
METHODS = ("zs", "pd")
WARM_RUNS = 3
_MATRIX = 2048
_MATRIX_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a model folder or hub repository (%(default)s)")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--benchmark", action="store_true", help="render one prompt and say where the time goes")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> None:
    """Print versions, device and parts; with `--benchmark` the speed too."""
    accelerator = Accelerator.choose(args.device)
    folder = ModelFolder.open(args.model, accelerator)
    report = {"system": describe_system(accelerator), "model": describe_model(folder)}
    if args.benchmark:
        report["benchmark"] = benchmark(args.model, args.device)
    print(json.dumps(report, indent=2, ensure_ascii=False) if args.json else _as_text(report))


def describe_system(accelerator: Accelerator) -> dict[str, Any]:
    """Return versions, and the device and precision in use."""
    return {
        "clipsonic": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "device": str(accelerator.device),
        "precision": str(accelerator.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def describe_model(folder: ModelFolder) -> dict[str, Any]:
    """Return the model's name, hash, card headline, and each part's size; no weights are loaded."""
    parts = {}
    for name in folder.index.parts:
        files = [path for path in folder.part_folder(name).rglob("*") if path.is_file()]
        parts[name] = {
            "parameters": sum(_parameters(path) for path in files if path.suffix == ".safetensors"),
            "bytes": sum(path.stat().st_size for path in files),
            "sha256": folder.part_sha256(name),
        }
    return {
        "name": folder.index.name,
        "sha256": folder.sha256,
        "card": _headline(folder.card),
        "duration_s": round(folder.index.duration_s, 3),
        "parts": parts,
    }


def benchmark(model: str, device: str = "auto") -> dict[str, Any]:
    """Time the first sound of a new process, then a warm one, stage by stage.

    Args:
        model: A model folder or hub repository.
        device: As in `Accelerator.choose`.

    Returns:
        Seconds (`cold_s`, `warm_s`), `peak_memory_mb` of the cold process, the matrix-product peak in FLOP/s, and by
        stage the seconds, the share of the warm time, the FLOPs counted and FLOP/s. Fourier transforms are not counted.
    """
    cold_s, peak_memory_mb = _cold_start(model, device)
    pipeline = ClipSonicPipeline.from_pretrained(model, device=device)
    pipeline(PROMPT, methods=METHODS)
    runs = [pipeline(PROMPT, methods=METHODS).timings for _ in range(WARM_RUNS)]
    timings = min(runs, key=lambda timing: timing["total"])
    flops = _count_flops(pipeline)
    peak = measure_peak(pipeline.folder.accelerator)
    return {
        "request": f"{PROMPT!r}, {' and '.join(METHODS)}, default settings",
        "cold_s": cold_s,
        "warm_s": timings["total"],
        "peak_memory_mb": peak_memory_mb,
        "matmul_peak_flops": peak,
        "stages": {
            stage: {
                "seconds": seconds,
                "share": seconds / timings["total"],
                "flop": flops[stage],
                "flops": flops[stage] / seconds if seconds else 0.0,
                "of_peak": flops[stage] / seconds / peak if seconds else 0.0,
            }
            for stage, seconds in timings.items()
            if stage not in ("total", "loading") and seconds
        },
    }


def measure_peak(accelerator: Accelerator) -> float:
    """Return the FLOP/s of a large square matrix product in the accelerator's precision."""
    a, b = (torch.randn(_MATRIX, _MATRIX, device=accelerator.device).to(accelerator.dtype) for _ in range(2))
    best, deadline = float("inf"), time.perf_counter() + _MATRIX_SECONDS
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * _MATRIX**3 / best


def _cold_start(model: str, device: str) -> tuple[float, float]:
    """Return the seconds and peak memory (MB) of a new process from its start to the written files."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "clipsonic", "generate", PROMPT, "--methods", *METHODS]
        command += ["--model", model, "--device", device, "--out", out]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        seconds = time.perf_counter() - start
    if done.returncode:
        raise ClipSonicError(f"the benchmark's first run failed: {done.stderr.strip()[-300:]}")
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit


def _count_flops(pipeline: ClipSonicPipeline) -> dict[str, int]:
    """Return the FLOPs of the default request by stage."""
    flops: dict[str, int] = defaultdict(int)
    stage, before = "", 0

    def attribute(progress: Progress) -> None:
        nonlocal stage, before
        total = counter.get_total_flops()
        flops[stage] += total - before
        stage, before = progress.stage, total

    with FlopCounterMode(display=False) as counter:
        pipeline(PROMPT, methods=METHODS, callback=attribute)
    return flops


def _parameters(path: Path) -> int:
    """Return the number of values in a safetensors file, from its header."""
    with safe_open(path, framework="pt") as file:
        return sum(torch.Size(file.get_slice(key).get_shape()).numel() for key in file.keys())  # noqa: SIM118


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _headline(card: str) -> str:
    """Return the first line of a model card's text, past its front matter."""
    body = card.split("---", 2)[-1] if card.startswith("---") else card
    return next((line.lstrip("# ") for line in body.splitlines() if line.strip()), "")


def _as_text(report: dict[str, Any]) -> str:
    """Return the report for people."""
    system, model = report["system"], report["model"]
    lines = [f"{name:16} {value}" for name, value in system.items()]
    lines += ["", f"model {model['name']} ({model['sha256'][:12]}), {model['duration_s']} s a sound", model["card"]]
    for name, part in model["parts"].items():
        size, digest = part["bytes"] / 1e6, part["sha256"][:12]
        lines.append(f"  {name:16} {part['parameters'] / 1e6:7.2f} M parameters {size:7.1f} MB  {digest}")
    return "\n".join(lines + (_benchmark_lines(report["benchmark"]) if "benchmark" in report else []))


def _benchmark_lines(figures: dict[str, Any]) -> list[str]:
    """Return the benchmark for people."""
    lines = ["", f"benchmark: {figures['request']}"]
    lines.append(
        f"  a new process has it written in {figures['cold_s']:.1f} s, peak {figures['peak_memory_mb']:,.0f} MB"
    )
    lines.append(f"  warm: {figures['warm_s']:.2f} s (best of {WARM_RUNS})")
    lines.append(f"  matrix products peak at {figures['matmul_peak_flops'] / 1e9:,.0f} GFLOP/s")
    lines.append(f"  {'stage':10} {'seconds':>8} {'share':>6} {'GFLOP':>9} {'GFLOP/s':>8} {'of peak':>8}")
    for stage, row in figures["stages"].items():
        lines.append(
            f"  {stage:10} {row['seconds']:8.2f} {row['share']:6.0%} {row['flop'] / 1e9:9.1f} "
            f"{row['flops'] / 1e9:8.1f} {row['of_peak']:8.0%}"
        )
    return lines
