"""Long work, watched and cancelled through objects. Jobs live in memory; what they set in motion is stored."""

import asyncio
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum

from bangerd.core.ports import Progress
from bangerd.model.errors import BangerError, Canceled, LimitReached, NoSuchJob, StepFailed, VMBusy

log = logging.getLogger(__name__)

KEEP_ENDED_S = 60.0
PER_USER = 64  # running at once, and ended ones remembered


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asked: uid as the bus reports it, the account's name, the unique bus name."""

    uid: int
    name: str
    client: str


class JobState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"


@dataclass(slots=True, eq=False)
class Job:
    """One running or lately ended piece of work. `target` is the key that at most one job holds at a time."""

    number: int
    type: str
    target: str
    by: Caller
    started_at: float  # unix time
    state: JobState = JobState.RUNNING
    progress: Progress = field(default_factory=lambda: Progress(""))
    result: dict[str, str | int] = field(default_factory=dict)
    error: BangerError | None = None
    followers: set[str] = field(default_factory=set)  # bus names that are told of the end
    task: "asyncio.Task[None] | None" = None  # does the work; may be cancelled
    keeper: "asyncio.Task[None] | None" = None  # sees to the job's end, however early and whatever it is
    shown: str = ""  # the target as people call it
    withdrawn: bool = False  # cancelled by somebody, not replaced or broken off by the service's end

    @property
    def owner_uid(self) -> int:
        return self.by.uid

    @property
    def client(self) -> str:
        return self.by.client

    def cancel(self) -> None:
        """Have the work end as soon as it can, and be taken back; no effect on an ended job."""
        if self.task is not None and not self.withdrawn:
            self.withdrawn = True
            self.task.cancel()

    async def wait(self) -> None:
        """Return when the work has ended, in whatever way."""
        if self.keeper is not None:
            await asyncio.wait({self.keeper})

    def report(self, progress: Progress) -> None:
        self.progress = progress


Body = Callable[[Job], Awaitable[None]]
Undo = Callable[[], Coroutine[object, object, None]]
Listener = Callable[[Job, str], None]


class Jobs:
    """All jobs. Listeners get (job, "added"), (job, "ended") and, when it is forgotten, (job, "removed")."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._by_target: dict[str, Job] = {}
        self._running: Counter[int] = Counter()  # by uid
        self._ended: defaultdict[int, deque[Job]] = defaultdict(deque)
        self._next = 1
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def get(self, number: int) -> Job:
        """Raises NoSuchJob."""
        try:
            return self._jobs[number]
        except KeyError:
            raise NoSuchJob(number) from None

    def all(self) -> tuple[Job, ...]:
        return tuple(self._jobs.values())

    def running(self, target: str) -> Job | None:
        return self._by_target.get(target)

    def start(
        self,
        type_: str,
        target: str,
        by: Caller,
        body: Body,
        *,
        undo: Undo | None = None,
        shown: str = "",
        replace: bool = False,
    ) -> Job:
        """Run `body` as a job, and `undo` when it is cancelled.

        Raises VMBusy (naming `shown`) if another holds the target and may not be replaced.
        """
        busy = self._by_target.get(target)
        if busy is not None and not replace:
            raise VMBusy(shown or target, f"'{busy.type}' (job {busy.number})")
        if self._running[by.uid] >= PER_USER:
            raise LimitReached(
                f"you have {PER_USER} jobs running already; wait for one, or cancel it (`banger job list`)"
            )
        job = Job(self._next, type_, target, by, time.time(), shown=shown)
        self._next += 1
        self._jobs[job.number] = job
        self._running[by.uid] += 1
        self._by_target[target] = job
        # Announced before it can end, so that nobody hears of the end first.
        self._tell(job, "added")
        name = f"job {job.number} {type_} {target}"
        job.task = asyncio.create_task(self._work(job, body, after=busy), name=name)
        job.keeper = asyncio.create_task(self._keep(job, job.task, undo), name=f"{name} ends")
        return job

    async def close(self) -> None:
        """End all running jobs; what they work towards is stored and goes on at the next start."""
        keepers = {
            job.keeper for job in self._jobs.values() if job.keeper is not None and not job.keeper.done()
        }
        for job in self._jobs.values():
            if job.task is not None:
                job.task.cancel()
        if keepers:
            await asyncio.wait(keepers)

    async def _work(self, job: Job, body: Body, after: Job | None) -> None:
        if after is not None and after.task is not None:
            after.task.cancel()
            await after.wait()
        await body(job)

    async def _keep(self, job: Job, work: "asyncio.Task[None]", undo: Undo | None) -> None:
        state, error = await _outcome(job, work)
        if job.withdrawn and state is JobState.CANCELED and undo is not None:
            taken_back, trouble = await _outcome(job, asyncio.create_task(undo()))
            if taken_back is JobState.FAILED:
                state, error = taken_back, trouble
        job.state, job.error = state, error
        if self._by_target.get(job.target) is job:
            del self._by_target[job.target]
        self._running[job.by.uid] -= 1
        ended = self._ended[job.by.uid]
        ended.append(job)
        if len(ended) > PER_USER:
            self._forget(ended[0])
        self._tell(job, "ended")
        asyncio.get_running_loop().call_later(KEEP_ENDED_S, self._forget, job)

    def _forget(self, job: Job) -> None:
        if self._jobs.pop(job.number, None) is not None:
            self._ended[job.by.uid].remove(job)
            self._tell(job, "removed")

    def _tell(self, job: Job, event: str) -> None:
        for listener in self._listeners:
            listener(job, event)


async def _outcome(job: Job, task: "asyncio.Task[None]") -> tuple[JobState, BangerError | None]:
    """How the task ended. Of a bug callers are told only that there is one."""
    await asyncio.wait({task})
    if task.cancelled():
        return JobState.CANCELED, Canceled("the job was canceled")
    exc = task.exception()
    if exc is None:
        return JobState.DONE, None
    if not isinstance(exc, BangerError):
        log.error("job %d (%s %s) met a bug", job.number, job.type, job.target, exc_info=exc)
        exc = StepFailed("internal error, see the service's journal")
    return JobState.FAILED, exc
