"""Whether a program can be run here at all, told in words: the kernel has but one number for it."""

import os
import stat
import struct
from pathlib import Path

from bangerd.model.errors import HostNotReady

# elf.h: EM_…, as `uname -m` names them
_MACHINES = {3: "i686", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_RUNS = {"x86_64": {"x86_64", "i686"}, "aarch64": {"aarch64", "arm"}}
_HEAD = 20


def check_program(path: str) -> None:
    """Raises HostNotReady with the reason. Costs two system calls more than the start itself."""
    why = _why_not(Path(path))
    if why:
        raise HostNotReady(f"{path} cannot be run: {why}")


def _why_not(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        return exc.strerror or str(exc)
    try:
        mode = os.fstat(descriptor).st_mode
        head = os.read(descriptor, _HEAD) if stat.S_ISREG(mode) else b""
    finally:
        os.close(descriptor)
    if stat.S_ISDIR(mode):
        return "it is a folder"
    if not stat.S_ISREG(mode) or not mode & 0o111:
        return "it is not executable"
    if head.startswith(b"#!"):
        return ""
    if len(head) < _HEAD or not head.startswith(b"\x7fELF"):
        return "it is neither a program nor a script"
    (number,) = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)
    built, here = _MACHINES.get(number, f"machine {number}"), os.uname().machine
    return "" if built in _RUNS.get(here, {here}) else f"it is for {built}, and this machine is {here}"
