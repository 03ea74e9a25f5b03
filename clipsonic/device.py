"""Where the numbers are crunched: the device, and the precision that suits it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

from clipsonic.errors import OutOfMemoryError, SettingsError

DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Accelerator:
    """A device and how networks run on it.

    Attributes:
        device: Where weights and activations live.
        dtype: The precision of matrix products and convolutions.
        batch: How many sounds go through the denoiser at once. It is fixed, and short batches are filled up, because
            kernels are chosen by shape: a sound must not depend on what else is asked for.
    """

    device: torch.device
    dtype: torch.dtype
    batch: int

    @classmethod
    def choose(cls, name: str = "auto") -> Self:
        """Return the named device, or the best there is.

        Raises:
            SettingsError: The name is unknown or this machine has no such device.
        """
        if name not in DEVICES:
            raise SettingsError(f"device is {name!r}; allowed: {', '.join(DEVICES)}")
        present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        if name == "auto":
            name = next(kind for kind, there in present.items() if there)
        if not present[name]:
            raise SettingsError(f"device is {name!r}, which this machine lacks; use auto or cpu")
        return cls(torch.device(name), *_describe(name))

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context in which networks compute in `dtype`."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def prepare(self, network: nn.Module) -> nn.Module:
        """Move a network to the device for inference, its matrix and convolution weights in `dtype`.

        Norms and embeddings stay in float32. Casting the weights here once spares `autocast` doing it at every call.
        """
        network.to(self.device).eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
                module.to(self.dtype)
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
        return network


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether torch failed for want of memory; only CUDA has an error class of its own for that."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


def release_memory() -> None:
    """Give back what torch keeps for later, so that a smaller attempt may fit."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


@contextmanager
def memory_told() -> Iterator[None]:
    """Turn torch's failure for want of memory into one that says what to do.

    Raises:
        OutOfMemoryError: The block ran out of memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition(".")[0]
        raise OutOfMemoryError(
            f"the device has too little memory ({reason}); ask for a shorter or fewer sounds, or take the device cpu"
        ) from error


def fast_dtype(device_type: str) -> torch.dtype:
    """Return the precision in which matrix products are fastest.

    Args:
        device_type: "cuda", "mps" or "cpu". A CPU that lacks bfloat16 units takes hundreds of times as long in it.
    """
    if device_type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    # Older versions of torch cannot say what the CPU has.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if device_type == "cpu" and capabilities.get("avx512_bf16") else torch.float32


def _describe(name: str) -> tuple[torch.dtype, int]:
    """Return the precision and the fixed batch that suit a device.

    Two sounds, the zs and the pd of one prompt, take a CPU three quarters of the time of one after the other.
    """
    return fast_dtype(name), 4 if name == "cuda" else 2
