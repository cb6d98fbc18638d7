"""The seed: what a guest is told at boot, as the content of its first disk. Read by service/native/seed.c."""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from bangerd.model.errors import InvalidSpec

MAGIC = b"BGRSEED1"
BLOCK = 4096
LIMIT = 1024 * 1024


class Tag(IntEnum):
    HOSTNAME = 1
    ADDRESS = 2
    GATEWAY = 3
    NAMESERVER = 4
    DISK = 5
    AUTHORIZED_KEY = 6
    FILE = 7
    INIT = 8
    ENTRYPOINT = 9
    ENV = 10
    SEARCH = 11
    FOLDER = 12
    USER = 13


@dataclass(frozen=True, slots=True)
class Seed:
    """`disks`: roles in device order from vdb on; `address` with its prefix length; `files`: path, mode, content."""

    hostname: str
    address: str = ""
    gateway: str = ""
    nameservers: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    authorized_keys: tuple[str, ...] = ()
    files: tuple[tuple[str, int, bytes], ...] = ()
    init: str = ""
    entrypoint: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""  # of the entrypoint
    user: str = ""  # of the entrypoint
    search: tuple[str, ...] = field(default=("vm",))

    def _items(self) -> Iterable[tuple[Tag, bytes]]:
        yield Tag.HOSTNAME, self.hostname.encode()
        if self.address:
            yield Tag.ADDRESS, self.address.encode()
            yield Tag.GATEWAY, self.gateway.encode()
        yield from ((Tag.NAMESERVER, text.encode()) for text in self.nameservers)
        yield from ((Tag.DISK, bytes([i]) + role.encode()) for i, role in enumerate(self.disks, start=1))
        yield from ((Tag.AUTHORIZED_KEY, text.encode()) for text in self.authorized_keys)
        for path, mode, content in self.files:
            yield Tag.FILE, struct.pack("<I", mode) + path.encode() + b"\0" + content
        if self.init:
            yield Tag.INIT, self.init.encode()
        yield from ((Tag.ENTRYPOINT, text.encode()) for text in self.entrypoint)
        yield from ((Tag.ENV, text.encode()) for text in self.env)
        if self.entrypoint and self.working_dir:
            yield Tag.FOLDER, self.working_dir.encode()
        if self.entrypoint and self.user:
            yield Tag.USER, self.user.encode()
        yield from ((Tag.SEARCH, text.encode()) for text in self.search)

    def encode(self) -> bytes:
        """The disk's bytes, a whole number of 4,096-byte blocks. Raises InvalidSpec over 1 MiB."""
        items = b"".join(struct.pack("<HI", tag, len(data)) + data for tag, data in self._items())
        raw = MAGIC + struct.pack("<II", len(items), zlib.crc32(items)) + items
        if len(raw) > LIMIT:
            raise InvalidSpec(
                f"keys, files and environment for the guest come to {len(raw)} bytes; 1 MiB is the limit"
            )
        return raw + bytes(-len(raw) % BLOCK)
