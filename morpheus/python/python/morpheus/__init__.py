"""Yield hints from the kernel's scheduler: know when somebody waits for this CPU, and yield where it suits you.

>>> import morpheus
>>> with morpheus.register("crunch"):
...     for chunk in range(1000):
...         _ = sum(range(100))   # some microseconds of work
...         _ = morpheus.checkpoint()

Without an agent (`morpheusd`) all this costs the same and does nothing. No thread is ever registered as escapable.
"""

from ._asyncio import acheckpoint, chunked
from ._native import (
    Critical,
    Hint,
    NotAvailable,
    Reason,
    Usage,
    Worker,
    checkpoint,
    critical,
    hint_pending,
    in_critical,
    register,
    take_hint,
    usage,
    yield_thread,
)

__all__ = [
    "Critical",
    "Hint",
    "NotAvailable",
    "Reason",
    "Usage",
    "Worker",
    "acheckpoint",
    "checkpoint",
    "chunked",
    "critical",
    "hint_pending",
    "in_critical",
    "register",
    "take_hint",
    "usage",
    "yield_thread",
]
