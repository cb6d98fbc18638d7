"""One VM's reconciler: the task that makes the host match what is stored, one step at a time."""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace

from bangerd.core.effects import Effects
from bangerd.model.errors import BangerError, GuestFailed, NoSuchVM, StepFailed
from bangerd.model.lifecycle import WAITING, Step, ending, next_step, state_of
from bangerd.model.vm import VM, Desired, Observed, VMState

log = logging.getLogger(__name__)

RETRY_FIRST_S, RETRY_LAST_S = 1.0, 60.0
LOOK_S = 3.0  # a VMM that does not answer does not keep the service from its start
SILENCE_S = 30.0  # for which a VMM that did not answer is not asked again
LAST_WORDS_S = 10.0  # for which a VM of `vm run --rm` that failed is kept, for its client to read why


@dataclass(frozen=True, slots=True)
class Watchers:
    """Whom a machine tells: of a change of state, and that it is gone for good."""

    changed: Callable[["Machine"], None]
    gone: Callable[["Machine"], None]


class Machine:
    """Owns one VM's record. Only its own task acts on the host; commands store what is wanted and wake it."""

    def __init__(self, vm: VM, effects: Effects, watchers: Watchers) -> None:
        self.vm = vm
        self.seen = Observed()
        self.lifeline: int | None = None  # until the shim has it
        self._effects = effects
        self._watchers = watchers
        self._record = asyncio.Lock()  # a command may come while the last step forgets the VM
        self._forgotten = False
        self._wake = asyncio.Event()
        self._deadline: float | None = None  # of the waiting step, loop time
        self._hurry = False  # end the VMM without asking the guest
        self._asked_to_stop = False
        self._pressed = False  # ... also by the power button
        self._goal: asyncio.Future[None] | None = None
        self._trouble: BangerError | None = None  # why the goal cannot be reached
        self._on_step: Callable[[Step], None] | None = None
        self._maybe_paused = True  # unknown until asked once
        self._silent_until = 0.0  # loop time before which the VMM is not asked again
        self._words_read = False  # nobody will ask any more why this VM of `vm run --rm` failed
        self._last_state: VMState | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start the reconciler task."""
        self._task = asyncio.create_task(self._loop(), name=f"vm {self.vm.sid}")
        self.wake()

    async def look(self) -> None:
        """See how things are before anybody asks: a service that was restarted knows its guests at once."""
        try:
            async with asyncio.timeout(LOOK_S):
                await self._observe()
        except (BangerError, TimeoutError) as exc:  # the task tries again, and says so if it matters
            log.warning("%s cannot be looked at: %s", self.vm.name, exc)

    async def close(self) -> None:
        """End the task; the VM is left as it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._close_lifeline()

    def wake(self) -> None:
        """Look again: something about the unit, the guest or the record may have changed."""
        self._wake.set()

    @property
    def state(self) -> VMState:
        return state_of(self.vm, self.seen)

    async def store(self, **changes: object) -> None:
        """Change the record, in the database first. Raises NoSuchVM when it was forgotten meanwhile."""
        await self.change(lambda vm: replace(vm, **changes))  # type: ignore[arg-type]  # the callers' to check

    async def change(self, make: Callable[[VM], VM]) -> None:
        """store() what `make` makes of the record as it is when its turn comes."""
        async with self._record:
            if self._forgotten:
                raise NoSuchVM(self.vm.name)
            changed = make(self.vm)
            await self._effects.save(changed)
            self.vm = changed
        self._tell()

    async def _forget(self) -> None:
        async with self._record:
            await self._effects.do(Step.FORGET, self.vm)
            self._forgotten = True
        self._close_lifeline()  # of one that never came to its start

    async def reach(
        self, desired: Desired, on_step: Callable[[Step], None], *, hurry: bool = False, **changes: object
    ) -> None:
        """Want `desired` and return when the host matches. Raises what made that impossible.

        `changes` are further fields of the record, stored in the same transaction. A newer call takes the goal
        over: the older one then raises CancelledError.
        """
        self._hurry = hurry
        await self.store(desired=desired, **changes)
        if self._goal is not None and not self._goal.done():
            self._goal.cancel()
        self._trouble = None
        goal = self._goal = asyncio.get_running_loop().create_future()
        self._on_step = on_step
        self.wake()
        await goal

    def undo(self, desired: Desired) -> Callable[[], Coroutine[object, object, None]]:
        """What takes a command back: want `desired` again, and let that come true by itself."""

        async def act() -> None:
            with suppress(NoSuchVM):  # it is gone: nothing is left to take back
                await self.store(desired=desired)
            self.wake()

        return act

    async def _loop(self) -> None:
        pause = RETRY_FIRST_S
        while True:
            await self._wake.wait()
            try:
                if await self._converge():
                    return
                pause, again = RETRY_FIRST_S, False
                if self._speaks_its_last:
                    asyncio.get_running_loop().call_later(LAST_WORDS_S, self._let_go)
            except BangerError as exc:
                again = await self._failed(exc)
            except Exception:
                log.exception("%s: the reconciler met a bug", self.vm.sid)
                again = await self._failed(StepFailed("internal error, see the service's journal"))
            if again:
                asyncio.get_running_loop().call_later(pause, self.wake)
                pause = min(pause * 2, RETRY_LAST_S)

    async def _converge(self) -> bool:
        """Step until nothing is left to do. True when the VM is gone for good."""
        last: tuple[Step, Observed] | None = None
        while True:
            self._wake.clear()  # before looking: what changes from here on wakes again
            if self._words_read and self._speaks_its_last:
                await self.store(desired=Desired.ABSENT)
            await self._observe()
            await self._heed_ending()
            step = next_step(self.vm.desired, self.seen)
            if step is None:
                self._reached()
                return False
            if (step, self.seen) == last and step not in WAITING:
                raise StepFailed(f"{step.value} of '{self.vm.name}' changed nothing")
            if last is None or last[0] is not step:
                self._deadline = None
                if self._on_step is not None:
                    self._on_step(step)
            last = step, self.seen
            await self._do(step)
            if step is Step.FORGET:
                self._reached()
                self._watchers.gone(self)
                return True

    async def _observe(self) -> None:
        was_ready, was_paused = self.seen.ready, self.seen.paused
        seen = await self._effects.observe(self.vm)
        if seen.ready and self._maybe_paused and self._paused_matters(seen):
            # Until the VMM says something else it is as it was.
            paused = was_paused if was_ready else self.vm.desired is Desired.PAUSED
            self.seen = replace(seen, paused=paused)
            seen = replace(seen, paused=await self._is_paused(paused=paused))
        self.seen = seen
        self._tell()

    def _paused_matters(self, seen: Observed) -> bool:
        """Not for one that is ended without being asked."""
        return not self._hurry and (self.vm.desired is not Desired.ABSENT or seen.caches_lent)

    async def _is_paused(self, *, paused: bool) -> bool:
        """What the VMM says; `paused` if it says nothing, which is no reason to end its guest."""
        if asyncio.get_running_loop().time() < self._silent_until:
            return paused
        try:
            self._maybe_paused = await self._effects.is_paused(self.vm)
        except StepFailed as exc:
            self._is_silent(exc)
            return paused
        return self._maybe_paused

    def _is_silent(self, exc: StepFailed) -> None:
        log.warning("%s (%s): %s", self.vm.name, self.vm.sid, exc)
        loop = asyncio.get_running_loop()
        self._silent_until = loop.time() + SILENCE_S
        self._maybe_paused = True
        loop.call_later(SILENCE_S, self.wake)

    async def _heed_ending(self) -> None:
        end = ending(self.vm, self.seen, self._effects.boot_id)
        if end is None:
            return
        # Of `vm run --rm`: who waits for its start is told now; who has a session in it has to ask.
        told = self._goal is not None and not self._goal.done()
        stays = end.desired is not Desired.ABSENT or bool(end.record and end.error and not told)
        text = self._effects.told(self.vm, end, stays=end.desired is not Desired.ABSENT)
        log.info("%s (%s) has ended: %s", self.vm.name, self.vm.sid, text or "by its guest")
        await self.store(desired=Desired.STOPPED if stays else Desired.ABSENT, last_error=text)
        self._trouble = GuestFailed(text or "the guest powered itself off")

    async def _do(self, step: Step) -> None:
        log.debug("%s: %s", self.vm.sid, step.name)
        await self._effects.reached(step.name.lower())
        match step:
            case Step.START_UNIT:
                await self.store(started_boot=self._effects.boot_id, last_error="")
                await self._effects.start_unit(self.vm, self.lifeline)
                self._maybe_paused = self._asked_to_stop = self._pressed = self._words_read = False
                self._silent_until = 0.0
                self._close_lifeline()
            case Step.STOP_GUEST:
                await self._stop_guest()
            case Step.FORGET:
                await self._forget()
            case Step.WAIT | Step.AWAIT_READY:
                if not await self._woken(self._effects.patience_s(step)):
                    raise self._effects.too_slow(self.vm, step)
            case Step.PAUSE | Step.RESUME:
                await self._freeze(step)
            case _:
                await self._effects.do(step, self.vm)
        await self._effects.reached(step.name.lower() + "_done")

    async def _freeze(self, step: Step) -> None:
        """A VMM that does not do it goes on as it is: what was wanted is taken back, or it is ended the hard way."""
        try:
            await self._effects.do(step, self.vm)
        except StepFailed as exc:
            self._is_silent(exc)
            if self.vm.wanted_up:
                self._trouble = exc
                await self.store(desired=Desired.RUNNING if step is Step.PAUSE else Desired.PAUSED)
            else:
                self._hurry = True
        else:
            self._maybe_paused = step is Step.PAUSE
            self._silent_until = 0.0
            self.seen = replace(self.seen, paused=step is Step.PAUSE)

    @property
    def _speaks_its_last(self) -> bool:
        return self.vm.ephemeral and self.vm.desired is Desired.STOPPED and bool(self.vm.last_error)

    def _let_go(self) -> None:
        self._words_read = True
        self.wake()

    async def _stop_guest(self) -> None:
        if self._hurry or not self.seen.ready:
            await self._effects.take(Step.KILL_UNIT, self.vm)
            return
        if not self._asked_to_stop:
            await self._effects.do(Step.STOP_GUEST, self.vm)
            self._asked_to_stop = True
        if self._pressed:
            self._hurry = not await self._woken(self._effects.patience_s(Step.STOP_GUEST))
        elif not await self._woken(self._effects.agent_patience_s):
            self._pressed, self._deadline = True, None
            await self._effects.press_power_button(self.vm)

    async def _woken(self, patience_s: float) -> bool:
        """Wait for news; False when `patience_s` have passed since this step was first tried."""
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + patience_s
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    def _reached(self) -> None:
        """The host matches. Who waited for something else is told why only now, when nothing is left of the attempt."""
        self._hurry = False
        trouble, self._trouble = self._trouble, None
        self._settle(trouble)

    def _settle(self, trouble: BangerError | None) -> None:
        if self._goal is None or self._goal.done():
            return
        if trouble is None:
            self._goal.set_result(None)
        else:
            self._goal.set_exception(trouble)

    async def _failed(self, exc: BangerError) -> bool:
        """Record a failure. True if what is wanted still is to be tried again, later."""
        log.warning("%s (%s): %s", self.vm.name, self.vm.sid, exc)
        self._close_lifeline()
        if self.vm.wanted_up and self.seen.ready:
            # It is up, and stays as it is: that the host cannot be looked at just now is no reason to end it.
            await self.store(desired=Desired.PAUSED if self.seen.paused else Desired.RUNNING)
            self._settle(exc)
            return True
        starting = self.vm.desired in (Desired.RUNNING, Desired.PAUSED)
        if starting:
            # No crash loop: a start that fails is taken back, and the reason kept. A guest that never answered is
            # kept whole, also of `vm run --rm`: its log and disk are all there is to look at.
            self._trouble = exc
            ephemeral = self.vm.ephemeral and not isinstance(exc, GuestFailed)
            desired = Desired.ABSENT if ephemeral else Desired.STOPPED
            await self.store(desired=desired, ephemeral=ephemeral, last_error=str(exc))
            self.wake()
        else:
            await self.store(last_error=str(exc))
            self._settle(self._trouble or exc)
        return not starting

    def _close_lifeline(self) -> None:
        if self.lifeline is not None:
            os.close(self.lifeline)
            self.lifeline = None

    def _tell(self) -> None:
        state = self.state
        if state is not self._last_state:
            self._last_state = state
            self._watchers.changed(self)
