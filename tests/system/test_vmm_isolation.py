"""The real VMM of a VM, in its unit on a real machine: what it has in its hands, and what it could get at."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.system.here import LAB
from tests.system.installed import delete_all, running, with_each_vmm
from tests.system.machine import Machine
from tests.system.unit_of_vm import RunningVM, threads

pytestmark = [
    pytest.mark.lab,
    with_each_vmm,
    pytest.mark.skipif(not LAB, reason="needs the lab: a VMM on real KVM under systemd; tests/lab/run"),
]

NOTHING = "0" * 16
STATE, RUNTIME = Path("/var/lib/banger"), Path("/run/banger")
# Pipes and sockets are the shim's, or its own API's and its guest channel's.
HARMLESS = re.compile(r"(anon_inode:.*|socket:\[\d+\]|pipe:\[\d+\]|/dev/null|/dev/kvm|/dev/net/tun)")


@dataclass(frozen=True, slots=True)
class Two:
    """A VM of alice's, and one of bob's."""

    hers: RunningVM
    his: RunningVM

    @property
    def both(self) -> tuple[tuple[RunningVM, RunningVM], ...]:
        """Each with the other."""
        return (self.hers, self.his), (self.his, self.hers)


@pytest.fixture(scope="module")
def two(installed: Machine) -> Iterator[Two]:
    try:
        running(installed, "hers", user="alice")
        running(installed, "his", user="bob")
        yield Two(RunningVM.find(installed, "hers"), RunningVM.find(installed, "his"))
    finally:
        delete_all(installed)


def seen_by(vm: RunningVM, path: Path) -> Path:
    """A path as the VMM sees it."""
    return Path(f"/proc/{vm.vmm}/root") / path.relative_to("/")


def test_every_thread_has_lost_its_powers(two: Two) -> None:
    """And has a filter of the VMM's own beside the unit's: Firecracker's is another for each of its threads."""
    for vm, _ in two.both:
        (shim,) = threads(vm.shim).values()
        mine = threads(vm.vmm)
        assert len(mine) > 1
        for status in (shim, *mine.values()):
            assert status["Uid"].split() == [str(vm.uid)] * 4
            assert status["Gid"].split() == [str(vm.uid)] * 4
            assert {value for name, value in status.items() if name.startswith("Cap")} == {NOTHING}
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), status
        units = int(shim["Seccomp_filters"])
        assert units > 0
        more = {status["Name"]: int(status["Seccomp_filters"]) - units for status in mine.values()}
        print(f"filters of the unit: {units}; beside them, by thread: {more}")
        assert min(more.values()) > 0
    assert two.hers.uid != two.his.uid


def test_it_is_in_its_units_cgroup_alone(two: Two) -> None:
    for vm, _ in two.both:
        for pid in (vm.shim, vm.vmm):
            (line,) = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
            assert line == f"0::/banger.slice/{vm.unit}"


def test_it_has_only_its_own_files_open(two: Two) -> None:
    for vm, other in two.both:
        links = {str(link.readlink()) for link in Path(f"/proc/{vm.vmm}/fd").iterdir()}
        files = {link for link in links if not HARMLESS.fullmatch(link)}
        print(sorted(files))
        assert {"/dev/kvm", "/dev/net/tun"} <= links
        assert f"{STATE}/vm/{vm.sid}/disk.ext4" in files
        own = (f"{STATE}/vm/{vm.sid}/", f"{RUNTIME}/vm/{vm.sid}/")
        shared = (f"{STATE}/images/", f"{STATE}/kernels/")
        assert all(file.startswith(own + shared) for file in files), files
        writable = {
            str(link.readlink())
            for link in Path(f"/proc/{vm.vmm}/fd").iterdir()
            if str(link.readlink()).startswith(shared) and is_writable(vm.vmm, link.name)
        }
        assert not writable
        assert not any(other.sid in link for link in links)


def is_writable(pid: int, descriptor: str) -> bool:
    lines = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text().splitlines()
    flags = next(line.split()[1] for line in lines if line.startswith("flags:"))
    return int(flags, 8) & 0o3 != 0


def test_its_view_has_nothing_of_others(two: Two) -> None:
    """Not by modes: root, in the VMM's place, would not find it either."""
    namespaces = set()
    for vm, other in two.both:
        namespaces |= {str(Path(f"/proc/{pid}/ns/mnt").readlink()) for pid in (1, vm.vmm)}
        assert (STATE / "banger.db").exists()
        assert seen_by(vm, STATE / "vm" / vm.sid / "disk.ext4").exists()
        for path in (
            STATE / "banger.db",
            STATE / "vm" / other.sid,
            RUNTIME / "vm" / other.sid,
            Path("/run/dbus/system_bus_socket"),
            Path("/run/systemd/private"),
            Path("/home/alice"),
        ):
            assert path.exists()
            assert not seen_by(vm, path).exists(), path
        mounts = Path(f"/proc/{vm.vmm}/mountinfo").read_text()
        assert other.sid not in mounts
    assert len(namespaces) == 3


def test_a_vms_uid_opens_nothing_of_anothers(installed: Machine, two: Two) -> None:
    """Should its view of the host fail it, modes and owners still stand."""
    for vm, other in two.both:
        as_vm = ("setpriv", f"--reuid={vm.uid}", f"--regid={vm.uid}", "--clear-groups")
        for deed in (
            ("cat", f"{STATE}/vm/{other.sid}/disk.ext4"),
            ("ls", f"{RUNTIME}/vm/{other.sid}"),
            ("cat", f"{STATE}/banger.db"),
            ("kill", "-0", str(other.vmm)),
            ("cat", f"/proc/{other.vmm}/environ"),
            ("ls", f"/proc/{other.vmm}/fd/"),
            ("head", "-c1", f"/proc/{other.vmm}/mem"),
        ):
            done = installed.run(*as_vm, *deed, check=False)
            assert done.returncode != 0, deed
            assert re.search("Permission denied|not permitted", done.stderr), (deed, done.stderr)
        own = installed.run(*as_vm, "head", "-c1", f"{STATE}/vm/{vm.sid}/disk.ext4", check=False)
        assert own.returncode == 0, own.stderr
