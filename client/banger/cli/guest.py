"""A guest that is up, as `vm run` and `vm exec` use it: our surroundings go in, then the command."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from banger import detach, render, session, tooling
from banger.cli.command import How, Planned
from banger.cli.options import Output
from banger.config import settings
from banger.errors import OK
from banger.service import Service

if TYPE_CHECKING:
    from banger.workspace.plan import Plan


@dataclass(frozen=True, slots=True)
class Guest:
    """The guest of the VM at the object path `vm`."""

    service: Service
    vm: str
    output: Output

    def open_session(self) -> int:
        return self.service.open_session(self.vm)

    def run(self, planned: Planned, how: How, plan: "Plan | None" = None) -> int:
        """Run the command (in `plan`'s folder, if the user named no other); return its exit status."""
        variables = planned.surroundings(
            self.open_session, self.output, folder=str(plan.top) if plan else ""
        )
        command = planned.command(variables, workdir=plan.workdir if plan else "")
        if plan is not None:
            self.begin_tooling(plan, variables)
        if not how.detach:
            return session.run(self.open_session(), command, timeout_s=planned.timeout_s)
        started = detach.start(self.open_session, command, planned.timeout_s)
        self._tell(started)
        return OK

    def begin_tooling(self, plan: "Plan", variables: tuple[str, ...]) -> None:
        """Have mise install in the background what the repository that was taken along names."""
        if not settings().tooling or not tooling.wanted(entry.path for entry in plan.files):
            return
        said = tooling.start(self.service, self.vm, plan.workdir, plan.name, variables)
        if said and not (self.output.quiet or self.output.json):
            render.note(said)

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
