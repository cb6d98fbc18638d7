"""`banger vm ssh` and `banger ssh-config`: OpenSSH, told all it has to know about a VM."""

import os
import shlex
import shutil
import signal
import sys
from typing import Annotated

from cyclopts import Parameter

from banger import config, render, units
from banger.cli.command import Tail
from banger.cli.options import PEOPLE, Output, VMName
from banger.config.place import shown
from banger.errors import Failure, UsageError
from banger.service import Service
from banger.ssh import keys, openssh, reach, userfile


def ssh(
    name: VMName,
    /,
    *,
    output: Output = PEOPLE,
    flags: Tail = (),
    command: Tail,
) -> int:
    """Become an ssh to a VM that runs. What stands between NAME and `--` is ssh's own."""
    units.check_name(name)
    openssh.check_flags(flags)
    program = _program()
    key = keys.current(config.settings())
    service = Service()
    progress = output.progress(name)
    target = reach.find(service, name, progress.say)
    reach.let_in(service, target, key)
    if target.reachable:
        way = openssh.direct(target.name, target.address, reach.host_keys(service, target))
    else:
        reach.ask(service, target)  # says so if there is no sshd at all
        way = openssh.asking(userfile.program())
    host = f"{target.name}{openssh.DOMAIN}"
    argv = [
        program,
        *way,
        *flags,
        *openssh.login(key.identity),
        host,
        *(["--", *command] if command else []),
    ]
    _become(argv)
    return 0


def ssh_config(
    *,
    install: Annotated[bool, Parameter(negative=(), help="Put it on top of ~/.ssh/config.")] = False,
    uninstall: Annotated[bool, Parameter(negative=(), help="Take it out again.")] = False,
    output: Output = PEOPLE,
) -> None:
    """Have plain ssh know the VMs. Without an option: show the line that does it."""
    if install and uninstall:
        raise UsageError("--install and --uninstall exclude one another", hint="give one of them")
    if uninstall:
        changed = userfile.uninstall()
    else:
        keys.current(config.settings())
        changed = userfile.install() if install else userfile.write_managed()
    file = shown(userfile.user_file())
    if output.json:
        render.as_json(
            {"include": userfile.include_line(), "file": str(userfile.user_file()), "changed": changed}
        )
    elif not install and not uninstall:
        print(userfile.include_line())
        _note(
            output, f"put this line at the top of {file}, before any Host or Match: then `ssh NAME.vm` works"
        )
        _note(output, "`banger ssh-config --install` does it for you, `--uninstall` undoes it")
    elif install:
        done = "knows" if changed else "knew already"
        _note(output, f"{file} {done} the VMs: ssh, scp, sftp, rsync and git take NAME.vm")
    else:
        _note(
            output, f"{file} is as it was before" if changed else f"there is nothing of banger's in {file}"
        )


def _note(output: Output, text: str) -> None:
    if not output.quiet:
        render.note(text)


def _program() -> str:
    found = shutil.which("ssh")
    if found is None:
        raise Failure(
            "NoSSH",
            "there is no ssh on this machine",
            hint="install it (Debian: openssh-client); `banger vm exec NAME` does without",
        )
    return found


def _become(argv: list[str]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    # Python ignores it, and what is ignored stays so.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted
    except OSError as exc:
        why = os.strerror(exc.errno or 0)
        raise Failure(
            "NoSSH", f"cannot run {shlex.join(argv[:1])}", why=why, hint="try it by hand"
        ) from None
