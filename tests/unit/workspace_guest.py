"""A stand-in for a guest: it keeps to the session protocol and runs the commands here, with a folder as its /root."""

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

Link = socket.socket


def message(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack("<BBHI", kind, 0, 0, len(payload)) + payload


def take(link: Link) -> tuple[int, bytes]:
    """The next message; (0, b"") at the end of the stream."""
    head = link.recv(8, socket.MSG_WAITALL)
    if len(head) < 8:
        return 0, b""
    kind, _, _, length = struct.unpack("<BBHI", head)
    data = b""
    while len(data) < length:
        more = link.recv(length - len(data))
        if not more:
            return 0, b""
        data += more
    return kind, data


def arguments(payload: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(payload):
        tag, size = struct.unpack_from("<HI", payload, at)
        if tag == 1:
            found.append(payload[at + 6 : at + 6 + size])
        at += 6 + size
    return found


class Guest:
    """`home` is its /root. `path` is the PATH of its commands: a folder with other programs first."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = os.environ["PATH"]
        self.sessions = 0
        self.play: Callable[[Link], None] | None = None  # what it does in place of running commands
        self.after_bytes: tuple[int, Callable[[], None]] | None = (
            None  # something done when so much has come in
        )
        self._threads: list[threading.Thread] = []

    def open_session(self) -> int:
        self.sessions += 1
        ours, theirs = socket.socketpair()
        thread = threading.Thread(target=self._serve, args=(ours,))
        thread.start()
        self._threads.append(thread)
        return theirs.detach()

    def close(self) -> None:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def _serve(self, link: Link) -> None:
        with link:
            try:
                kind, payload = take(link)
                if kind == 0:
                    return
                assert kind == 1
                if self.play is not None:
                    self.play(link)
                else:
                    self._run(link, arguments(payload))
            except (BrokenPipeError, ConnectionResetError):
                pass

    def _run(self, link: Link, argv: list[bytes]) -> None:
        home = os.fsencode(self.home)
        argv = [home + word[5:] if word == b"/root" or word.startswith(b"/root/") else word for word in argv]
        env = {"PATH": self.path, "HOME": str(self.home), "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1"}
        try:
            child = subprocess.Popen(
                argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError:
            link.sendall(message(20, struct.pack("<I", 127) + argv[0] + b": no such program"))
            return
        with child:
            link.sendall(message(16, struct.pack("<I", child.pid)) + message(21, struct.pack("<I", 262144)))
            readers = [
                threading.Thread(target=self._copy, args=(link, stream, kind))
                for stream, kind in ((child.stdout, 17), (child.stderr, 18))
            ]
            for reader in readers:
                reader.start()
            feeder = threading.Thread(target=self._feed, args=(link, child))
            feeder.start()
            for reader in readers:
                reader.join()
            status = child.wait()
            how = (1, -status) if status < 0 else (0, status)
            try:
                link.sendall(message(19, struct.pack("<II", *how)))
                link.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            feeder.join()

    def _copy(self, link: Link, stream, kind: int) -> None:
        while data := stream.read1(65536):
            try:
                link.sendall(message(kind, data))
            except OSError:
                return

    def _feed(self, link: Link, child: subprocess.Popen[bytes]) -> None:
        """Input until its end; when the client goes away the process group gets what the guest program sends it."""
        came, open_ = 0, True
        while True:
            try:
                kind, data = take(link)
            except OSError:
                kind, data = 0, b""
            if kind == 0:
                with suppress(ProcessLookupError):  # it ended meanwhile
                    os.killpg(child.pid, 1)
                if open_:
                    child.stdin.close()
                return
            if kind != 2 or not open_:
                continue
            came += len(data)
            if self.after_bytes is not None and came >= self.after_bytes[0]:
                do, self.after_bytes = self.after_bytes[1], None
                do()
            try:
                if data:
                    child.stdin.write(data)
                    child.stdin.flush()
                    link.sendall(message(21, struct.pack("<I", len(data))))
                else:
                    open_ = False
                    child.stdin.close()
            except OSError:
                open_ = False
