"""Layers that no image can have: each told by the member's name, and nothing left."""

import os
from pathlib import Path

import pytest
from tests.ocilayout import folder, hardlink, member, symlink, tar, zstd
from tests.unit.flattening import squash

from bangerd.workers.layer_tar import Budget
from bangerd.workers.reports import WorkerError

pytestmark = [pytest.mark.root, pytest.mark.needs("sqfstar", "unsquashfs", "zstd")]


def raw_header(name: bytes, size: int = 0, kind: bytes = b"0", *, size_field: bytes = b"") -> bytes:
    """One header block that tarfile would not write."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[108:124] = b"0000000\0" * 2
    block[124:136] = size_field or b"%011o\0" % size
    block[136:148] = b"%011o\0" % 0
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(**records: bytes) -> bytes:
    """A pax header with these records, whatever they are."""
    body = b""
    for key, value in records.items():
        line = b" %s=%s\n" % (key.replace("__", ".").encode(), value)
        length = len(line) + 1
        while len(b"%d" % length) + len(line) != length:
            length += 1
        body += b"%d" % length + line
    return raw_header(b"pax", len(body), b"x") + body + bytes(-len(body) % 512)


END = bytes(1024)
HOSTILE = {
    "dots": (tar([member("a/../../x", b"1")]), r"member 'a/../../x' of layer 1: its path leads outside"),
    "dots in a link": (
        tar([member("a"), hardlink("b", "../a")]),
        r"member 'b' of layer 1: .* outside with '\.\.'",
    ),
    "a link to nothing": (
        tar([hardlink("b", "/etc/shadow")]),
        r"'b' of layer 1: a hard link to '/etc/shadow', which is not",
    ),
    "a link to a folder": (tar([folder("d"), hardlink("b", "d")]), "a hard link to 'd', which is a folder"),
    "a link to the root": (tar([hardlink("b", "/")]), "a hard link to '/', which is not there"),
    "a link to itself": (tar([hardlink("b", "b")]), "a hard link to 'b', which is not there"),
    "NUL": (pax(path=b"a\0b") + raw_header(b"x") + END, r"its path has a NUL"),
    "NUL in a link": (
        pax(linkpath=b"a\0b") + raw_header(b"x", kind=b"2") + END,
        "a symbolic link to what no path can be",
    ),
    "NUL in a hard link": (pax(linkpath=b"a\0b") + raw_header(b"x", kind=b"1") + END, "its path has a NUL"),
    "no target": (tar([symlink("a", "")]), "a symbolic link to what no path can be"),
    "a long name": (tar([member("n" * 256)]), "its path is too long; 255 bytes"),
    "a long path": (tar([member("/".join(["n" * 250] * 17))]), "its path is too long"),
    "the root as a file": (tar([member(".", b"x")]), "the root of an image is a folder"),
    "the root as a link": (tar([symlink("./", "/etc")]), "the root of an image is a folder"),
    "a whiteout of nothing": (
        tar([member(".wh.")]),
        r"member '\.wh\.' of layer 1: a whiteout of the folder",
    ),
    "a whiteout of the root": (tar([member(".wh..")]), "a whiteout of the folder that it lies in"),
    "a whiteout of what is above": (tar([member("d/.wh...")]), "a whiteout of the folder that it lies in"),
    "a loop": (
        tar([symlink("a", "b"), symlink("b", "a"), member("a/x")]),
        "'a/x' of layer 1: .* a loop of symbolic links",
    ),
    "a loop of one": (tar([symlink("a", "a/a/a"), member("a/x")]), "a loop of symbolic links"),
    "an owner": (tar([member("a", pax_headers={"uid": str(2**32)})]), "its owner 4294967296:0 is none"),
    "a negative owner": (tar([member("a", pax_headers={"gid": "-1"})]), "its owner 0:-1 is none"),
    "a device": (
        raw_header(b"x", kind=b"3")[:329] + b"7777777\0" + raw_header(b"x", kind=b"3")[337:],
        "no tar archive",
    ),
    "an unknown type": (raw_header(b"x", kind=b"V") + END, "its type b'V' is none that an image can have"),
    "a huge file": (
        raw_header(b"x", size_field=b"\x80" + (2**62).to_bytes(11, "big")) + END,
        "no tar archive|cut off",
    ),
    "a negative size": (raw_header(b"x", size_field=b"\xff" * 12) + END, "no tar archive that can be read"),
    "a huge pax header": (raw_header(b"p", 2**33, b"x") + END, "a header of 8589934592 bytes"),
    "a huge long name": (raw_header(b"p", 2**33, b"L") + END, "a header of 8589934592 bytes"),
    "pax headers without end": (raw_header(b"p", 0, b"L") * 5000, "no tar archive that can be read"),
    "pax nonsense": (
        pax(size=b"nonsense") + raw_header(b"x") + pax(GNU__sparse__map=b"1,x") + raw_header(b"y") + END,
        "no tar",
    ),
    "a sparse map": (
        pax(GNU__sparse__major=b"1", GNU__sparse__minor=b"0", GNU__sparse__realsize=b"9")
        + raw_header(b"x", 512)
        + b"x" * 512
        + END,
        "no tar",
    ),
    "a sparse bomb": (
        pax(GNU__sparse__size=b"%d" % 2**60, GNU__sparse__map=b"0,0") + raw_header(b"x") + END,
        "larger than this machine allows",
    ),
    "cut off": (tar([member("a", b"1" * 5000)])[:2000], "no tar archive that can be read, after member 'a'"),
    "cut off in a header": (
        tar([member("a"), member("b")])[:700],
        "no tar archive that can be read, after member 'a'",
    ),
    "a broken header": (
        tar([member("a")])[:512] + b"x" * 512 + END,
        "no tar archive that can be read, after member 'a'",
    ),
    "no tar": (b"PK\3\4" + bytes(5000), "no tar archive that can be read, after its beginning"),
    "nothing": (b"", "no tar archive that can be read, after its beginning"),
    "broken gzip": (b"\x1f\x8b" + b"\x08" + bytes(100), "no tar archive|damaged"),
    "broken zstd": (zstd(tar([member("a", os.urandom(100_000))]))[:5000], "compressed data is damaged"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_members(tmp_path: Path, case: str) -> None:
    raw, says = HOSTILE[case]
    with pytest.raises(WorkerError, match=says) as caught:
        squash(tmp_path, [raw])
    assert caught.value.kind in ("layer", "digest", "failed")
    assert len(str(caught.value)) < 600
    assert not (tmp_path / "rootfs.squashfs").exists()


def test_bombs(tmp_path: Path) -> None:
    bomb = zstd(tar([member("a", bytes(50 << 20))]))
    assert len(bomb) < 50_000
    with pytest.raises(WorkerError, match="layer 1: unpacked, the image is larger than this machine allows"):
        squash(tmp_path, [bomb], Budget(10 << 20, 100))
    with pytest.raises(WorkerError, match="member '.*' of layer 1: unpacked, the image is larger"):
        squash(tmp_path, [tar(member(f"f{n}") for n in range(101))], Budget(10 << 20, 100))
    appended = tar([member("a", b"1")]) + bytes(11 << 20)  # after the end mark it counts, too
    with pytest.raises(WorkerError, match="larger than this machine allows"):
        squash(tmp_path, [appended], Budget(10 << 20, 100))
