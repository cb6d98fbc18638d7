"""The initramfs archive format: cpio's "newc", as Documentation/driver-api/early-userspace/buffer-format.

An initrd may be several archives one after the other; the kernel unpacks them all. So a part that changes
(the guest program) and one that does not (the modules) are written apart and joined without being read.
"""

_S_IFREG, _S_IFDIR = 0o100000, 0o040000


def file(name: str, content: bytes, *, mode: int) -> bytes:
    """One regular file owned by root. `name` has no leading slash; its folder has to come before it."""
    return _entry(name, _S_IFREG | mode, content)


def folder(name: str, *, mode: int = 0o755) -> bytes:
    return _entry(name, _S_IFDIR | mode, b"")


def trailer() -> bytes:
    """Ends one archive, padded so that the next can follow."""
    return _entry("TRAILER!!!", 0, b"")


def _entry(name: str, mode: int, content: bytes) -> bytes:
    path = name.encode() + b"\0"
    links = 1 if mode else 0
    # magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    fields = (0, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + path) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
