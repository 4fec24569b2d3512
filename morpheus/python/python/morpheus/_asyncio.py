"""The places where a task of an asyncio loop may give way. Any loop that runs asyncio's tasks will do."""

from asyncio import sleep
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

from ._native import _give_way, hint_pending

T = TypeVar("T")


async def acheckpoint() -> None:
    """A place where this task may give way. With a hint pending the loop has a turn, and for WAITER and SLICE_END the thread
    gives up the CPU before, with the GIL released. Inside a critical section it does nothing and leaves the hint pending.

    Where even the coroutine is too dear: ``if hint_pending(): await acheckpoint()``.
    """
    if hint_pending() and _give_way():
        await sleep(0)


def chunked(items: Iterable[T], every: int = 1) -> AsyncIterator[T]:
    """The items, with a checkpoint after each `every` of them: ``async for item in morpheus.chunked(items):``."""
    if every < 1:
        raise ValueError(f"every is {every}, but there is no less than a checkpoint after each item")
    return _chunked(items, every)


async def _chunked(items: Iterable[T], every: int) -> AsyncIterator[T]:
    left = every
    for item in items:
        yield item
        left -= 1
        if left == 0:
            left = every
            if hint_pending() and _give_way():
                await sleep(0)
