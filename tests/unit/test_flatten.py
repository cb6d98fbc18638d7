"""Layers flattened to a squashfs: the same tree as extraction in order gives; hostile members told by name."""

import os
import random
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.ocilayout import Layout, digest_of, folder, hardlink, member, symlink, tar, zstd
from tests.unit.flattening import Silent, squash

from bangerd.workers import flatten
from bangerd.workers.layer_tar import Budget
from bangerd.workers.reports import WorkerError

pytestmark = [pytest.mark.root, pytest.mark.needs("sqfstar", "unsquashfs")]

Tree = dict[str, tuple[Any, ...]]


@pytest.fixture
def flattened(tmp_path: Path) -> Callable[..., Path]:
    """Layers (plain or compressed tars) as a folder that unsquashfs made."""

    def run(*layers: bytes, budget: Budget | None = None) -> Path:
        squash(tmp_path, layers, budget)
        subprocess.run(
            ["unsquashfs", "-q", "-n", "-d", tmp_path / "out", tmp_path / "rootfs.squashfs"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return tmp_path / "out"

    return run


def listed(top: Path) -> Tree:
    """All that is in a folder, with everything that an image keeps."""
    found: Tree = {}
    inodes: dict[int, str] = {}
    names = [
        str(Path(path, name).relative_to(top)) for path, dirs, files in os.walk(top) for name in dirs + files
    ]
    for name in sorted(names):
        path = top / name
        seen = path.lstat()
        content: object = None
        if stat.S_ISREG(seen.st_mode):
            content = (path.read_bytes(), inodes.setdefault(seen.st_ino, name))
        elif stat.S_ISLNK(seen.st_mode):
            content = path.readlink()
        elif not stat.S_ISDIR(seen.st_mode):
            content = seen.st_rdev
        attributes = {key: os.getxattr(path, key, follow_symlinks=False)
                      for key in os.listxattr(path, follow_symlinks=False)}  # fmt: skip
        times = 0 if stat.S_ISDIR(seen.st_mode) else int(seen.st_mtime)
        found[name] = (seen.st_mode, seen.st_uid, seen.st_gid, times, content, attributes)
    return found


def test_everything_is_kept(flattened: Callable[..., Path]) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    odd = os.fsdecode(b"odd \xff\n\x01")
    out = flattened(
        tar(
            [
                folder(".", mode=0o711),
                folder("./etc", mode=0o750, uid=3, gid=70_000),
                member("etc/passwd", b"root", mode=0o4755, uid=1_000_000, gid=2_000_000),
                member("ping", b"p", pax_headers={
                    "SCHILY.xattr.security.capability": capability.decode("latin-1").encode("latin-1").decode(
                        "utf-8", "surrogateescape"),
                    "SCHILY.xattr.user.note": "hä\nlf=1", "SCHILY.xattr.trusted.overlay.opaque": "y",
                    "SCHILY.xattr.system.posix_acl_access": "x"}),
                member("empty", b""),
                member(odd, b"1"),
                member("n" * 255, b"long"),
                member("/".join(["d" * 200] * 10), b"deep"),
                symlink("link", "/" + "t" * 300), symlink("link2", "../é"),
                hardlink("etc/hard", "./ping"),
                member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
                member("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=300),
                member("fifo", type=tarfile.FIFOTYPE),
                member("old", b"1", mtime=-5), member("young", b"1", mtime=2**40),
                member("/absolute", b"in the root"),
            ]
        )
    )  # fmt: skip
    seen = listed(out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o711
    assert seen["etc"][:3] == (stat.S_IFDIR | 0o750, 3, 70_000)
    assert seen["etc/passwd"][:4] == (stat.S_IFREG | 0o4755, 1_000_000, 2_000_000, 1_700_000_000)
    assert seen["ping"][5] == {"security.capability": capability, "user.note": "hä\nlf=1".encode()}
    assert seen["etc/hard"] == seen["ping"]
    assert (out / "ping").stat().st_nlink == 2
    assert seen["empty"][4][0] == b""
    assert seen[odd][4][0] == b"1"
    assert seen["n" * 255][4][0] == b"long"
    assert seen["/".join(["d" * 200] * 10)][4][0] == b"deep"
    assert seen["link"][4] == Path("/" + "t" * 300)
    assert seen["link2"][4] == Path("../é")
    assert (stat.S_ISCHR(seen["null"][0]), seen["null"][4]) == (True, os.makedev(1, 3))
    assert (stat.S_ISBLK(seen["disk"][0]), seen["disk"][4]) == (True, os.makedev(8, 300))
    assert stat.S_ISFIFO(seen["fifo"][0])
    assert (seen["old"][3], seen["young"][3]) == (0, 2**32 - 1)
    assert seen["absolute"][4][0] == b"in the root"


@pytest.mark.parametrize(
    "pack",
    [lambda raw: raw, zstd, *(
        lambda raw, tool=tool: subprocess.run([tool, "-c"], input=raw, stdout=subprocess.PIPE, check=True).stdout
        for tool in ("gzip", "xz", "bzip2")
    )],
    ids=["plain", "zstd", "gzip", "xz", "bzip2"],
)  # fmt: skip
def test_compressions(flattened: Callable[..., Path], pack: Callable[[bytes], bytes]) -> None:
    out = flattened(pack(tar([member("a", b"1" * 100_000)])), pack(tar([member("b", b"2")])))
    assert (out / "a").read_bytes() == b"1" * 100_000
    assert (out / "b").read_bytes() == b"2"


BASE = tar(
    [folder("d"), folder("d/e"), member("d/e/f", b"f"), member("d/g", b"g"), member("h", b"h"), symlink("s", "d/e")]
)  # fmt: skip


@pytest.mark.parametrize(
    ("upper", "left"),
    [
        ([member(".wh.h")], ["d", "d/e", "d/e/f", "d/g", "s"]),
        ([member("d/.wh.e")], ["d", "d/g", "h", "s"]),
        ([member("d/.wh..wh..opq"), member("d/x", b"x")], ["d", "d/x", "h", "s"]),
        # The order within a layer does not matter: a whiteout is about lower layers.
        ([member("d/x", b"x"), member("d/.wh..wh..opq")], ["d", "d/x", "h", "s"]),
        ([member("h", b"new"), member(".wh.h")], ["d", "d/e", "d/e/f", "d/g", "h", "s"]),
        ([member(".wh..wh..opq")], []),
        ([member(".wh.nothing"), member("no/.wh.nothing")], ["d", "d/e", "d/e/f", "d/g", "h", "s"]),
        ([member(".wh..wh.plnk"), folder(".wh..wh.orph")], ["d", "d/e", "d/e/f", "d/g", "h", "s"]),
        # Parents that are links lead where they point, inside the image.
        ([member("s/new", b"n"), member("s/.wh.f")], ["d", "d/e", "d/e/new", "d/g", "h", "s"]),
        # A folder becomes a file, a file a folder, a link a folder.
        ([member("d", b"file")], ["d", "h", "s"]),
        ([member("h/x", b"x")], ["d", "d/e", "d/e/f", "d/g", "h", "h/x", "s"]),
        ([folder("s")], ["d", "d/e", "d/e/f", "d/g", "h", "s"]),
        # A hard link keeps what its target's path loses afterwards.
        ([hardlink("k", "d/g"), member("d/g", b"other")], ["d", "d/e", "d/e/f", "d/g", "h", "k", "s"]),
        ([symlink("t", "../../../../d"), member("t/x", b"x")],
         ["d", "d/e", "d/e/f", "d/g", "d/x", "h", "s", "t"]),
        ([symlink("t", "/nowhere/yet"), member("t/x", b"x")],
         ["d", "d/e", "d/e/f", "d/g", "h", "nowhere", "nowhere/yet", "nowhere/yet/x", "s", "t"]),
    ],
)  # fmt: skip
def test_a_layer_over_another(flattened: Callable[..., Path], upper: list[Any], left: list[str]) -> None:
    out = flattened(BASE, tar(upper))
    assert sorted(listed(out)) == left


def test_the_last_writer_wins(flattened: Callable[..., Path]) -> None:
    out = flattened(
        tar([member("a", b"1"), hardlink("b", "a"), member("a", b"2", mode=0o600), hardlink("c", "a")]),
        tar([member("c", b"3"), folder("d", mode=0o700)]),
        tar([folder("d", mode=0o1777, uid=7)]),
    )
    assert [(out / name).read_bytes() for name in "abc"] == [b"2", b"1", b"3"]
    assert (out / "d").stat().st_mode & 0o7777 == 0o1777
    assert (out / "d").stat().st_uid == 7


def test_sparse_files_of_gnu_tar(flattened: Callable[..., Path], tmp_path: Path) -> None:
    for kind in ("gnu", "pax"):
        work = tmp_path / kind
        work.mkdir()
        with (work / f"sparse-{kind}").open("wb") as file:
            file.seek(3_000_000)
            file.write(b"end")
            file.truncate(5_000_000)
    made = [
        subprocess.run(
            ["tar", "-c", "-S", f"--format={kind}", "-C", tmp_path / kind, "."],
            stdout=subprocess.PIPE, check=True,
        ).stdout
        for kind in ("gnu", "pax")
    ]  # fmt: skip
    assert max(map(len, made)) < 100_000
    out = flattened(*made)
    for kind in ("gnu", "pax"):
        data = (out / f"sparse-{kind}").read_bytes()
        assert data == bytes(3_000_000) + b"end" + bytes(1_999_997)


def test_a_wrong_diff_id(tmp_path: Path) -> None:
    path = tmp_path / "layer"
    path.write_bytes(tar([member("a")]))
    with pytest.raises(WorkerError, match="layer 1: its content is not sha256:0000") as caught:
        flatten.index([flatten.Layer(path, "layer 1", f"sha256:{0:064}")], Budget(1 << 20, 9), Silent())
    assert caught.value.kind == "digest"
    right = flatten.Layer(path, "layer 1", digest_of(path.read_bytes()))
    assert [name for name, _ in flatten.index([right], Budget(1 << 20, 9), Silent()).walk()] == ["a"]


def test_the_same_layers_make_the_same_bytes(tmp_path: Path) -> None:
    layers = [BASE, tar([member("new", b"1"), member(".wh.h")])]
    squash(tmp_path, layers)
    said = subprocess.run(
        ["unsquashfs", "-s", tmp_path / "rootfs.squashfs"], capture_output=True, text=True, check=True
    )
    assert "2023" in said.stdout  # the time of what is in it, not of now
    said = subprocess.run(
        ["unsquashfs", "-lln", "-d", "", tmp_path / "rootfs.squashfs"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "2023-11-14" in said.stdout.splitlines()[0]
    first = (tmp_path / "rootfs.squashfs").read_bytes()
    (tmp_path / "rootfs.squashfs").unlink()
    squash(tmp_path, layers)
    assert (tmp_path / "rootfs.squashfs").read_bytes() == first


@pytest.mark.parametrize(
    ("members", "command", "init"),
    [
        ([member("sbin/init", mode=0o755)], (), "/sbin/init"),
        ([symlink("sbin", "usr/sbin"), symlink("usr/sbin/init", "../../lib/systemd/systemd"),
          symlink("lib", "usr/lib"), member("usr/lib/systemd/systemd", mode=0o755)], (), "/sbin/init"),
        ([member("sbin/init", mode=0o644)], (), ""),
        ([symlink("sbin/init", "/nowhere")], (), ""),
        ([folder("sbin/init")], (), ""),
        ([symlink("sbin/init", "../bin/busybox"), member("bin/busybox", mode=0o755)], ("/bin/sh",), ""),
        ([member("sbin/init", mode=0o755)], ("/sbin/init", "quiet"), "/sbin/init"),
        ([], ("/sbin/init",), ""),
        ([member("app", mode=0o755)], ("/app",), ""),
        ([symlink("sbin/init", "init2"), symlink("sbin/init2", "init")], (), ""),
        ([symlink("sbin/init", "..")], (), ""),
    ],
)  # fmt: skip
def test_find_init(tmp_path: Path, members: list[Any], command: tuple[str, ...], init: str) -> None:
    path = tmp_path / "layer"
    path.write_bytes(tar(members))
    tree = flatten.index([flatten.Layer(path, "layer")], Budget(1 << 20, 99), Silent())
    assert flatten.find_init(tree, command) == init


NAMES = ("a", "b", "c", "d")


def random_layer(dice: random.Random, lower: bool) -> bytes:
    """Members of all kinds over few names, so that they meet. None that one tool or another refuses."""
    members: list[tuple[tarfile.TarInfo, bytes]] = []
    files: list[str] = []
    made: set[str] = set()

    def path() -> str:
        return "/".join(dice.choice(NAMES) for _ in range(dice.randint(1, 3)))

    for number in range(dice.randint(1, 12)):
        name = path()
        # In a layer of its own making no path comes twice, nor below what is no folder.
        if name in made or any(name.startswith(f"{other}/") for other in files):
            continue
        if any(other.startswith(f"{name}/") for other in made):
            continue
        match dice.randint(0, 7):
            case 0 | 1:
                members.append(folder(name, mode=dice.choice([0o700, 0o755])))
            case 2 | 3 | 4:
                members.append(member(name, b"%d" % number * dice.randint(0, 600), uid=number))
                files.append(name)
            case 5 if files:
                target = dice.choice(files)
                members.append(hardlink(name, target))
                files.append(name)
            case 6 if lower:
                name = "/".join([*name.split("/")[:-1], f".wh.{name.rpartition('/')[2]}"])
                if not any(other == name.replace(".wh.", "") or other.startswith(name.replace(".wh.", "") + "/")
                           for other in made):  # fmt: skip
                    members.append(member(name))
            case 7 if lower:
                members.append(member(f"{name}/.wh..wh..opq"))
                members.append(folder(name))
        made.add(name)
    return tar(members)


@pytest.mark.needs("umoci")
def test_random_layers_as_umoci_unpacks_them(tmp_path: Path) -> None:
    """The peer extracts layer by layer to a file system."""
    dice = random.Random(20241124)
    layout = Layout(tmp_path / "layout")
    compared = 0
    for number in range(60):
        layers = [random_layer(dice, lower=bool(n)) for n in range(dice.randint(1, 4))]
        layout.image(f"t{number}", layers, compress="")
        bundle = tmp_path / f"bundle{number}"
        unpacked = subprocess.run(
            ["umoci", "--log=error", "unpack", "--image", f"{layout.path}:t{number}", bundle],
            stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
        if unpacked.returncode != 0:  # it makes no folder of a lower layer's file
            assert b"not a directory" in unpacked.stderr
            continue
        compared += 1
        work = tmp_path / f"work{number}"
        work.mkdir()
        squash(work, layers)
        subprocess.run(
            ["unsquashfs", "-q", "-n", "-d", work / "out", work / "rootfs.squashfs"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        assert listed(work / "out") == listed(bundle / "rootfs"), f"image {number}"
    assert compared > 25
