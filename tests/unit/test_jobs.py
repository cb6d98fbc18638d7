"""Jobs are limited per user, running and ended ones alike, and forgotten in the order of their end."""

import asyncio

import pytest

from bangerd.core.jobs import PER_USER, Caller, Job, Jobs, JobState
from bangerd.model.errors import LimitReached, NoSuchJob, StepFailed

ALICE, BOB = Caller(1000, "alice", ":1.1"), Caller(1001, "bob", ":1.2")


async def nothing(_job: Job) -> None: ...


async def test_ended_jobs_of_one_user_do_not_pile_up() -> None:
    jobs = Jobs()
    kept = jobs.start("stop", "vm/bob", BOB, nothing)
    for number in range(3 * PER_USER):
        await jobs.start("stop", f"vm/{number}", ALICE, nothing).wait()
    await kept.wait()
    assert len(jobs.all()) == PER_USER + 1
    assert jobs.get(kept.number).state is JobState.DONE
    with pytest.raises(NoSuchJob):
        jobs.get(kept.number + 1)


async def test_a_job_whose_undoing_fails_ends_too() -> None:
    jobs, never = Jobs(), asyncio.Event()

    async def wait(_job: Job) -> None:
        await never.wait()

    async def undo() -> None:
        raise StepFailed("the disk is full")

    job = jobs.start("start", "vm/1", ALICE, wait, undo=undo)
    await asyncio.sleep(0)
    job.cancel()
    await job.wait()
    assert job.state is JobState.FAILED
    assert str(job.error) == "the disk is full"
    assert jobs.running("vm/1") is None
    await jobs.start("stop", "vm/1", ALICE, nothing).wait()


async def test_running_jobs_of_one_user_are_limited() -> None:
    jobs, go = Jobs(), asyncio.Event()

    async def wait(_job: Job) -> None:
        await go.wait()

    running = [jobs.start("start", f"vm/{number}", ALICE, wait) for number in range(PER_USER)]
    with pytest.raises(LimitReached, match="64 jobs running"):
        jobs.start("start", "vm/more", ALICE, wait)
    other = jobs.start("start", "vm/more", BOB, wait)
    go.set()
    for job in [*running, other]:
        await job.wait()
    await jobs.start("start", "vm/more", ALICE, wait).wait()
