"""Takes what a build worker made: nothing of it is believed before it has been looked at by descriptor."""

import errno
import hashlib
import os
import shutil
import stat
from pathlib import Path
from types import TracebackType

from bangerd.host import tree
from bangerd.model.errors import PullFailed, StepFailed

SIZE_LIMIT = 8 << 30


class Delivery:
    """Moves files out of a worker's folder, whose processes are all gone, into `folder`, which is root's.

    Names in the worker's folder may be links or pipes: each is opened without following, and checked.
    """

    def __init__(self, job: Path, build: str) -> None:
        self.folder = job / "out"
        self._job = job
        self._build_name = build
        self._build = -1

    def __enter__(self) -> "Delivery":
        self.folder.mkdir(mode=0o755)
        self.folder.chmod(0o755)
        self._build = tree.open_folder(self._job / self._build_name)
        tree.take(self._build)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._build)

    def take(self, name: str) -> tuple[str, int]:
        """Move one file, root's and readable by all from then on. Returns its sha256 in hex and its size.

        Raises PullFailed when it is missing, or not what its name says.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._build)
        except OSError as exc:
            raise PullFailed(f"the build worker delivered no {name} ({exc.strerror})") from exc
        try:
            seen = os.fstat(descriptor)
            if not stat.S_ISREG(seen.st_mode) or seen.st_nlink != 1 or not 0 < seen.st_size <= SIZE_LIMIT:
                raise PullFailed(f"what the build worker delivered as {name} is no plain file of its own")
            check_content(name, os.pread(descriptor, 4096, 0), seen.st_size)
            os.fchown(descriptor, 0, 0)
            os.fchmod(descriptor, 0o644)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(descriptor)
            target = self.folder / name
            os.rename(name, target, src_dir_fd=self._build)
            if not os.path.samestat(os.lstat(target), seen):
                raise PullFailed(f"{name} was replaced while it was checked")
        finally:
            os.close(descriptor)
        return digest, seen.st_size

    def place(self, target: Path) -> None:
        """Move the whole folder to `target` in one step. One already there stays. Raises StepFailed."""
        for path in (self.folder, *self.folder.iterdir()):
            _sync(path)
        try:
            self.folder.rename(target)
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise StepFailed(f"{target} could not be made: {exc}") from exc
            shutil.rmtree(self.folder)
        _sync(target.parent)


def check_content(name: str, head: bytes, size: int) -> None:
    """Raise PullFailed when a file's first 4 KiB do not fit its name: a squashfs that is whole, a bzImage, its ELF."""
    if name.endswith(".squashfs"):
        # Superblock: magic, …, at 28 the major version, at 40 the bytes used (Linux, fs/squashfs/squashfs_fs.h).
        if len(head) < 96 or head[:4] != b"hsqs" or int.from_bytes(head[28:30], "little") != 4:
            raise PullFailed(
                f"{name} is no squashfs file system; images are made with sqfstar or mksquashfs"
            )
        used = int.from_bytes(head[40:48], "little")
        if used > size:
            raise PullFailed(f"{name} is cut off: {size} of {used} bytes are there; make or copy it again")
    # Boot sector signature and "HdrS" (Linux, Documentation/arch/x86/boot.rst).
    elif name == "vmlinuz" and (head[0x1FE:0x200] != b"\x55\xaa" or head[0x202:0x206] != b"HdrS"):
        raise PullFailed(f"{name} is no Linux kernel in bzImage format")
    # elf.h: 64 bits, little-endian; at 18 the machine, EM_X86_64.
    elif name == "vmlinux" and (head[:6] != b"\x7fELF\x02\x01" or head[18:20] != b"\x3e\x00"):
        raise PullFailed(f"{name} is no kernel in ELF format for x86-64")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
