"""What the app does when nobody waits any more."""

from __future__ import annotations

import ctypes
import gc
import sys
from threading import Thread


def rest() -> None:
    """Give the memory of past runs back to the system, beside whatever else happens.

    Tensors of a run hang together in cycles until the collector comes by, and glibc keeps what is freed, in an arena of
    each thread that ever ran.
    """
    Thread(target=_give_back, name="rest", daemon=True).start()


def _give_back() -> None:
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
        if trim is not None:
            trim(0)
