"""Tar streams there and back: ours read by GNU tar and busybox, theirs read by ours."""

import os
import random
import socket
import stat
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from banger.archive import place, write
from banger.archive.extract import Extraction
from banger.archive.links import leads_out
from banger.archive.parse import Limits, Reader
from banger.errors import Failure
from banger.interrupt import Interrupts

TARS = {"gnu": ["tar"], "busybox": ["busybox", "tar"]}
ODD = [b"a b", b"new\nline", b"\xff\xfe", b"-C", "ü€".encode(), b"back\\slash", b"'quote\"", b"$HOME", b"*"]
Facts = dict[bytes, tuple[int, int, int, bytes]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Everything that a copy keeps."""
    top = tmp_path / "tree"
    (top / "folder/inner").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "private").mkdir(mode=0o700)
    for name in ODD:
        Path(os.fsdecode(os.fsencode(top / "folder") + b"/" + name)).write_bytes(name)
    (top / "program").write_bytes(random.Random(1).randbytes(300_000))
    (top / "program").chmod(0o755)
    (top / "nothing").touch(mode=0o600)
    (top / "read only").write_text("x")
    (top / "read only").chmod(0o444)
    (top / "link").symlink_to("folder/inner")
    (top / "dangling").symlink_to("no/such/file")
    (top / "folder/up").symlink_to("../program")
    (top / "second name").hardlink_to(top / "program")
    long = top / ("d" * 120) / ("e" * 120)
    long.mkdir(parents=True)
    (long / ("f" * 200)).write_text("far")
    (long / "to").symlink_to("g" * 150)
    for number, path in enumerate(sorted(top.rglob("*"), key=lambda path: -len(path.parts))):
        stamp = (1_600_000_000 + number) * 10**9 + 123_456_789
        os.utime(path, ns=(stamp, stamp), follow_symlinks=False)
    return top


def facts(top: Path, *, exact: bool = True) -> Facts:
    """Of each file: mode, time, names, content or target."""
    found: Facts = {}
    for path in top.rglob("*"):
        info = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
        if path.is_symlink():
            content = os.fsencode(path.readlink())
        mtime = info.st_mtime_ns if exact else info.st_mtime_ns // 10**9
        if not exact and not stat.S_ISREG(info.st_mode):
            mtime = 0  # busybox's way with folders and links
        names = info.st_nlink if stat.S_ISREG(info.st_mode) else 0
        found[os.fsencode(path.relative_to(top))] = (
            stat.S_IFMT(info.st_mode) | stat.S_IMODE(info.st_mode),
            mtime,
            names,
            content,
        )
    return found


@pytest.mark.parametrize("tar", TARS)
def test_what_we_write_is_read(tree: Path, tmp_path: Path, tar: str) -> None:
    source = write.scan(tree, b".", root=False)
    told: list[int] = []
    data = b"".join(write.stream(source, told.append))
    assert sum(told) >= source.size - 300_000  # the second name has no content of its own
    target = tmp_path / "target"
    target.mkdir()
    done = subprocess.run(
        [*TARS[tar], "-x", "-p", "-f", "-"], cwd=target, input=data, capture_output=True, check=True
    )
    assert done.stderr == b""
    exact = tar == "gnu"
    assert facts(target, exact=exact) == facts(tree, exact=exact)


def test_everything_is_roots(tree: Path) -> None:
    data = b"".join(write.stream(write.scan(tree, b"it"), lambda _count: None))
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        members = archive.getmembers()
    assert {(one.uid, one.gid, one.uname, one.gname) for one in members} == {(0, 0, "", "")}
    assert members[0].name == "it"


def test_no_power_goes_along(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "a").chmod(0o6755)
    data = b"".join(write.stream(write.scan(tmp_path / "a", b"a"), lambda _count: None))
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        assert archive.getmember("a").mode == 0o755


def take(data: bytes, target: Path, *, piece: int = 4096) -> Extraction:
    target.mkdir()
    root = os.open(target, os.O_RDONLY)
    extraction = Extraction(root)
    try:
        reader = Reader(extraction, Limits(10_000, 10**9))
        for at in range(0, len(data), piece):
            reader.feed(data[at : at + piece])
        reader.finish()
        extraction.check_links(lambda _path: None)
    finally:
        extraction.close()
        os.close(root)
    place.settle(target, extraction.folders)
    return extraction


@pytest.mark.parametrize("tar", [["tar", "--format=posix"], ["tar", "--format=gnu"], ["busybox", "tar"]])
@pytest.mark.parametrize("piece", [333, 65536])
def test_what_they_write_we_read(tree: Path, tmp_path: Path, tar: list[str], piece: int) -> None:
    data = subprocess.run([*tar, "-c", "-f", "-", "."], cwd=tree, capture_output=True, check=True).stdout
    extraction = take(data, tmp_path / "target", piece=piece)
    exact = "--format=posix" in tar
    assert facts(tmp_path / "target", exact=exact) == facts(tree, exact=exact)
    assert (
        extraction.size
        == sum(path.stat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
        - 300_000
    )


def test_ours_read_by_ours(tree: Path, tmp_path: Path) -> None:
    take(
        b"".join(write.stream(write.scan(tree, b".", root=False), lambda _count: None)), tmp_path / "target"
    )
    assert facts(tmp_path / "target") == facts(tree)


def test_sizes_beyond_octal() -> None:
    entry = write.Entry(b"x", b"x", 0o644, 9 * 8**11, 10**18, None)
    with tarfile.open(fileobj=BytesIO(write.header(entry, b"0"))) as archive:
        member = archive.next()
    assert member is not None
    assert (member.size, member.mtime) == (9 * 8**11, 10**9)


def test_a_file_that_shrinks_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 1000)
    source = write.scan(path, b"a")
    path.write_bytes(b"x")
    with pytest.raises(Failure, match="changed while it was copied"):
        list(write.stream(source, lambda _count: None))


def test_a_file_swapped_for_a_link_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    source = write.scan(path, b"a")
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        list(write.stream(source, lambda _count: None))


def test_sockets_and_fifos_are_left_out_and_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        source = write.scan(tmp_path, b".", root=False)
    assert source.entries == []
    assert len(source.skipped) == 2


@pytest.mark.parametrize(
    ("path", "target", "out"),
    [
        ("a", "b", False), ("a/b", "../c", False), ("a/b", "../../c", True), ("a", "", False), ("a", ".", False),
        ("a", "b/../c", False), ("a", "b/../../c", True), ("a/b/c", "../../x", False), ("a", "//x", True),
        ("a", "up/x", False), ("a", "up/../x", True), ("a", "host/x", True),
    ],
)  # fmt: skip
def test_where_links_lead(path: str, target: str, out: bool) -> None:
    links = {(b"up",): b".", (b"host",): b"/home"}
    assert leads_out(tuple(path.encode().split(b"/")), target.encode(), links.get) is out


def test_merging_moves_nothing_where_kinds_differ(tmp_path: Path) -> None:
    for name in ("new/a", "new/z", "old/z"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "new/f").write_text("new")
    (tmp_path / "old/f").write_text("old")
    (tmp_path / "old/a").symlink_to("z")  # a folder only if it is followed
    with pytest.raises(Failure, match="a is a folder on one side"):
        place.merge(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old/f").read_text() == "old"
    (tmp_path / "old/a").unlink()
    assert place.merge(tmp_path / "new", tmp_path / "old") == {(), (b"z",)}
    assert (tmp_path / "old/f").read_text() == "new"
    assert (tmp_path / "old/a").is_dir()


def test_the_folder_beside_goes_whatever_happens(tmp_path: Path) -> None:
    def fail() -> None:
        with Interrupts() as interrupts, place.beside(tmp_path, interrupts) as folder:
            (folder / "d").mkdir()
            (folder / "d/f").touch()
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            raise ValueError

    with pytest.raises(ValueError, match="^$"):
        fail()
    assert list(tmp_path.iterdir()) == []
