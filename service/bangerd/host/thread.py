"""Blocking work beside the loop. A thread cannot be broken off, so what it works with has to outlive it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like asyncio.to_thread(), but return, or pass a cancellation on, only when the thread has ended.

    Otherwise descriptors that the thread uses would be closed, and their numbers given to other files, under it.
    """
    return await to_the_end(asyncio.to_thread(work, *args, **kwargs))


async def to_the_end(step: Coroutine[object, object, T]) -> T:
    """Await it although we may be cancelled, even again, meanwhile; the cancellation goes on afterwards."""
    task = asyncio.create_task(step)
    canceled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            canceled = True
        except Exception:  # noqa: BLE001 - it is raised from result() below
            break
    if canceled:
        task.exception()  # retrieved: the cancellation matters more
        raise asyncio.CancelledError
    return task.result()
