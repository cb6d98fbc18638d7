"""Firecracker's API: HTTP over a Unix socket that a VMM which was broken into may answer on.

Blocking, for a thread; one connection a request, as short as the request.
"""

import json
import socket
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, IncompleteRead
from pathlib import Path
from typing import Any

from bangerd.host.shims import printable
from bangerd.host.vmsock import dial
from bangerd.model.errors import StepFailed

LIMIT = 64 * 1024


class Refused(StepFailed):
    """Firecracker understood the request and does not do it; the sentence has its reason."""


class _Connection(HTTPConnection):
    def __init__(self, sock: socket.socket) -> None:
        super().__init__("localhost")
        self.sock = sock


@dataclass(frozen=True, slots=True)
class Request:
    """`body` becomes JSON; None: no body."""

    method: str
    resource: str
    body: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.resource}"


def request(path: Path, uid: int, wanted: Request, timeout_s: float) -> dict[str, Any]:
    """Ask at the socket `path` of a process that carries `uid`; the answer's JSON object, {} if it has none.

    Raises Refused with Firecracker's reason, and StepFailed when there is no sane answer in time.
    """
    try:
        sock = dial(path, uid)
    except OSError as exc:
        raise StepFailed(f"its API socket cannot be reached ({exc.strerror or exc})") from exc
    # For all of it: an answer that comes byte by byte would hold this thread, of which there are few, for days.
    over = threading.Event()
    sock.settimeout(None)
    with sock, ExitStack() as closed:
        timer = threading.Timer(timeout_s, _hang_up, (sock, over))
        timer.daemon = True
        timer.start()
        closed.callback(timer.cancel)
        connection = _Connection(sock)
        headers = {"Accept": "application/json"}
        body = None
        if wanted.body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(wanted.body)
        try:
            connection.request(wanted.method, wanted.resource, body, headers)
            answer = closed.enter_context(connection.getresponse())
            text = answer.read(LIMIT + 1)
            if (answer.length or over.is_set()) and len(text) <= LIMIT:
                raise IncompleteRead(text, answer.length or 0)
        except (OSError, HTTPException) as exc:
            if over.is_set():
                raise StepFailed(f"it did not answer {wanted} within {timeout_s:g} s") from exc
            raise StepFailed(f"it broke off {wanted} ({str(exc) or type(exc).__name__})") from exc
    found = _object(text)
    if answer.status >= 300:
        why = printable(str(found.get("fault_message") or "no reason given"))[:400]
        raise Refused(f"it refused {wanted}: {why}")
    return found


def _hang_up(sock: socket.socket, over: threading.Event) -> None:
    over.set()
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _object(text: bytes) -> dict[str, Any]:
    if not text:
        return {}
    if len(text) > LIMIT:
        raise StepFailed(f"it answered with more than {LIMIT} bytes")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise StepFailed("it answered with what is no JSON") from exc
    if not isinstance(found, dict):
        raise StepFailed("it answered with what is no JSON object")
    return found
