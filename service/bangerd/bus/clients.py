"""Who calls: each connection's uid, asked of the bus once, and how much each user has in flight."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from bangerd.core.jobs import Caller
from bangerd.model.errors import LimitReached

CALLS = 64  # per user, in flight
DESCRIPTORS = 32  # per user, received and not yet taken or closed
AT_ONCE = 8  # calls of one user that are worked on at a time; the others of that user wait, nobody else does

_Key = TypeVar("_Key", str, int)


class Clients:
    """`ask_uid` asks the bus for a connection's uid, `user_name` the machine for an account's name."""

    def __init__(self, ask_uid: Callable[[str], Awaitable[int]], user_name: Callable[[int], str]) -> None:
        self._ask_uid = ask_uid
        self._user_name = user_name
        self._known: dict[str, asyncio.Task[Caller]] = {}
        self._of_client: Counter[str] = Counter()
        self._calls: Counter[int] = Counter()
        self._descriptors: Counter[int] = Counter()
        self._turns: dict[int, asyncio.Semaphore] = {}

    async def caller(self, client: str) -> Caller:
        """Raises what the bus answers for a connection that has gone."""
        task = self._known.get(client)
        if task is None:
            task = self._known[client] = asyncio.create_task(self._look_up(client), name=f"who is {client}")
        try:
            # One caller that gives up must not take the answer from others.
            return await asyncio.shield(task)
        except Exception:
            self._known.pop(client, None)
            raise

    async def _look_up(self, client: str) -> Caller:
        uid = await self._ask_uid(client)
        # The name service may be a network away.
        name = await asyncio.to_thread(self._user_name, uid)
        return Caller(uid, name, client)

    def gone(self, client: str) -> None:
        """The connection has ended. Its name is never used again."""
        task = self._known.pop(client, None)
        if task is not None:
            task.cancel()

    def check_room(self, client: str) -> None:
        """Raises LimitReached for a further call, as far as can be said before it is read."""
        task = self._known.get(client)
        calls = self._of_client[client]
        if task is not None and task.done() and not task.cancelled() and task.exception() is None:
            calls = self._calls[task.result().uid]
        if calls >= CALLS:
            raise too_many_calls()

    def arrived(self, client: str) -> None:
        self._of_client[client] += 1

    def left(self, client: str) -> None:
        _less(self._of_client, client, 1)

    def enter(self, uid: int, descriptors: int) -> None:
        """Count a call. Raises LimitReached, and counts nothing, when the user has too much in flight."""
        if self._calls[uid] >= CALLS:
            raise too_many_calls()
        if self._descriptors[uid] + descriptors > DESCRIPTORS:
            raise LimitReached(
                f"you have {DESCRIPTORS} descriptors in calls that are still under way; wait for one"
            )
        self._calls[uid] += 1
        self._descriptors[uid] += descriptors

    @asynccontextmanager
    async def turn(self, uid: int) -> AsyncIterator[None]:
        """Work for a user who has entered. Lets everybody else have theirs first."""
        async with self._turns.setdefault(uid, asyncio.Semaphore(AT_ONCE)):
            await asyncio.sleep(0)
            yield

    def leave(self, uid: int, descriptors: int) -> None:
        _less(self._calls, uid, 1)
        if uid not in self._calls:
            self._turns.pop(uid, None)
        _less(self._descriptors, uid, descriptors)


def too_many_calls() -> LimitReached:
    return LimitReached(f"you have {CALLS} calls under way; wait for one to end")


def _less(counter: "Counter[_Key]", key: _Key, count: int) -> None:
    counter[key] -= count
    if counter[key] <= 0:
        del counter[key]
