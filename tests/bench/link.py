"""The host's end of the link to a guest program (docs/guest-protocol.md): enough to run one command after the other.

What the shim does otherwise, so that a VMM can be measured without it.
"""

import os
import socket
import struct
import zlib

from banger import messages
from tests.bench.shim import last_of_session

HELLO, WELCOME, OPEN, OPENED, DATA, CREDIT, EOF, CLOSE, CLOSED, CONTROL = range(1, 11)
SESSIONS = 1  # the port
WINDOW = 1 << 20
_HEADER = struct.Struct("<2sBBIII")  # magic, type, flags, channel, length, epoch; the CRC follows
_SIZE = _HEADER.size + 4
_NONCE = 16


def frame(kind: int, channel: int, payload: bytes, epoch: int) -> bytes:
    head = _HEADER.pack(b"BG", kind, 0, channel, len(payload), epoch)
    return head + struct.pack("<I", zlib.crc32(head + payload)) + payload


class Link:
    """Over a connected socket, which it takes over. Raises RuntimeError when the guest goes away."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._epoch = 0
        self._channel = 0

    def hello(self) -> None:
        """The handshake: returns when the guest program has answered."""
        nonce = os.urandom(_NONCE)
        self._send(HELLO, 0, struct.pack("<H", 1) + nonce)
        while True:
            kind, _channel, payload = self._receive()
            if kind == WELCOME and payload[2 : 2 + _NONCE] == nonce:
                (self._epoch,) = struct.unpack_from("<I", payload, 2 + _NONCE)
                return

    def run(self, *argv: str) -> bytes:
        """A command's standard output. Raises RuntimeError when it fails."""
        self._channel += 1
        self._send(OPEN, self._channel, struct.pack("<II", SESSIONS, WINDOW))
        self._send(DATA, self._channel, messages.encode(messages.Command(argv)))
        said, out = bytearray(), bytearray()
        while True:
            kind, channel, payload = self._receive()
            if channel != self._channel:
                continue
            if kind in (CLOSE, CLOSED):
                raise RuntimeError(f"the guest closed the session of {argv}")
            if kind != DATA:
                continue
            said += payload
            self._send(CREDIT, channel, struct.pack("<I", len(payload)))
            while (message := _message(said)) is not None:
                kind, payload = message
                if last_of_session(kind, payload, out, argv):
                    return bytes(out)

    def close(self) -> None:
        self._sock.close()

    def _send(self, kind: int, channel: int, payload: bytes) -> None:
        self._sock.sendall(frame(kind, channel, payload, self._epoch))

    def _receive(self) -> tuple[int, int, bytes]:
        """Type, channel and payload of the next frame."""
        while len(self._buffer) < _SIZE or len(self._buffer) < _SIZE + self._length():
            data = self._sock.recv(1 << 16)
            if not data:
                raise RuntimeError("the VMM closed the link")
            self._buffer += data
        _magic, kind, _flags, channel, length, _epoch = _HEADER.unpack_from(self._buffer)
        payload = bytes(self._buffer[_SIZE : _SIZE + length])
        del self._buffer[: _SIZE + length]
        return kind, channel, payload

    def _length(self) -> int:
        magic, *_rest, length, _epoch = _HEADER.unpack_from(self._buffer)
        if magic != b"BG":
            raise RuntimeError(f"what comes over the link is no frame: {bytes(self._buffer[:20])!r}")
        return int(length)


def _message(said: bytearray) -> tuple[int, bytes] | None:
    """Take a session's next whole message out of `said`."""
    if len(said) < messages.HEADER.size:
        return None
    kind, length = messages.HEADER.unpack_from(said)
    end = messages.HEADER.size + length
    if len(said) < end:
        return None
    payload = bytes(said[messages.HEADER.size : end])
    del said[:end]
    return kind, payload


def dial(path: str, patience: float) -> socket.socket | None:
    """A connection to the guest program through a VMM's vsock socket; None while nobody answers there."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(patience)
    try:
        sock.connect(path)
        sock.sendall(b"CONNECT 1024\n")
        answer = b""
        while not answer.endswith(b"\n") and (byte := sock.recv(1)):
            answer += byte
    except (FileNotFoundError, ConnectionError):
        answer = b""
    if answer.startswith(b"OK "):
        return sock
    sock.close()
    return None
