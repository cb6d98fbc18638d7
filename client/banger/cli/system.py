"""`banger job …`, `doctor`, `version`, `completion`."""

import time
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from banger import __version__, render, units
from banger.cli import checks, tree
from banger.cli.options import PEOPLE, Output
from banger.cli.prepare import new_vms
from banger.errors import FAILED, OK, Failure
from banger.service import Record, Service

_SHELLS = Path(__file__).with_name("shells")


def jobs(*, output: Output = PEOPLE) -> None:
    """List what is under way, and what ended within the last minute."""
    found = Service().list_jobs()
    if output.json:
        render.as_json(found)
        return
    if not found:
        if not output.quiet:
            render.note("nothing is under way")
        return
    now = time.time()
    render.table(
        ("JOB", "WHAT", "TARGET", "STATE", "STAGE", "DONE", "SINCE"), [_job(job, now) for job in found]
    )


def cancel(
    number: Annotated[int, Parameter(help="The job's number, as `banger job list` shows it.")],
    /,
    *,
    output: Output = PEOPLE,
) -> None:
    """Cancel a job. What it had made so far is removed."""
    Service().cancel_job(number)
    if output.json:
        render.as_json({"job": number, "done": "cancel"})
    elif not output.quiet:
        render.note(f"job {number} is being cancelled")


def doctor(*, output: Output = PEOPLE) -> int:
    """Check whether this machine is fit for VMs; each line that is not ok says what to do. Exit status 1: it is not."""
    found = list(checks.checks())
    try:
        service = Service()
        found += [*service.doctor(), *new_vms(service)]
    except Failure as exc:
        if exc.code == "Interrupted":
            raise
        found.append({"name": "service", "state": "failed", "text": str(exc), "hint": exc.hint})
    if output.json:
        render.as_json(found)
    else:
        render.table(
            ("CHECK", "STATE", "FOUND"),
            [[str(check[key]) for key in ("name", "state", "text")] for check in found],
            wrap=True,
        )
        for check in found:
            if check.get("hint") and not output.quiet:
                render.note(f"{check['name']}: {check['hint']}")
    return FAILED if any(check["state"] == "failed" for check in found) else OK


def version(*, output: Output = PEOPLE) -> None:
    """Show the versions of client and service."""
    service: str | None = None
    try:
        service = Service().version()
    except Failure as exc:
        if not output.json:
            render.note(f"no answer from the service: {exc}")
    if output.json:
        render.as_json({"client": __version__, "service": service})
    else:
        print(f"client   {__version__}\nservice  {render.safe(service or 'unknown')}")


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish", "powershell"], Parameter(help="Which shell's.")], /
) -> None:
    """Print the completion script for a shell."""
    if shell == "powershell":
        print(tree.build().generate_completion(prog_name="banger", shell=shell))
    else:
        print((_SHELLS / f"banger.{shell}").read_text(encoding="utf-8"), end="")


def _job(job: Record, now: float) -> tuple[str, ...]:
    fraction = float(job.get("fraction", -1))
    return (
        str(job["number"]),
        str(job["type"]),
        str(job.get("target_name") or job["target"]),
        str(job["state"]),
        str(job.get("stage") or "-"),
        f"{fraction:.0%}" if fraction >= 0 else "-",
        units.age(now - job["started_at"]) if "started_at" in job else "-",
    )
