"""`banger ssh-connect`: what the managed ssh configuration has ssh run. Not for people, so not in the help.

    ssh-connect HOST PORT           pass ssh a connection to the VM's sshd (ProxyCommand with ProxyUseFdpass)
    ssh-connect --known-hosts HOST  print the VM's host keys as lines of a known_hosts file (KnownHostsCommand)
    ssh-connect --carry FD          join our standard input and output to an sshd over the session FD

Each ssh runs two of these: they do without the command line's tree, which would be half of what they take.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Sequence

from banger import config, render, session
from banger.errors import FAILED, OK, Failure, UsageError
from banger.interrupt import Interrupted
from banger.service import Service
from banger.ssh import dial, keys, openssh, reach, userfile

_LAST_WORDS_S = 2.0  # for what ssh sent before it left


def run(argv: Sequence[str]) -> int:
    """Carry out `argv`, what stands after `ssh-connect`, and return the exit status. Never raises."""
    try:
        match argv:
            case ["--known-hosts", host]:
                return _known_hosts(host)
            case ["--carry", fd] if fd.isascii() and fd.isdecimal():
                threading.Thread(target=_leave_after_ssh, daemon=True).start()
                return session.run(int(fd), reach.SSHD_HERE)
            case [host, port] if port.isascii() and port.isdecimal() and 0 < int(port) < 65536:
                return _connect(host, int(port))
        raise UsageError(
            "`banger ssh-connect` is run by ssh", hint="`banger vm ssh NAME`, or `banger ssh-config`"
        )
    except Failure as exc:
        failure = exc
    except Interrupted as exc:
        failure = exc.failure
    render.failure(failure, json_wanted=False)
    return failure.status


def _leave_after_ssh() -> None:
    """A guest that says nothing more, nor hangs up, shall not hold this process when ssh has gone."""
    poll = select.poll()
    poll.register(0, 0)  # that the other end is closed is always told
    poll.poll()
    time.sleep(_LAST_WORDS_S)
    os._exit(FAILED)


def _known_hosts(host: str) -> int:
    name = reach.vm_name(host)
    service = Service()
    lines = openssh.host_lines(host, reach.host_keys(service, reach.find(service, name, render.note)))
    print("\n".join(lines))
    return OK


def _connect(host: str, port: int) -> int:
    dial.check_receiver()
    name = reach.vm_name(host)
    key = keys.current(config.settings())
    service = Service()
    target = reach.find(service, name, render.note)
    reach.let_in(service, target, key)
    with dial.dial(service, target, port, _carried, render.note) as connection:
        connection.settimeout(None)  # it is the descriptor that blocks or not, and that is ssh's from now on
        dial.hand_over(connection)
    return OK


def _carried(fd: int) -> socket.socket:
    """A socket whose bytes a process of its own takes to an sshd over the session `fd`, until either side ends."""
    ours, theirs = socket.socketpair()
    os.set_inheritable(fd, True)  # noqa: FBT003 - it takes no keyword
    words = [*userfile.program(), "ssh-connect", "--carry", str(fd)]
    end = theirs.fileno()
    try:
        # In a session of its own: neither Ctrl-C nor the terminal's end is for it, it ends with the connection.
        os.posix_spawn(
            words[0],
            words,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, end, 0),
                (os.POSIX_SPAWN_DUP2, end, 1),
                (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
            ],
            setsid=True,
        )
    except OSError as exc:
        why = os.strerror(exc.errno or 0)
        raise Failure("Failed", f"cannot start {words[0]}", why=why, hint="install banger anew") from None
    theirs.close()
    os.close(fd)
    return ours
