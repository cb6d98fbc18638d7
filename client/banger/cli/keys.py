"""The user's ssh key for a VM that is to be made."""

from dataclasses import replace

from banger import render
from banger.cli.options import Output
from banger.config import settings
from banger.errors import Failure
from banger.service import Wanted


def with_keys(wanted: Wanted, output: Output) -> Wanted:
    """`wanted`, letting the user's ssh key in. Without a key a VM works too, and `vm ssh` can bring one later."""
    from banger.ssh import keys

    try:
        return replace(wanted, ssh_keys=keys.public_keys(settings()))
    except Failure as exc:
        if not (output.quiet or output.json):
            render.note(f"no ssh key for the VM: {exc}")
            if exc.hint:
                render.note(f"  next: {exc.hint}")
        return wanted
