"""The initrd: an archive that cpio reads, in two parts, and modules in an order in which each can be loaded."""

import hashlib
import lzma
import subprocess
from pathlib import Path

import pytest

from bangerd.host import initrd
from bangerd.model import newc
from bangerd.model.errors import HostNotReady
from bangerd.workers import build_kernel


def listed(archive: bytes, folder: Path) -> dict[str, bytes]:
    """Unpack with cpio: its opinion of the format counts, not ours."""
    folder.mkdir()
    subprocess.run(["cpio", "-id", "--quiet"], input=archive, cwd=folder, check=True, capture_output=True)
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.needs("cpio")
def test_cpio_reads_what_newc_writes(tmp_path: Path) -> None:
    files = {"init": b"\x7fELF", "modules/00-a.ko": b"x" * 4097, "modules/01-empty.ko": b"", "odd": b"12345"}
    archive = newc.folder("modules") + b"".join(newc.file(n, c, mode=0o755) for n, c in files.items())
    assert listed(archive + newc.trailer(), tmp_path / "out") == files
    assert (tmp_path / "out/init").stat().st_mode & 0o7777 == 0o755


@pytest.mark.needs("cpio")
def test_the_initrd_is_the_program_and_then_the_modules(tmp_path: Path) -> None:
    modules = newc.folder("modules") + newc.file("modules/00-a.ko", b"module", mode=0o644) + newc.trailer()
    (tmp_path / "modules.cpio").write_bytes(modules)
    (tmp_path / "banger-guest").write_bytes(b"program")
    program, digest = initrd.read_program(tmp_path / "banger-guest")
    assert digest == hashlib.sha256(b"program").hexdigest()
    initrd.write(tmp_path / "initrd", program, tmp_path / "modules.cpio")
    made = (tmp_path / "initrd").read_bytes()
    assert made.endswith(modules)
    assert listed(made[: -len(modules)], tmp_path / "first") == {"init": b"program"}
    assert listed(modules, tmp_path / "second") == {"modules/00-a.ko": b"module"}
    assert (tmp_path / "initrd").stat().st_mode & 0o777 == 0o644
    assert len(made) % 4 == 0


def test_no_guest_program(tmp_path: Path) -> None:
    with pytest.raises(HostNotReady, match="install banger again"):
        initrd.read_program(tmp_path / "banger-guest")


def a_tree(folder: Path, depends: dict[str, list[str]], contents: dict[str, bytes]) -> Path:
    lines = [f"{path}: {' '.join(needs)}".rstrip() + "\n" for path, needs in depends.items()]
    (folder / "modules.dep").write_text("".join(lines))
    for path in depends:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(contents.get(path, path.encode()))
    return folder


@pytest.mark.needs("cpio")
def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    """Lines as depmod writes them: what is needed nearest first, so loading goes from right to left."""
    depends = {
        "kernel/drivers/block/virtio_blk.ko": ["kernel/virtio/virtio.ko", "kernel/virtio/virtio_ring.ko"],
        "kernel/virtio/virtio_pci.ko.xz": ["kernel/virtio/virtio-pci-modern-dev.ko", "kernel/virtio/virtio.ko",
                                           "kernel/virtio/virtio_ring.ko"],
        "kernel/virtio/virtio.ko": ["kernel/virtio/virtio_ring.ko"],
        "kernel/virtio/virtio_ring.ko": [],
        "kernel/virtio/virtio-pci-modern-dev.ko": [],
        "kernel/net/unrelated.ko": [],
    }  # fmt: skip
    signature = b"\x01\x02\x03" + bytes(8) + (3).to_bytes(4, "big") + b"~Module signature appended~\n"
    contents = {
        "kernel/virtio/virtio_pci.ko.xz": lzma.compress(b"pci" + signature),
        "kernel/virtio/virtio.ko": b"virtio" + signature,
    }
    found = listed(build_kernel.initrd_modules(a_tree(tmp_path, depends, contents)), tmp_path / "out")
    names = sorted(found)
    order = [name.partition("-")[2].removesuffix(".ko") for name in names]
    assert order == ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"]
    assert found["modules/03-virtio_pci.ko"] == b"pci"
    assert found["modules/01-virtio.ko"] == b"virtio"


@pytest.mark.needs("cpio")
def test_modules_that_can_wait_are_apart_with_what_only_they_need(tmp_path: Path) -> None:
    depends: dict[str, list[str]] = {
        "kernel/virtio/virtio_balloon.ko": ["kernel/virtio/virtio.ko"],
        "kernel/hw_random/virtio-rng.ko.xz": ["kernel/virtio/virtio.ko", "kernel/hw_random/rng-core.ko"],
        "kernel/hw_random/rng-core.ko": [],
        "kernel/block/virtio_blk.ko": ["kernel/virtio/virtio.ko"],
        "kernel/virtio/virtio.ko": [],
    }
    contents = {"kernel/hw_random/virtio-rng.ko.xz": lzma.compress(b"rng")}
    found = listed(build_kernel.initrd_modules(a_tree(tmp_path, depends, contents)), tmp_path / "out")
    assert sorted(found) == [
        "modules/00-virtio.ko", "modules/01-virtio_blk.ko",
        "modules/later/00-virtio_balloon.ko", "modules/later/01-rng_core.ko", "modules/later/02-virtio_rng.ko",
    ]  # fmt: skip
    assert found["modules/later/02-virtio_rng.ko"] == b"rng"


@pytest.mark.parametrize(
    "module",
    [
        b"plain",
        b"~Module signature appended~\n",
        b"short~Module signature appended~\n",
        b"x" + b"\xff" * 12 + b"~Module signature appended~\n",
    ],
)
def test_what_is_no_signature_is_kept(module: bytes) -> None:
    assert build_kernel._unsigned(module) == module
