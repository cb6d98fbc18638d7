"""The proxy of ssh that copies nothing: it makes the connection, and passes the connected socket to ssh.

That is ssh's ProxyUseFdpass: our standard output is a socket on which it waits for one byte and a descriptor.
"""

import os
import socket
import stat
import time
from collections.abc import Callable

from banger.errors import Failure
from banger.service import Service
from banger.ssh import reach
from banger.ssh.reach import SSH_PORT, Target

_TRY_S = 5.0
_RETRY_S = 0.1
_ASK_S = 3.0  # a guest that boots is busy: it is asked so often, its port tried at each round
_WAIT_S = 90.0
_TELL_S = 1.0


def check_receiver() -> None:
    """Raises Failure unless our standard output leads to an ssh that takes a descriptor."""
    about = os.fstat(1)
    if not stat.S_ISSOCK(about.st_mode) or not os.path.sameopenfile(0, 1):
        raise Failure(
            "NotForPeople",
            "`banger ssh-connect` is run by ssh",
            why="nobody here takes the connection",
            hint="`banger vm ssh NAME`, or `banger ssh-config`; another program's ssh needs ProxyUseFdpass too",
        )


def hand_over(connection: socket.socket) -> None:
    """Give `connection` to the ssh that waits for it. Raises Failure if it does not."""
    with socket.socket(fileno=os.dup(1)) as receiver:
        try:
            socket.send_fds(receiver, [b"\0"], [connection.fileno()])
        except OSError as exc:
            raise Failure(
                "NoReceiver", "ssh does not take the connection", why=os.strerror(exc.errno or 0)
            ) from None


def dial(
    service: Service,
    target: Target,
    port: int,
    carry: Callable[[int], socket.socket],
    say: Callable[[str], object],
) -> socket.socket:
    """A connection to the guest's sshd: over the network, or, where that does not work, over the guest channel.

    `carry` makes a socket whose bytes go over the session with the descriptor it is given. Raises Failure.
    """
    began, ask_at, told = time.monotonic(), 0.0, False
    address = target.address
    while True:
        connection, address = _try(address, port)
        now = time.monotonic()
        if connection is not None:
            return connection
        if now >= ask_at:
            if reach.ask(service, target) == "up" or now - began >= _WAIT_S:
                break
            ask_at = time.monotonic() + _ASK_S
        if now - began >= _TELL_S and not told:
            told = True
            say(f"waiting for the sshd of '{target.name}': its system is starting…")
        time.sleep(_RETRY_S)
    connection, _ = _try(address, port)  # it may have come up while we asked
    if connection is not None:
        return connection
    if port != SSH_PORT:
        raise Failure(
            "NoConnection",
            f"'{target.name}' cannot be reached on port {port}",
            why="nothing that we can reach listens there",
            hint=f"`banger vm show {target.name}` shows its address and what listens",
        )
    return carry(service.open_session(target.vm))


def _try(address: str, port: int) -> tuple[socket.socket | None, str]:
    """A connection, and the address to try again, "" if that makes no sense: no network, a firewall, another's VM."""
    if not address:
        return None, ""
    try:
        return socket.create_connection((address, port), _TRY_S), address
    except ConnectionRefusedError:
        return None, address
    except OSError:
        return None, ""
