"""The ELF kernel inside a bzImage: what Firecracker boots, and what no distribution packages by itself.

Layout: Linux, Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header"): the payload and its length are at
0x248 and 0x24c, counted from the end of the setup sectors. It is compressed in one of the ways of the kernel's own
scripts/Makefile.lib, which append the size of the content where the format itself does not tell it.
"""

import contextlib
import lzma
import struct
import subprocess
import threading
import zlib
from typing import IO

from bangerd.workers import archive
from bangerd.workers.reports import WorkerError

LIMIT = 512 * 1024 * 1024
_SECTOR = 512
_PAYLOAD_SINCE = 0x0208  # of the boot protocol
_LZ4_MAGIC = b"\x02\x21\x4c\x18"  # the legacy frame: what `lz4 -l` writes
_ELF64 = b"\x7fELF\x02\x01\x01"
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_ET_EXEC, _ET_DYN, _EM_X86_64, _PT_LOAD = 2, 3, 62, 1


def extract(image: bytes) -> bytes:
    """The ELF file in the bzImage `image`. Raises WorkerError when there is none, or it is cut off or too large."""
    payload = _payload(image)
    try:
        kernel = _decompress(payload)
    except (zlib.error, lzma.LZMAError, EOFError) as exc:
        raise _bad(f"its payload cannot be decompressed ({exc})") from exc
    _check(kernel)
    return kernel


def _payload(image: bytes) -> bytes:
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        raise _bad("it has no boot header")
    (version,) = struct.unpack_from("<H", image, 0x206)
    if version < _PAYLOAD_SINCE:
        raise _bad(
            f"its boot protocol {version >> 8}.{version & 0xFF:02} does not tell where the payload is"
        )
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * _SECTOR + offset
    if not length or start + length > len(image):
        raise _bad("its payload lies beyond its end")
    return image[start : start + length]


def _decompress(payload: bytes) -> bytes:
    if payload.startswith(b"\x1f\x8b"):
        return _all(zlib.decompressobj(31), payload)
    if payload.startswith(b"\xfd7zXZ\0"):
        return _all(lzma.LZMADecompressor(lzma.FORMAT_XZ), payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return _by_tool("zstd", payload)
    if payload.startswith(_LZ4_MAGIC):
        return _by_tool("lz4", payload)
    if payload.startswith(_ELF64):
        return payload
    raise _bad(f"its payload begins with {payload[:4].hex()}; gzip, xz, zstd and LZ4 are known")


def _all(decompressor: "zlib._Decompress | lzma.LZMADecompressor", payload: bytes) -> bytes:
    kernel = decompressor.decompress(payload, LIMIT + 1)
    if not decompressor.eof and len(kernel) <= LIMIT:
        raise EOFError("it ends too soon")
    return kernel


def _by_tool(tool: str, payload: bytes) -> bytes:
    """What the standard library lacks before Python 3.14. The last four bytes are the content's size."""
    archive.needed(tool)
    content, (size,) = payload[:-4], struct.unpack_from("<I", payload, len(payload) - 4)
    with subprocess.Popen(
        [tool, "-dcq"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018
        feeder = threading.Thread(target=_feed, args=(process.stdin, content))
        feeder.start()
        kernel = process.stdout.read(LIMIT + 1)
        process.stdout.close()  # of a bomb the rest is not wanted
        feeder.join()
        said = process.stderr.read(4096).decode(errors="replace").strip()
    if len(kernel) <= LIMIT and (process.returncode != 0 or len(kernel) != size):
        raise EOFError(said.splitlines()[-1] if said else "it ends too soon")
    return kernel


def _feed(sink: IO[bytes], content: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), sink:
        sink.write(content)


def _check(kernel: bytes) -> None:
    """A whole static x86-64 executable whose loadable parts are all there."""
    if len(kernel) > LIMIT:
        raise _bad(f"its content is larger than {LIMIT >> 20} MiB")
    if len(kernel) < _EHDR.size or not kernel.startswith(_ELF64):
        raise _bad("its content is no 64-bit ELF file")
    _ident, kind, machine, _version, entry, table, _, _, _, entry_size, entries, *_ = _EHDR.unpack_from(
        kernel
    )
    if machine != _EM_X86_64 or kind not in (_ET_EXEC, _ET_DYN):
        raise _bad(f"its content is no x86-64 program (machine {machine}, type {kind})")
    if entry_size != _PHDR.size or table + entries * _PHDR.size > len(kernel):
        raise _bad("its content has no whole table of segments")
    loaded = 0
    for index in range(entries):
        segment, _flags, offset, _virtual, physical, in_file, in_memory, _align = _PHDR.unpack_from(
            kernel, table + index * _PHDR.size
        )
        if segment != _PT_LOAD:
            continue
        loaded += 1
        if offset + in_file > len(kernel) or in_file > in_memory or physical + in_memory > 1 << 40:
            raise _bad(f"segment {index} of its content is cut off")
    if not loaded or not entry:
        raise _bad("its content has nothing to load")


def _bad(why: str) -> WorkerError:
    return WorkerError("failed", f"this kernel is no bzImage that a VM can boot: {why}")
