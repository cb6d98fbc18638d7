"""The initrd of a kernel: banger's guest program as /init, and the kernel's modules as its worker packed them.

Two cpio archives one after the other, which the kernel unpacks both; so a new guest program needs neither
the network nor a look into what the worker wrote.
"""

import hashlib
import os
from pathlib import Path

from bangerd.model import newc
from bangerd.model.errors import HostNotReady


def read_program(path: Path) -> tuple[bytes, str]:
    """The guest program and its sha256. Raises HostNotReady when it is not there."""
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise HostNotReady(
            f"the guest program {path} cannot be read ({exc.strerror}); install banger again"
        ) from exc
    return content, hashlib.sha256(content).hexdigest()


def write(target: Path, program: bytes, modules: Path) -> None:
    """Make the initrd, whole or not at all; a VM that boots right now keeps the file that it has."""
    new = target.with_name(".initrd.new")
    with new.open("wb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(newc.file("init", program, mode=0o755) + newc.trailer())
        file.write(modules.read_bytes())
        file.flush()
        os.fsync(file.fileno())
    new.rename(target)
