"""The ELF kernel is taken out of bzImages of every compression; what is no kernel is refused, with the reason."""

import contextlib
import gzip
import lzma
import random
import struct
import subprocess
from collections.abc import Callable

import pytest

from bangerd.workers import vmlinux
from bangerd.workers.reports import WorkerError

BLOCK = 8 * 1024 * 1024


def elf(size: int = 3 * 1024 * 1024, *, machine: int = 62, in_file: int | None = None) -> bytes:
    """A program of one segment that looks like a kernel: half noise, half zeros."""
    body = random.Random(size).randbytes(size // 2).ljust(size, b"\0")
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, machine, 1, 0x1000000, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    length = len(body) if in_file is None else in_file
    return header + struct.pack("<IIQQQQQQ", 1, 5, 120, 0, 0x1000000, length, length, 4096) + body


def size_of(kernel: bytes) -> bytes:
    return struct.pack("<I", len(kernel))


def by_tool(*argv: str) -> Callable[[bytes], bytes]:
    def compress(kernel: bytes) -> bytes:
        return subprocess.run(argv, input=kernel, capture_output=True, check=True).stdout + size_of(kernel)

    return compress


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lambda kernel: lzma.compress(kernel, preset=0) + size_of(kernel),
    "zstd": by_tool("zstd", "-q1c"),
    "lz4": by_tool("lz4", "-lq1c"),
    "none": lambda kernel: kernel,
}


def bzimage(
    payload: bytes, *, version: int = 0x020F, offset: int = 0x300, length: int | None = None
) -> bytes:
    setup = bytearray(5 * 512)
    setup[0x1F1] = 4
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<II", setup, 0x248, offset, len(payload) if length is None else length)
    return bytes(setup) + b"\x90" * offset + payload + b"\xcc" * 4096


@pytest.mark.parametrize("how", COMPRESSIONS)
@pytest.mark.parametrize("size", [4096, BLOCK, 2 * BLOCK + 12345])
def test_every_compression_gives_the_kernel_back(how: str, size: int) -> None:
    kernel = elf(size)
    assert vmlinux.extract(bzimage(COMPRESSIONS[how](kernel))) == kernel


@pytest.mark.parametrize("how", [how for how in COMPRESSIONS if how != "none"])
@pytest.mark.parametrize("kept", [20, 1000, -5000])
def test_a_payload_that_is_cut_off_is_refused(how: str, kept: int) -> None:
    with pytest.raises(WorkerError, match="no bzImage that a VM can boot"):
        vmlinux.extract(bzimage(COMPRESSIONS[how](elf())[:kept]))


@pytest.mark.parametrize("how", COMPRESSIONS)
def test_damage_never_ends_in_anything_but_a_refusal(how: str) -> None:
    image = bytearray(bzimage(COMPRESSIONS[how](elf(64 * 1024))))
    dice = random.Random(how)
    for _ in range(25):
        at = dice.randrange(0x1F0, len(image) - 4096)
        kept, image[at] = image[at], dice.randrange(256)
        with contextlib.suppress(WorkerError):
            assert vmlinux.extract(bytes(image)).startswith(b"\x7fELF")
        image[at] = kept


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (b"", "no boot header"),
        (b"\0" * 4096, "no boot header"),
        (bzimage(elf(), version=0x0207), "boot protocol 2.07"),
        (bzimage(elf(), length=0), "beyond its end"),
        (bzimage(elf(), length=2**32 - 1), "beyond its end"),
        (bzimage(elf(), offset=0, length=2**31), "beyond its end"),
        (bzimage(b"\x5d\0\0" + bytes(100)), "begins with 5d000000"),
        (bzimage(gzip.compress(b"not a kernel")), "no 64-bit ELF"),
        (bzimage(gzip.compress(elf(machine=183))), "machine 183"),
        (bzimage(gzip.compress(elf()[:100])), "table of segments"),
        (bzimage(gzip.compress(elf(in_file=2**40))), "segment 0 of its content is cut off"),
    ],
)
def test_what_is_no_kernel_is_refused_with_the_reason(image: bytes, why: str) -> None:
    with pytest.raises(WorkerError, match=why):
        vmlinux.extract(image)


def test_a_bomb_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmlinux, "LIMIT", 1024 * 1024)
    for compress in COMPRESSIONS.values():
        with pytest.raises(WorkerError, match="larger than 1 MiB|cannot be decompressed"):
            vmlinux.extract(bzimage(compress(elf())))
