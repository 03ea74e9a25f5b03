"""The loop as a user meets it: several processes, a killed process, and what a run leaves to look at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clipsonic.cli import main
from clipsonic.training.cost import flops_per_clip
from clipsonic.training.draws import SharedGenerator, rows
from clipsonic.training.loop import Task
from clipsonic.training.run_log import RunLog, read_log
from tests.test_training import MODEL, write_corpus

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "PYTHONPATH": os.pathsep.join(sys.path),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), "thing")


def recipe(path: Path, **changes: object) -> Path:
    training = {"batch_size": 4, "max_steps": 5, "learning_rate": 1e-3, "warmup_steps": 1, "log_every": 1}
    training |= {"mixed_precision": "no", **changes}  # type: ignore[dict-item]
    task = {"embedding_noise": 0.1, "crop_share": 0.5, "crop_frames": 32}
    path.write_text(json.dumps({"training": training, "model": MODEL, "task": task}))
    return path


def arguments(recipe_file: Path, corpus: Path, base: Path, out: Path) -> list[str]:
    paths = ["--config", str(recipe_file), "--data", str(corpus), "--base", str(base), "--out", str(out)]
    return ["train", "denoiser", *paths]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "denoiser" / "model.safetensors")


@pytest.mark.timeout(600)
def test_two_processes_with_half_the_batch_equal_one(corpus: Path, tiny_model: Path, tmp_path: Path) -> None:
    whole, half = recipe(tmp_path / "whole.json"), recipe(tmp_path / "half.json", batch_size=2)
    assert main(arguments(whole, corpus, tiny_model, tmp_path / "one")) == 0
    command = [sys.executable, *LAUNCH, "-m", "clipsonic", *arguments(half, corpus, tiny_model, tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(one[n].float(), two[n].float(), atol=2e-3) for n in one)
    assert "2 × cpu" in (tmp_path / "two" / "summary.md").read_text()
    losses = [[line["v_loss"] for line in read_log(tmp_path / name)[:5]] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert len(set(losses[0])) == 5


def test_two_micro_batches_of_half_the_size_equal_one(corpus: Path, tiny_model: Path, tmp_path: Path) -> None:
    whole = recipe(tmp_path / "whole.json")
    half = recipe(tmp_path / "half.json", batch_size=2, gradient_accumulation=2)
    assert main(arguments(whole, corpus, tiny_model, tmp_path / "one")) == 0
    assert main(arguments(half, corpus, tiny_model, tmp_path / "two")) == 0
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(one[n].float(), two[n].float(), atol=2e-3) for n in one)
    losses = [[line["v_loss"] for line in read_log(tmp_path / name)[:5]] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert len(set(losses[0])) == 5


@pytest.mark.timeout(600)
def test_a_killed_process_is_resumed_to_the_same_weights(corpus: Path, tiny_model: Path, tmp_path: Path) -> None:
    steady = "constant_with_warmup"  # so that the length may be chosen afterwards
    file = recipe(tmp_path / "recipe.json", max_steps=1_000_000, save_every_s=0.0, schedule=steady)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "clipsonic", *arguments(file, corpus, tiny_model, out)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not (out / "state.pt").is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    last = torch.load(out / "state.pt", weights_only=True)["step"] + 3
    file = recipe(tmp_path / "recipe.json", max_steps=last, schedule=steady)
    assert main([*arguments(file, corpus, tiny_model, out), "--resume"]) == 0
    assert main(arguments(file, corpus, tiny_model, tmp_path / "whole")) == 0
    whole, resumed = weights(tmp_path / "whole"), weights(out)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    steps = [[line["step"] for line in read_log(folder)] for folder in (tmp_path / "whole", out)]
    assert steps[0] == steps[1] == [*range(1, last + 1), last]


@pytest.mark.parametrize("seed", [5, 2**32, 2**40])
def test_any_seed_will_do(seed: int, corpus: Path, tiny_model: Path, tmp_path: Path) -> None:
    file = recipe(tmp_path / "recipe.json", max_steps=1, seed=seed)
    assert main(arguments(file, corpus, tiny_model, tmp_path / "out")) == 0


def test_a_run_leaves_samples_a_curve_and_a_table(corpus: Path, tiny_model: Path, tmp_path: Path) -> None:
    import soundfile
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "out"
    file = recipe(tmp_path / "recipe.json", sample_every=4, gradient_accumulation=2)
    assert main(arguments(file, corpus, tiny_model, out)) == 0
    assert torch.tensor(1e-40) * 1 != 0, "training leaves the process' arithmetic as it was"
    assert sorted(p.name for p in (out / "samples").iterdir()) == [
        "0000004-0.wav", "0000004-1.wav", "0000004-2.wav", "0000004.png",
    ]  # fmt: skip
    sound, rate = soundfile.read(out / "samples" / "0000004-0.wav")
    assert (len(sound), rate) == (64 * 256, 22050)
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("denoiser/v_loss")] == [1, 2, 3, 4, 5]
    assert events.Tags()["audio"]
    head, _, row = (out / "summary.md").read_text().splitlines()
    values = dict(zip(head.split("|")[1:-1], row.split("|")[1:-1], strict=True))
    values = {name.strip(): value.strip() for name, value in values.items()}
    assert (values["part"], values["steps"], values["clips"]) == ("denoiser", "5", "40")
    assert float(values["GFLOP/clip"]) > 0.01
    assert float(values["clips/s"]) > 0
    assert values["share of matrix-product peak"].endswith("%")


def test_log_keeps_one_run_of_each_part(tmp_path: Path) -> None:
    for part, steps in (("prior", (1, 2)), ("denoiser", (1, 2, 3))):
        log = RunLog(tmp_path, part)
        log.begin(0)
        for step in steps:
            log.add(step, {"loss": 1.0})
    RunLog(tmp_path, "denoiser").begin(2)  # resumed
    assert [(x["part"], x["step"]) for x in read_log(tmp_path)] == [
        ("prior", 1), ("prior", 2), ("denoiser", 1), ("denoiser", 2),
    ]  # fmt: skip
    RunLog(tmp_path, "denoiser").begin(0)  # begun anew
    assert [x["part"] for x in read_log(tmp_path)] == ["prior", "prior"]


def test_processes_share_what_one_would_draw() -> None:
    def drawn(rank: int, ranks: int, count: int) -> torch.Tensor:
        generator = SharedGenerator("cpu").share(rank, ranks)
        generator.manual_seed(1)
        return rows(lambda n: torch.rand(n, 3, generator=generator), count, generator)

    whole = drawn(0, 1, 6)
    assert torch.equal(whole[0::2], drawn(0, 2, 3))
    assert torch.equal(whole[1::2], drawn(1, 2, 3))


@pytest.mark.parametrize(
    ("broken", "told"),
    [("key", "batchsize"), ("shard", "train-000000.tar"), ("base", "nowhere"), ("no base", "--base")],
)
def test_bad_input_is_one_line(
    broken: str, told: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_corpus(tmp_path / "corpus", "thing")
    file = recipe(tmp_path / "recipe.json", **({"batchsize": 4} if broken == "key" else {}))
    call = arguments(file, corpus, tmp_path / "nowhere" if broken == "base" else tiny_model, tmp_path / "out")
    if broken == "shard":
        shard = corpus / "train-000000.tar"
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    if broken == "no base":
        place = call.index("--base")
        call = call[:place] + call[place + 2 :]
    assert main(call) == 2
    complaint = [line for line in capsys.readouterr().err.splitlines() if line.startswith("python -m clipsonic")]
    assert len(complaint) == 1
    assert told in complaint[0]
    assert not (tmp_path / "out" / "model_index.json").exists()


@pytest.mark.parametrize("groups", [1, 8])
def test_a_convolution_and_its_backward_pass_are_three_times_its_forward_one(groups: int) -> None:
    class Convolution(Task):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv1d(8, 8, 3, padding=1, groups=groups, bias=False)

        def loss(self, batch: dict[str, torch.Tensor], phase: str, generator: torch.Generator) -> tuple[Any, dict]:
            return self.layer(batch["x"].requires_grad_()).sum(), {}

    work = flops_per_clip(Convolution(), {"x": torch.randn(2, 8, 10)}, torch.device("cpu"))
    assert work == 3 * 2 * 10 * 8 * 8 // groups * 3
