"""Firecracker's API: HTTP over a Unix socket that a VMM which was broken into may answer on.

One connection a request, as short as the request. No thread: VMMs that do not answer would soon hold them all.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bangerd.host.shims import printable
from bangerd.host.vmsock import dial
from bangerd.model.errors import StepFailed

LIMIT = 64 * 1024
HEAD_LIMIT = 4096
_STATUS = re.compile(rb"HTTP/1\.[01] ([2-5]\d\d)[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d*)[^\r]*", re.IGNORECASE)


class Refused(StepFailed):
    """Firecracker understood the request and does not do it; the sentence has its reason."""


@dataclass(frozen=True, slots=True)
class Request:
    """`body` becomes JSON; None: no body."""

    method: str
    resource: str
    body: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.resource}"

    def encode(self) -> bytes:
        """As it is sent."""
        head = f"{self} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
        if self.body is None:
            return f"{head}\r\n".encode()
        body = json.dumps(self.body).encode()
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return f"{head}\r\n".encode() + body


async def request(path: Path, uid: int, wanted: Request, timeout_s: float) -> dict[str, Any]:
    """Ask at the socket `path` of a process that carries `uid`; the answer's JSON object, {} if it has none.

    Raises Refused with Firecracker's reason, and StepFailed when there is no sane answer in time.
    """
    try:
        sock = dial(path, uid)
    except OSError as exc:
        raise StepFailed(f"its API socket cannot be reached ({exc.strerror or exc})") from exc
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=HEAD_LIMIT)
    try:
        # For all of it: an answer may come byte by byte.
        async with asyncio.timeout(timeout_s):
            writer.write(wanted.encode())
            await writer.drain()
            status, text = await _answer(reader)
    except TimeoutError as exc:
        raise StepFailed(f"it did not answer {wanted} within {timeout_s:g} s") from exc
    except (OSError, EOFError, asyncio.LimitOverrunError) as exc:
        raise StepFailed(f"it broke off {wanted} ({str(exc) or type(exc).__name__})") from exc
    finally:
        writer.close()
    found = _object(text)
    if status >= 300:
        why = printable(str(found.get("fault_message") or "no reason given"))[:400]
        raise Refused(f"it refused {wanted}: {why}")
    return found


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body. Raises EOFError, LimitOverrunError and OSError; StepFailed when it is no HTTP, or too long."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = _STATUS.match(head)
    length = _LENGTH.search(head)
    if not status or (length and not length[1]):
        raise StepFailed("it answered with what is no HTTP")
    size = int(length[1]) if length else 0
    if size > LIMIT:
        raise StepFailed(f"it answered with more than {LIMIT} bytes")
    return int(status[1]), await reader.readexactly(size)


def _object(text: bytes) -> dict[str, Any]:
    if not text:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise StepFailed("it answered with what is no JSON") from exc
    if not isinstance(found, dict):
        raise StepFailed("it answered with what is no JSON object")
    return found
