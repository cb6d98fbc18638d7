"""Whether a program needs more than its own file to run. Reads programs that root alone can change, and trusts none."""

import struct
from pathlib import Path

_HEAD = 64 * 1024  # program headers follow the ELF header; linkers put them into the first page
_ELF64 = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_PHENTSIZE = 56
_PT_INTERP = 3


def needs_libraries(program: Path) -> bool:
    """False only for a static program. What cannot be read is none: starting it will say why."""
    try:
        with program.open("rb") as file:
            return not is_static(file.read(_HEAD))
    except OSError:
        return True


def is_static(head: bytes) -> bool:
    """Whether this is the beginning of a 64-bit ELF file that asks for no dynamic linker. No other input is."""
    if len(head) < 64 or not head.startswith(_ELF64):
        return False
    (offset,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    if size != _PHENTSIZE or count == 0 or offset + size * count > len(head):
        return False
    kinds = [struct.unpack_from("<I", head, offset + size * index)[0] for index in range(count)]
    return _PT_INTERP not in kinds
