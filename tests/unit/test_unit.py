"""A VM's unit as far as it can be told without a systemd. What it holds back is tried in tests/system."""

import random
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bangerd.core.ports import UnitSpec
from bangerd.host.elf import is_static, needs_libraries
from bangerd.host.unit import unit_properties
from bangerd.model.vm import GIB, MIB, VM, Desired, VMSpec

PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
NATIVE = Path(__file__).parents[2] / "service/native"
EMPTY = Path("/run/banger/empty")
SHIM = Path("/usr/lib/banger/banger-shim")


def elf(
    *kinds: int, offset: int = 64, size: int = 56, count: int | None = None, ident: bytes = b"\2\1\1"
) -> bytes:
    """A 64-bit ELF file's beginning with program headers of these kinds."""
    head = b"\x7fELF" + ident + bytes(9)
    headers = len(kinds) if count is None else count
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, offset, 0, 0, 64, size, headers, 0, 0, 0)
    return head + bytes(offset - 64) + b"".join(struct.pack("<I52x", kind) for kind in kinds)


@pytest.mark.parametrize("kinds", [(PT_LOAD,), (PT_LOAD, PT_DYNAMIC, PT_LOAD)], ids=["static", "static-pie"])
def test_a_static_program_needs_itself_alone(kinds: tuple[int, ...]) -> None:
    assert is_static(elf(*kinds))
    assert is_static(elf(*kinds, offset=4096) + b"code")
    assert not is_static(elf(*kinds, PT_INTERP))
    assert not is_static(elf(PT_INTERP, *kinds))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"#!/bin/sh\n",
        b"\x7fELF",
        elf(PT_LOAD)[:63],
        elf(PT_LOAD)[:100],  # the headers are cut off
        elf(count=0),
        elf(PT_LOAD, count=65535),
        elf(PT_LOAD, size=0),
        elf(PT_LOAD, size=32),
        elf(PT_LOAD, ident=b"\1\1\1"),  # 32 bits
        elf(PT_LOAD, ident=b"\2\2\1"),  # big-endian
        elf(PT_LOAD).replace(struct.pack("<Q", 64), b"\xff" * 8, 1),
    ],
)
def test_what_is_no_static_program(head: bytes) -> None:
    assert not is_static(head)


def test_rubbish_is_no_static_program() -> None:
    seed = random.Random(1)
    for _ in range(2000):
        head = bytearray(elf(PT_LOAD, PT_INTERP, PT_LOAD))
        for _ in range(seed.randrange(8)):
            head[seed.randrange(len(head))] = seed.randrange(256)
        is_static(bytes(head[: seed.randrange(len(head) + 1)]))  # raises nothing


def test_programs_that_are_here(tmp_path: Path) -> None:
    subprocess.run(["make", "-s", "-C", NATIVE, "build/banger-shim"], check=True, timeout=300)
    shim = NATIVE / "build/banger-shim"
    assert not needs_libraries(shim)
    assert needs_libraries(Path(sys.executable))
    assert needs_libraries(Path(__file__))
    assert needs_libraries(tmp_path)
    assert needs_libraries(tmp_path / "missing")
    link = tmp_path / "link"
    link.symlink_to(shim)
    assert not needs_libraries(link)
    shutil.copy(shim, tmp_path / "cut")
    with (tmp_path / "cut").open("r+b") as file:
        file.truncate(70)
    assert needs_libraries(tmp_path / "cut")


def a_spec(vmm: str, **changes: object) -> UnitSpec:
    wanted = VMSpec(image="i", kernel="k", vcpu=3, memory=512 * MIB, disk=GIB)
    vm = VM("id", "0123abcd", "web", 1000, "alice", wanted, Desired.RUNNING, uid=200_001)
    spec = UnitSpec(
        vm,
        argv=(str(SHIM), "--", vmm),
        run_dir=Path("/run/banger/vm/0123abcd"),
        read_write=(Path("/var/lib/banger/vm/0123abcd/disk.ext4"),),
        read_only=(Path("/var/lib/banger/images/i/rootfs.squashfs"),),
        devices=("/dev/net/tun", "/dev/kvm"),
        memory_max=GIB,
        file_max=GIB,
        programs=(SHIM, Path(vmm)),
        threads=16,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def shown(spec: UnitSpec) -> dict[str, object]:
    return {name: value for name, _signature, value in unit_properties(spec, EMPTY)}


def bound(spec: UnitSpec) -> set[str]:
    told = shown(spec)
    binds = [*told["BindPaths"], *told["BindReadOnlyPaths"]]  # type: ignore[misc]
    assert all(source == target for source, target, _ignored, _flags in binds)
    return {source for source, _target, _ignored, _flags in binds}


OWN = {
    "/run/banger/vm/0123abcd", "/var/lib/banger/vm/0123abcd/disk.ext4", "/var/lib/banger/images/i/rootfs.squashfs",
    "/dev/net/tun", "/dev/kvm", str(SHIM),
}  # fmt: skip


def test_a_static_vmm_sees_its_files_alone() -> None:
    spec = a_spec("/opt/firecracker/v1.16/firecracker")
    assert bound(spec) == OWN | {"/opt/firecracker/v1.16/firecracker"}
    assert shown(spec)["RootDirectory"] == "/run/banger/empty"
    assert shown(spec)["MemoryDenyWriteExecute"] is True
    assert shown(spec)["TasksMax"] == 19


@pytest.mark.parametrize(
    ("vmm", "more"),
    [
        ("/usr/bin/qemu-system-x86_64", set()),
        ("/usr/libexec/qemu-kvm", set()),
        ("/opt/qemu/bin/qemu-system-x86_64", {"/opt/qemu"}),
        ("/opt/qemu/qemu-system-x86_64", {"/opt/qemu"}),
        ("/home/dev/qemu/build/qemu-system-x86_64", {"/home/dev/qemu/build"}),
        # Never all of what others have their things in.
        ("/opt/qemu-system-x86_64", set()),
        ("/opt/bin/qemu-system-x86_64", set()),
        ("/home/qemu-system-x86_64", set()),
        ("/qemu-system-x86_64", set()),
    ],
)
def test_a_vmm_with_libraries_sees_usr(vmm: str, more: set[str]) -> None:
    spec = a_spec(vmm, needs_libraries=True)
    system = {
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        "/nix/store",
        "/gnu/store",
        "/etc/ld.so.cache",
        "/etc/alternatives",
    }
    assert bound(spec) == OWN | system | {vmm} | more


@pytest.mark.parametrize("libraries", [False, True])
def test_where_systemd_makes_folders_is_the_units_own(*, libraries: bool) -> None:
    """Otherwise one VM's names would be left in the folder that is the next one's root."""
    spec = a_spec("/opt/qemu/bin/qemu", needs_libraries=libraries)
    tops = {path for path, _options in shown(spec)["TemporaryFileSystem"]}  # type: ignore[attr-defined]
    deep = {path for path in bound(spec) if path.count("/") > 1 and not path.startswith("/dev/")}
    assert {f"/{path.split('/')[1]}" for path in deep} <= tops | {"/usr"}
    assert ("/usr" in tops) != libraries


def test_an_emulator_may_make_code() -> None:
    assert shown(a_spec("/usr/bin/qemu", translates=True))["MemoryDenyWriteExecute"] is False
