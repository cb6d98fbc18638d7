"""One end of the link, made by hand for tests: sound frames, and whatever else is to be sent."""

import socket
import struct
import zlib

from tests.unit.native_protocol import (
    CONTROL,
    HELLO,
    WELCOME,
    frame,
)

PADDING = bytes(65556)


class Link:
    """Frames over a connected socket, which must be sound; skips nothing but zero bytes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(20)
        self.buffer = bytearray()
        self.epoch = 0

    def send(self, kind: int, channel: int = 0, payload: bytes = b"", epoch: int | None = None) -> None:
        self.sock.sendall(frame(kind, channel, payload, self.epoch if epoch is None else epoch))

    def read(self) -> tuple[int, int, bytes]:
        """The next frame's type, channel and payload. Raises EOFError."""
        while True:
            start = len(self.buffer) - len(self.buffer.lstrip(b"\0"))
            del self.buffer[:start]
            if len(self.buffer) >= 20:
                kind, _, channel, length, epoch, crc = struct.unpack_from("<xxBBIIII", self.buffer)
                if len(self.buffer) >= 20 + length:
                    payload = bytes(self.buffer[20 : 20 + length])
                    assert crc == zlib.crc32(bytes(self.buffer[:16]) + payload)
                    del self.buffer[: 20 + length]
                    assert kind in (HELLO, WELCOME) or epoch == self.epoch
                    return kind, channel, payload
            data = self.sock.recv(1 << 18)
            if not data:
                raise EOFError
            self.buffer += data

    def expect(self, kind: int, channel: int = 0) -> bytes:
        """The payload of the next frame of this kind on this channel; memory and ports lines are passed over."""
        while True:
            got, where, payload = self.read()
            if (got, where) == (kind, channel):
                return payload
            assert got == CONTROL, (
                f"expected frame {kind} on {channel}, got {got} on {where}: {payload[:80]!r}"
            )
            assert payload.split()[0] in (b"memory", b"ports", b"clock", b"ready", b"resync"), payload

    def control(self, word: bytes) -> bytes:
        """The next CONTROL line that begins with this word."""
        while not (line := self.expect(CONTROL)).startswith(word):
            pass
        return line
