"""A guest that is up, as `vm run` and `vm exec` use it: our surroundings go in, then the command."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from banger import detach, render, session
from banger.cli import tools
from banger.cli.command import How, Planned
from banger.cli.options import Output
from banger.errors import OK, Failure
from banger.service import Service

if TYPE_CHECKING:
    from banger.workspace.plan import Plan

_NEWS_S, _LOOK_S = 3.0, 0.1


@dataclass(frozen=True, slots=True)
class Guest:
    """The guest of the VM at the object path `vm`."""

    service: Service
    vm: str
    output: Output

    def open_session(self) -> int:
        return self.service.open_session(self.vm)

    def run(
        self, planned: Planned, how: How, plan: "Plan | None" = None, *, wish: bool | None = None
    ) -> int:
        """Run the command (in `plan`'s folder, if the user named no other); return its exit status.

        `wish`: whether mise shall install the folder's tools; None is as the config says.
        """
        variables = planned.surroundings(
            self.open_session, self.output, folder=str(plan.top) if plan else ""
        )
        command = planned.command(variables, workdir=plan.workdir if plan else "")
        if plan is not None:
            given = tuple(f"{name}={value}" for name, value in planned.env.items())
            tools.bootstrap(
                self.service, self.vm, plan, wish=wish, output=self.output, env=(*variables, *given)
            )
        if not how.detach:
            try:
                return session.run(self.open_session(), command, timeout_s=planned.timeout_s)
            except Failure as exc:
                raise (self._why_gone(exc) if exc.code == "GuestGone" else exc) from None
        started = detach.start(self.open_session, command, planned.timeout_s)
        self._tell(started)
        return OK

    def _why_gone(self, gone: Failure) -> Failure:
        """`gone` with what the service knows of it, to which the end of a VM is told a moment later than to us."""
        deadline = time.monotonic() + _NEWS_S
        while True:
            try:
                vm = self.service.describe_vm(self.vm)
            except Failure:
                return (
                    gone  # it was deleted, which is told by whoever did it; or the service is gone as well
                )
            if vm["state"] in ("stopped", "failed"):
                why = str(vm["error"]) or "it was powered off or stopped"
                hint = "" if vm["ephemeral"] else f"`banger vm start {vm['name']}` starts it again"
                return Failure(gone.code, gone.what, why=why, hint=hint, status=gone.status)
            if time.monotonic() > deadline:
                return gone
            time.sleep(_LOOK_S)

    def _tell(self, started: detach.Started) -> None:
        name = self.service.vm_name(self.vm)
        if self.output.json:
            render.as_json(
                {"vm": name, "pid": started.pid, "log": started.log, "status_file": started.status}
            )
            return
        print(render.safe(f"{name}:{started.log}"))
        if not self.output.quiet:
            render.note(
                f"it runs on in {name}: `banger vm exec {name} -- tail -f {started.log}` shows its output"
            )
