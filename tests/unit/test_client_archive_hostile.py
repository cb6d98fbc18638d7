"""Tar streams that a hostile guest could send, byte by byte: nothing of them may be anywhere but in the folder."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from banger.archive.extract import Extraction
from banger.archive.parse import Limits, Reader
from banger.errors import Failure

END = bytes(1024)
LIMITS = Limits(50, 10**6)


def block(
    name: bytes, kind: bytes = b"0", *, size: int | bytes = 0, target: bytes = b"", mode: bytes = b"0000644\0",
    prefix: bytes = b"", magic: bytes = b"ustar\x0000", spoil: bool = False,
) -> bytes:  # fmt: skip
    """A header with a right checksum, unless `spoil`."""
    raw = bytearray(512)
    raw[0 : len(name)] = name
    raw[100:108] = mode
    raw[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    raw[136:148] = b"00000000001\0"
    raw[148:156] = b" " * 8
    raw[156:157] = kind
    raw[157 : 157 + len(target)] = target
    raw[257:265] = magic
    raw[345 : 345 + len(prefix)] = prefix
    raw[148:156] = b"%06o\0 " % (sum(raw) + spoil)
    return bytes(raw)


def file(name: bytes, content: bytes = b"x", **more: bytes) -> bytes:
    return block(name, size=len(content), **more) + padded(content)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def long(kind: bytes, text: bytes) -> bytes:
    return block(b"././@LongLink", kind, size=len(text) + 1) + padded(text + b"\0")


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    content = b""
    for key, value in records:
        rest = b" " + key + b"=" + value + b"\n"
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length += 1
        content += b"%d" % length + rest
    return block(b"PaxHeaders/x", kind, size=len(content)) + padded(content)


folder = lambda name: block(name, b"5")  # noqa: E731
link = lambda name, target: block(name, b"2", target=target)  # noqa: E731
hard = lambda name, target: block(name, b"1", target=target)  # noqa: E731


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


Take = Callable[..., Extraction]


@pytest.fixture
def take(tmp_path: Path) -> Iterator[Take]:
    """Extract a stream below tmp_path/in, in pieces of several sizes; nothing else in tmp_path may change."""
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "outside").mkdir()
    inside = tmp_path / "in"

    def run(data: bytes, *, skip: bool = False, limits: Limits = LIMITS, piece: int = 1000) -> Extraction:
        inside.mkdir()
        root = os.open(inside, os.O_RDONLY)
        extraction = Extraction(root, skip=skip)
        try:
            reader = Reader(extraction, limits)
            for at in range(0, len(data), piece):
                reader.feed(data[at : at + piece])
            reader.finish()
            extraction.check_links(lambda _path: None)
        finally:
            extraction.close()
            os.close(root)
        return extraction

    before = descriptors()
    yield run
    assert descriptors() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in", "outside", "secret"]
    assert list((tmp_path / "outside").iterdir()) == []
    assert (tmp_path / "secret").read_text() == "mine"
    assert (tmp_path / "secret").stat().st_nlink == 1


HUGE = b"\x80" + b"\xff" * 11
NEGATIVE = b"\xff" * 12
LOOP = b"".join(link(b"l%d" % i, b"l%d" % (i + 1)) for i in range(45))

HOSTILE: dict[str, tuple[bytes, str]] = {
    # names
    "absolute": (file(b"/etc/passwd"), "absolute name"),
    "absolute by prefix": (file(b"passwd", prefix=b"/etc"), "absolute name"),
    "dots": (file(b"../x"), "leads out of the folder"),
    "dots within": (file(b"a/../../x"), "leads out of the folder"),
    "dots that stay": (file(b"a/../x"), "leads out of the folder"),
    "dots at the end": (folder(b"a/.."), "leads out of the folder"),
    "dots by prefix": (file(b"x", prefix=b"a/.."), "leads out of the folder"),
    "dots by GNU's long name": (long(b"L", b"../x") + file(b"y"), "leads out of the folder"),
    "dots by pax": (pax((b"path", b"../x")) + file(b"y"), "leads out of the folder"),
    "absolute by pax": (pax((b"path", b"/tmp/x")) + file(b"y"), "absolute name"),
    "NUL by pax": (pax((b"path", b"a\0b")) + file(b"y"), "no possible name"),
    "name of all by global pax": (pax((b"path", b"x"), kind=b"g") + file(b"y"), "one name"),
    "size of all by global pax": (pax((b"size", b"0"), kind=b"g") + file(b"y"), "one name"),
    "name too long": (pax((b"path", b"a" * 256)) + file(b"y"), "too long a name"),
    "path too long": (pax((b"path", b"/".join([b"a" * 200] * 21))) + file(b"y"), "no possible name"),
    "too deep": (pax((b"path", b"a/" * 300 + b"x")) + file(b"y"), "too deep"),
    "no name": (file(b""), "without a name"),
    "root that is a file": (file(b"./"), "without a name"),
    "root that is a link": (link(b".", b"x"), "without a name"),
    "same twice": (file(b"a") + file(b"a"), "comes twice"),
    "same twice, spelt differently": (file(b"a/b") + file(b"./a//b"), "comes twice"),
    "a file, then below it": (file(b"a") + file(b"a/b"), "something else there"),
    "a folder, then a file": (folder(b"a") + file(b"a"), "comes twice"),
    # links
    "link out": (link(b"a", b"../secret"), "link that leads out"),
    "link to an absolute place": (link(b"a", b"/etc/passwd"), "link that leads out"),
    "link out, by GNU's long link": (long(b"K", b"../secret") + link(b"a", b"b"), "link that leads out"),
    "link out, by pax": (pax((b"linkpath", b"/etc")) + link(b"a", b"b"), "link that leads out"),
    "link out of a folder": (folder(b"d") + link(b"d/a", b"../../secret"), "link that leads out"),
    "link out by an earlier link": (folder(b"d") + link(b"d/up", b"..") + link(b"a", b"d/up/../x"), "leads out"),
    "link out by a later link": (link(b"a", b"b/../../x") + link(b"b", b"."), "link that leads out"),
    "link out by one that comes later": (folder(b"c") + link(b"a", b"c/d/../../x") + link(b"c/d", b".."), "leads out"),
    "link through a link": (link(b"a", b".") + file(b"a/x"), "something else there"),
    "link out, then a file through it": (link(b"a", b"../outside") + file(b"a/x"), "something else there"),
    "link out, then a folder over it": (link(b"a", b"../outside") + folder(b"a"), "comes twice"),
    "link out, then a folder's file": (link(b"a", b"../outside") + folder(b"a/") + file(b"a/x"), "comes twice"),
    "link over a folder, then a file": (folder(b"a") + link(b"a", b"../outside") + file(b"a/x"), "comes twice"),
    "links without end": (LOOP + link(b"a", b"l0/x"), "link that leads out"),
    "link to itself": (link(b"a", b"a/x"), "link that leads out"),
    "empty link": (link(b"a", b""), "link to nowhere"),
    "link with content": (block(b"a", b"2", size=5, target=b"b") + padded(b"12345"), "has content"),
    "link of NULs by pax": (pax((b"linkpath", b"a\0b")) + link(b"a", b"b"), "link to nowhere"),
    # hard links
    "hard link out": (hard(b"a", b"../secret"), "leads out of the folder"),
    "hard link to an absolute place": (hard(b"a", b"/etc/passwd"), "absolute name"),
    "hard link to no member": (hard(b"a", b"b"), "no file of the archive"),
    "hard link to a later member": (hard(b"a", b"b") + file(b"b"), "no file of the archive"),
    "hard link to a link out": (link(b"b", b"../secret") + hard(b"a", b"b"), "no file of the archive"),
    "hard link through a link": (link(b"l", b"../outside") + hard(b"a", b"l/x"), "no file of the archive"),
    "hard link to a folder": (folder(b"d") + hard(b"a", b"d"), "no file of the archive"),
    "hard link to itself": (hard(b"a", b"a"), "no file of the archive"),
    "hard link with content": (file(b"b") + block(b"a", b"1", size=1, target=b"b") + padded(b"y"), "has content"),
    "hard link, then written anew": (file(b"b") + hard(b"a", b"b") + file(b"a"), "comes twice"),
    # kinds
    "character device": (block(b"a", b"3"), "device"),
    "block device": (block(b"a", b"4"), "device"),
    "FIFO": (block(b"a", b"6"), "FIFO"),
    "GNU sparse": (block(b"a", b"S"), "a kind that is not known"),
    "pax sparse": (pax((b"GNU.sparse.major", b"1")) + file(b"a"), "not known"),
    "multi-volume": (block(b"a", b"M"), "not known"),
    "unheard of": (block(b"a", b"Z"), "not known"),
    "folder with content": (block(b"a", b"5", size=1) + padded(b"x"), "has content"),
    # sizes
    "more than announced": (file(b"a", b"x" * 2000) * 1, "announced"),
    "huge": (block(b"a", size=HUGE), "announced"),
    "huge by pax": (pax((b"size", b"9" * 20)) + block(b"a"), "announced"),
    "negative": (block(b"a", size=NEGATIVE), "a number that is none"),
    "negative by pax": (pax((b"size", b"-1")) + block(b"a"), "a size that is none"),
    "no number": (block(b"a", size=b"123abc\0\0\0\0\0\0"), "a number that is none"),
    "no octal number": (block(b"a", size=b"00000000009\0"), "a number that is none"),
    "unicode digits by pax": (pax((b"size", b"\xd9\xa1")) + block(b"a"), "a size that is none"),
    "a huge long name": (block(b"x", b"L", size=HUGE), "a header of"),
    "a long name of nothing": (block(b"x", b"L"), "a header of 0 bytes"),
    "a huge pax header": (block(b"x", b"x", size=10**9), "a header of"),
    "too many members": (b"".join(file(b"%d" % i, b"") for i in range(12)), "announced"),
    # form
    "no tar": (b"#!/bin/sh\n" * 100, "checksum is wrong"),
    "a wrong checksum": (block(b"a", spoil=True), "checksum is wrong"),
    "pax of nonsense": (block(b"x", b"x", size=5) + padded(b"hello"), "pax header that is none"),
    "pax with a wrong length": (block(b"x", b"x", size=8) + padded(b"99 a=bc\n"), "pax header that is none"),
    "pax with length 0": (block(b"x", b"x", size=6) + padded(b"0 a=b\n"), "pax header that is none"),
    "pax without end of line": (block(b"x", b"x", size=6) + padded(b"6 a=bc"), "pax header that is none"),
    "headers without end": (long(b"L", b"a") * 9, "too many headers"),
    "headers without a member": (long(b"L", b"a"), "without its member"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("piece", [7, 512, 10**6])
def test_refused_and_nothing_outside_is_touched(take: Take, name: str, piece: int) -> None:
    data, said = HOSTILE[name]
    limits = Limits(10 if "members" in name else 50, 1000 if "announced" in name else 10**6)
    with pytest.raises(Failure) as caught:
        take(data + END, limits=limits, piece=piece)
    assert caught.value.code == "UnsafeArchive"
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name in HOSTILE if "link" in name or "device" in name or "FIFO" in name]
)
def test_what_is_skipped_is_not_there(take: Take, tmp_path: Path, name: str) -> None:
    """With `skip` some pass; then no link that leads out is left, nor anything but files, folders and links."""
    try:
        extraction = take(HOSTILE[name][0] + END, skip=True)
    except Failure:
        return
    assert extraction.skipped
    root = tmp_path / "in"
    for at in root.rglob("*"):
        if at.is_symlink():
            assert at.resolve().is_relative_to(root), f"{at} -> {at.readlink()}"
        assert stat.S_IFMT(at.lstat().st_mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


@pytest.mark.parametrize("cut", [1, 511, 512, 700, 1024, 1535])
def test_an_end_that_comes_too_early(take: Take, cut: int) -> None:
    data = file(b"a", b"y" * 600) + END
    with pytest.raises(Failure, match="ends in the midst"):
        take(data[:cut])


def test_more_after_the_end(take: Take) -> None:
    with pytest.raises(Failure, match="more after its end"):
        take(file(b"a") + END + file(b"b"))


def test_zeros_without_end(take: Take) -> None:
    with pytest.raises(Failure, match="more after its end"):
        take(file(b"a") + bytes(3 * 1024 * 1024), piece=65536)


def test_no_mode_that_gives_power(take: Take, tmp_path: Path) -> None:
    take(file(b"a", mode=b"0007777\0") + block(b"d", b"5", mode=b"0007777\0") + END)
    assert stat.S_IMODE((tmp_path / "in/a").stat().st_mode) == 0o777
    assert stat.S_IMODE((tmp_path / "in/d").stat().st_mode) == 0o700  # until it is settled


def test_names_that_a_terminal_would_act_on_are_told_safely(take: Take) -> None:
    with pytest.raises(Failure) as caught:
        take(link(b"\x1b]0;x\x07\xff\n", b"/\x1b[2J") + END)
    assert not [char for char in str(caught.value) if ord(char) < 32 or 0x7F <= ord(char) < 0xA0]
    assert "\\x1b" in str(caught.value)
    assert "\\xff" in str(caught.value)


def test_deep_links_cost_no_time(take: Take) -> None:
    """Links that multiply one another's length."""
    data = b"".join(link(b"l%d" % i, b"/".join([b"l%d" % (i + 1), b".."] * 10)) for i in range(30))
    with pytest.raises(Failure, match="leads out"):
        take(data + END)


def test_folders_that_nobody_announced(take: Take) -> None:
    """Each member counts, and so must what it brings along."""
    deep = b"/".join([b"d"] * 240)
    data = b"".join(long(b"L", b"%d/%s/f" % (number, deep)) + block(b"f") for number in range(45))
    with pytest.raises(Failure, match=r"more than 10,000 folders in it that it does not name"):
        take(data + END)


def test_names_of_other_systems_are_names(take: Take, tmp_path: Path) -> None:
    names = [
        b"a\\b",
        b"C:",
        b"\xff\xfe",
        b"...",
        b" ",
        b"a\nb",
        b"-rf",
        "ü".encode(),
        b"~",
        b".."[:1] + b"x",
    ]
    take(b"".join(file(name) for name in names) + END)
    assert {os.fsencode(path.name) for path in (tmp_path / "in").iterdir()} == set(names)
