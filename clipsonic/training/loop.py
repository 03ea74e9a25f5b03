"""One training loop for every part, on Accelerate: what differs between parts is a `Task`."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env, send_to_device, set_seed
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from clipsonic.checkpoint import OPTIONAL_PARTS, REQUIRED_PARTS
from clipsonic.config import TrainingConfig
from clipsonic.device import fast_dtype
from clipsonic.errors import CheckpointError
from clipsonic.storage import write_whole
from clipsonic.training.cost import COUNTED_CLIPS, flops_per_clip, matmul_peak, peak_memory_gb
from clipsonic.training.draws import SharedGenerator
from clipsonic.training.run_log import RunLog, read_log

STATE_NAME = "state.pt"
SAMPLES_NAME = "samples"
SEEDS = 2**32
"""How many seeds numpy knows."""


class Task(nn.Module):
    """What is trained: the modules (as submodules), the data, the loss of each phase and how to save the result."""

    part: str
    """The folder of the model that `save` fills: clip, prior, denoiser or vocoder."""
    dataset: Dataset[dict[str, Tensor]]
    """Map-style; items are dicts of tensors that `default_collate` stacks."""

    draws_rows: bool = False
    """Whether the loss draws what differs between clips through `draws.rows`: then several processes or micro-batches
    with a share of the batch each do what one with the whole batch does."""

    def phases(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of each phase; every step runs the phases in turn, each with its own optimiser."""
        return {"main": [p for p in self.parameters() if p.requires_grad]}

    def learning_rate_scale(self, phase: str) -> float:
        """Return the factor on the configured learning rate for a phase."""
        return 1.0

    def loss(self, batch: dict[str, Tensor], phase: str, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the scalar to minimise and figures for the log."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the trained part into the model folder `folder`, from the weights as they now are."""
        raise NotImplementedError

    @property
    def replaces(self) -> tuple[str, ...]:
        """Parts that are not to be taken from the base."""
        return (self.part,)

    def sample(self, folder: Path, step: int, writer: Any) -> None:
        """Write what the part makes by now into `folder`, and tell TensorBoard's `writer` unless it is None."""

    def metrics(self) -> dict[str, float]:
        """Measure the finished part on held-out data, for the last line of the log."""
        return {}

    def forward(self, *args: Any) -> tuple[Tensor, dict[str, float]]:
        """Return `loss`, through the wrapper that Accelerate puts around the task."""
        return self.loss(*args)


class Trainer:
    """Run a task to its end, writing its state so that a killed run goes on where it was.

    All that is random in a step is a function of the recipe's seed and the step's number, so the state holds neither
    the generators' nor the data's position: both are the step.
    """

    def __init__(self, task: Task, config: TrainingConfig, out: Path) -> None:
        """Prepare to train `task` on the devices that Accelerate finds, writing to the folder `out`."""
        self.config = config
        self.out = out
        several = DistributedDataParallelKwargs(find_unused_parameters=len(task.phases()) > 1)
        precision = _precision(config.mixed_precision)
        self.accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[several])
        self.task = task.to(self.accelerator.device)
        self.wrapped = self.accelerator.prepare_model(self.task)
        self.optimizers = {name: self._optimizer(name, p) for name, p in self.task.phases().items()}
        self.schedulers = {name: self._schedule(optimizer) for name, optimizer in self.optimizers.items()}
        trained = next(iter(self.task.phases().values()))
        self.ema = EMAModel(trained, decay=config.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
        self.trained = trained
        self.step = 0
        self.seconds = 0.0
        self.log = RunLog(out, task.part)
        self.totals: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def _schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        config = self.config
        return get_scheduler(
            config.schedule, optimizer, num_warmup_steps=config.warmup_steps, num_training_steps=config.max_steps
        )

    def _optimizer(self, phase: str, parameters: list[nn.Parameter]) -> torch.optim.AdamW:
        rate = self.config.learning_rate * self.task.learning_rate_scale(phase)
        first, second = self.config.betas
        return torch.optim.AdamW(
            parameters, lr=rate, betas=(first, second), weight_decay=self.config.weight_decay, fused=True
        )

    def run(self) -> dict[str, float]:
        """Train from the current step to `max_steps`, then save the part; return its held-out metrics."""
        # Numbers too small for their exponent are taken for zero: CPUs reckon with them many times more slowly.
        torch.set_flush_denormal(True)
        first = self.step
        if self.accelerator.is_main_process:
            self.log.begin(first)
        try:
            spent = self._train()
        except KeyboardInterrupt:
            self.save()
            raise
        finally:
            torch.set_flush_denormal(False)  # it holds for the whole process, which may do other things afterwards
        self.save()
        if not self.accelerator.is_main_process:
            return {}
        with _weights_of(self.ema, self.trained):
            metrics = self.task.metrics()
        self.log.add(self.step, metrics)
        self.log.end(self._row(self._clips(self.step - first) / max(spent, 1e-9)))
        return metrics

    def _train(self) -> float:
        """Run the steps that are left and return the seconds they took, without those of saving and sampling."""
        saved, spent, first = time.monotonic(), 0.0, self.step
        while self.step < self.config.max_steps:
            start = time.monotonic()
            self._train_step()
            self.step += 1
            spent += time.monotonic() - start
            self.seconds += time.monotonic() - start
            if self.step % self.config.log_every == 0:
                self._log({"clips_per_s": self._clips(self.step - first) / spent})
            if self.config.sample_every and self.step % self.config.sample_every == 0:
                self._sample()
            if time.monotonic() - saved > self.config.save_every_s:
                self.save()
                saved = time.monotonic()
        return spent

    def _row(self, clips_per_s: float) -> dict[str, Any]:
        """Return this run's row of the table of runs."""
        device = self.accelerator.device
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision, torch.float32)
        clips = [self.task.dataset[n] for n in range(min(COUNTED_CLIPS, len(self.task.dataset)))]  # type: ignore[arg-type]
        work = flops_per_clip(self.task, send_to_device(default_collate(clips), device), device)
        peak = matmul_peak(device, dtype) * (1 if device.type == "cpu" else self.accelerator.num_processes)
        lines = [line for line in read_log(self.out) if line.get("part") == self.task.part and "clips_per_s" in line]
        loss = next((v for k, v in lines[-1].items() if k not in ("part", "step")), None) if lines else None
        return {
            "part": self.task.part,
            "steps": self.step,
            "clips": self._clips(self.step),
            "minutes": f"{self.seconds / 60:.1f}",
            "loss": "–" if loss is None else f"{loss:.4g}",
            "clips/s": f"{clips_per_s:.3g}",
            "GFLOP/clip": f"{work / 1e9:.3g}",
            "device": f"{self.accelerator.num_processes} × {device.type}, {str(dtype).removeprefix('torch.')}",
            "share of matrix-product peak": f"{work * clips_per_s / peak:.0%}",
            "peak memory": f"{peak_memory_gb(device):.2f} GB",
        }

    def _clips(self, steps: int) -> int:
        return steps * self.config.batch_size * self.config.gradient_accumulation * self.accelerator.num_processes

    def _micro_batches(self) -> Iterator[dict[str, Tensor]]:
        """Yield this process' share of the step's clips, a function of seed and step alone."""
        count = self._clips(1)
        generator = torch.Generator().manual_seed(self._seed())
        weights = getattr(self.task.dataset, "weights", None)
        if weights is None:
            indices = torch.randint(len(self.task.dataset), (count,), generator=generator)  # type: ignore[arg-type]
        else:
            indices = torch.multinomial(weights, count, replacement=True, generator=generator)
        mine = indices[self.accelerator.process_index :: self.accelerator.num_processes]
        for micro in range(self.config.gradient_accumulation):
            share = mine[micro :: self.config.gradient_accumulation]  # dealt out as `draws.rows` deals the draws
            batch = default_collate([self.task.dataset[int(i)] for i in share])
            yield send_to_device(batch, self.accelerator.device)

    def _seed(self) -> int:
        return (self.config.seed * 1_000_003 + self.step) % SEEDS

    def _generator(self, micro: int) -> SharedGenerator:
        """Return what a micro-batch's loss draws from.

        It is the same in all processes and micro-batches if the task takes its share of it.
        """
        processes = self.accelerator.num_processes
        rank = micro * processes + self.accelerator.process_index
        ranks = processes * self.config.gradient_accumulation
        generator = SharedGenerator(self.accelerator.device).share(rank, ranks)
        generator.manual_seed(self._seed() * 1_009 + (0 if self.task.draws_rows else rank))
        return generator

    def _train_step(self) -> None:
        """Run every phase on the step's clips: gradients of all micro-batches, then one optimiser step."""
        # For what draws without being handed a generator.
        set_seed((self._seed() * 1_013 + self.accelerator.process_index) % SEEDS)
        batches = list(self._micro_batches())
        for phase, optimizer in self.optimizers.items():
            for micro, batch in enumerate(batches):
                last = micro == len(batches) - 1
                with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                    self._backward(batch, phase, self._generator(micro))
            torch.nn.utils.clip_grad_norm_(self.task.phases()[phase], self.config.gradient_clip)
            optimizer.step()
            self.schedulers[phase].step()
            self.task.zero_grad(set_to_none=True)
        self.ema.step(self.trained)

    def _backward(self, batch: dict[str, Tensor], phase: str, generator: torch.Generator) -> None:
        with self.accelerator.autocast():
            loss, figures = self.wrapped(batch, phase, generator)
        self.accelerator.backward(loss / self.config.gradient_accumulation)
        for name, value in figures.items():
            self.totals[name] = self.totals.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def _log(self, figures: dict[str, float]) -> None:
        """Log the means over all processes since the last line."""
        means = {name: total / self.counts[name] for name, total in self.totals.items()}
        self.totals, self.counts = {}, {}
        if self.accelerator.num_processes > 1 and means:
            local = torch.tensor(list(means.values()), device=self.accelerator.device)
            means = dict(zip(means, self.accelerator.reduce(local, "mean").tolist(), strict=True))
        if self.accelerator.is_main_process:
            self.log.add(self.step, {**means, **figures})

    def _sample(self) -> None:
        """Let the task render what its averaged weights make by now."""
        if not self.accelerator.is_main_process:
            return
        self.task.eval()
        with _weights_of(self.ema, self.trained), torch.no_grad():
            self.task.sample(self.out / SAMPLES_NAME, self.step, self.log.tensorboard())
        self.task.train()

    def save(self) -> None:
        """Write the training state and, from the averaged weights, the part itself."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "part": self.task.part,
            "step": self.step,
            "seconds": self.seconds,
            "task": self.task.state_dict(),
            "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()},
            "schedulers": {k: s.state_dict() for k, s in self.schedulers.items()},
            "ema": self.ema.state_dict(),
        }
        with write_whole(self.out / STATE_NAME) as temporary:
            torch.save(state, temporary)
        with _weights_of(self.ema, self.trained):
            self.task.save(self.out)

    def resume(self) -> None:
        """Take up the state that `save` wrote into the same folder.

        Raises:
            CheckpointError: There is none, or it is of another part or model.
        """
        path = self.out / STATE_NAME
        try:
            state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
            if (part := state.get("part", self.task.part)) != self.task.part:
                raise ValueError(f"it is the {part}'s, not the {self.task.part}'s")
            self.task.load_state_dict(state["task"])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
                self.schedulers[name].load_state_dict(state["schedulers"][name])
            self.ema.load_state_dict(state["ema"])
            self.step, self.seconds = state["step"], state.get("seconds", 0.0)
        except (OSError, EOFError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise CheckpointError(f"cannot resume from {path}: {reason}; start without --resume") from error


def processes() -> PartialState:
    """Return Accelerate's view of the processes that train together, which `accelerate launch` or torchrun started."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or (several and not torch.cuda.is_available()))


def _precision(asked: str) -> str:
    """Return the mixed precision asked for, or "no", said aloud, where this CPU would be slower in it."""
    state = processes()
    device = state.device.type
    if device == "cpu" and asked in ("bf16", "fp16") and fast_dtype("cpu") == torch.float32:
        state.print(f"this CPU has no units for {asked}: training in float32")
        return "no"
    return asked


class _weights_of:  # noqa: N801 - a context manager, used like a function
    """Put the averaged weights into the parameters for a while."""

    def __init__(self, ema: EMAModel, parameters: list[nn.Parameter]) -> None:
        self.ema, self.parameters = ema, parameters

    def __enter__(self) -> None:
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)

    def __exit__(self, *_: object) -> None:
        self.ema.restore(self.parameters)


def copy_other_parts(base: Path, out: Path, replaced: Sequence[str]) -> None:
    """Take every part that was not replaced from the model folder `base`, so that `out` is a whole model."""
    for part in (*REQUIRED_PARTS, *OPTIONAL_PARTS):
        if part not in replaced and (base / part).is_dir() and (base / part).resolve() != (out / part).resolve():
            shutil.copytree(base / part, out / part, dirs_exist_ok=True)
