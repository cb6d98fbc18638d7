"""A VMM that was broken into: what a program in its place can see and do. Each denial is tried for real.

The unit is what each driver's plan comes to; the real shim starts probe.c there instead of the VMM.
"""

import asyncio
import errno
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.landlock import landlock_version
from tests.system.debian_root import REPO
from tests.system.machine import Machine
from tests.system.supervisor_contract import Rig, uid_of

from bangerd.core.ports import UnitSpec
from bangerd.core.vmm import NO_LIMITS, Launch, Plan
from bangerd.host.disk import DiskFiles
from bangerd.host.firecracker import Firecracker
from bangerd.host.qemu import Qemu

KINDS = ("qemu-tcg", "qemu-kvm", "firecracker")
NATIVE = REPO / "service/native"
STATE, RUN = "/var/lib/banger", "/run/banger/vm"
LIB = Path("/usr/local/lib/banger-test")
SHIM, PROBE = LIB / "banger-shim", LIB / "probe"
OWN, OTHERS = f"{STATE}/vm/00000001/disk.ext4", f"{STATE}/vm/00000002/disk.ext4"
SHARED = f"{STATE}/images/i/rootfs.squashfs"
TAP, OTHERS_TAP = "bgr-00000001", "bgr-00000002"
# All of them open to everyone by their modes, so that only the unit's own view of the host can hide them.
SECRETS = (
    f"{STATE}/banger.db",
    OTHERS,
    f"{RUN}/00000002/seed.img",
    "/home/alice/secret",
    "/root/secret",
    "/srv/secret",
    "/mnt/secret",
    "/opt/secret",
    "/etc/secret",
    "/tmp/secret",
    "/var/tmp/secret",
    "/dev/shm/secret",
)
ABSTRACT = "@banger-test"
SOCKETS = (
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/systemd/journal/stdout",
    f"{RUN}/00000002/guest.sock",
)
FAMILIES = {"unix": 1, "inet": 2, "inet6": 10, "netlink": 16, "packet": 17, "vsock": 40}
LIMITS = {"file size": 1, "core": 4, "processes": 6, "open files": 7, "locked memory": 8}
CALLS = (
    "unshare-user", "unshare-mount", "unshare-net", "mount", "remount", "umount", "pivot_root", "chroot",
    "setuid", "setgroups", "bpf", "perf_event_open", "io_uring_setup", "userfaultfd", "init_module", "keyctl",
    "open_by_handle_at", "settimeofday", "sethostname", "realtime", "nice", "personality",
)  # fmt: skip
REFUSALS = ("EPERM", "EACCES", "EROFS", "ENOENT", "EAFNOSUPPORT", "EFBIG", "ENXIO")
NOTHING = "0" * 16


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("probe") / "probe"
    source = Path(__file__).with_name("probe.c")
    subprocess.run(["cc", "-O1", "-Wall", "-D_GNU_SOURCE", "-static", source, "-o", made], check=True)
    return made


@pytest.fixture
def host(machine: Machine, rig: Rig, probe: Path) -> Iterator[Machine]:
    """With what a VMM might want to get at."""
    subprocess.run(["make", "-s", "-C", NATIVE, "build/banger-shim"], check=True)
    for source, dest in ((NATIVE / "build/banger-shim", SHIM), (probe, PROBE)):
        machine.copy_in(source, str(dest))
    script = [
        f"mkdir -p $(dirname {path}); chmod a+rx $(dirname {path}); echo x >{path}; chmod 666 {path}"
        for path in (*SECRETS, OWN, SHARED)
    ]
    script.append(f"chmod 644 {SHARED}; test -e /dev/kvm || mknod -m 666 /dev/kvm c 10 232")
    for number, tap, disk in ((1, TAP, OWN), (2, OTHERS_TAP, OTHERS)):
        uid = rig.spec(number=number).vm.uid
        script.append(f"ip tuntap add dev {tap} mode tap vnet_hdr user {uid}; chown {uid}:{uid} {disk}")
    machine.sh("\n".join(script))
    yield machine
    machine.sh(f"ip link delete {TAP}; ip link delete {OTHERS_TAP}")


async def plan(kind: str, probe: Path, rig: Rig) -> Plan:
    """As the driver makes it. Firecracker's program is a static one, as its releases are."""
    nothing = Path("/dev/null")
    launch = Launch(rig.spec().vm, Path(), nothing, nothing, nothing, "", (), kvm=kind != "qemu-tcg")
    disks = DiskFiles(probe.parent, probe.parent)
    if kind == "firecracker":
        return await Firecracker(probe, (1, 16, 1), disks, NO_LIMITS).plan(launch)
    return await Qemu("/usr/bin/qemu-system-x86_64", disks, kvm=launch.kvm).plan(launch)


async def unit(kind: str, rig: Rig, probe: Path, *, number: int = 1) -> UnitSpec:
    made = await plan(kind, probe, rig)
    spec = rig.spec(number=number)
    return replace(
        spec,
        argv=(str(SHIM), "--dir", str(spec.run_dir), "--channel", made.channel, "--", str(PROBE), "--stay"),
        programs=(SHIM, PROBE),
        read_write=(Path(OWN if number == 1 else OTHERS),),
        read_only=(Path(SHARED),),
        devices=made.devices,
        threads=made.threads,
        needs_libraries=made.needs_libraries,
        translates=made.translates,
    )


@asynccontextmanager
async def running(rig: Rig, spec: UnitSpec, *attempts: str) -> AsyncIterator[dict[str, str]]:
    """What came of each attempt; the probe waits meanwhile."""
    outside = rig.outside(spec.run_dir)
    (outside / "probe").unlink(missing_ok=True)
    (outside / "wanted").write_text("".join(f"{attempt}\n" for attempt in attempts))
    await rig.supervisor.start(spec)
    yield told(await rig.file(spec, "probe")) if attempts else {}
    await rig.supervisor.stop(spec.vm.sid)


def told(text: str) -> dict[str, str]:
    found = dict(line.split("\t") for line in text.splitlines())
    return {name: errno.errorcode[int(said)] if said.isdecimal() else said for name, said in found.items()}


async def probe_of(spec: UnitSpec) -> Path:
    """Its folder in the outside's /proc, once it is there."""
    async with asyncio.timeout(20):
        while True:
            for process in Path("/proc").glob("[0-9]*"):
                if uid_of(process) == spec.vm.uid and (process / "comm").read_text() == "probe\n":
                    return process
            await asyncio.sleep(0.01)


def number_inside(process: Path) -> str:
    """In the machine's own pid namespace."""
    (line,) = [line for line in (process / "status").read_text().splitlines() if line.startswith("NSpid:")]
    return line.split()[-1]


def at_others(pid: str) -> list[str]:
    """What may be tried at another VM's process."""
    return [
        *(f"{verb} {pid}" for verb in ("signal", "pidfd-signal", "trace", "read-memory")),
        f"read /proc/{pid}/root{OTHERS}",
        f"read /proc/{pid}/environ",
    ]


def entries(*names: str) -> str:
    return " ".join(["entries:", *names])


@contextmanager
def abstract_socket(machine: Machine) -> Iterator[None]:
    """Somebody's, in the machine's network namespace."""
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(chr(0) + 'banger-test'); s.listen();"
        " print('it listens', flush=True); sys.stdin.read()"
    )
    with machine.spawn("python3", "-c", script, user="nobody") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"it listens\n"
        yield
        process.stdin.close()
        process.wait(20)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_vmm_sees(kind: str, rig: Rig, host: Machine, probe: Path) -> None:
    """An empty root, and in it what is the VM's own; /usr, if the VMM is linked with libraries."""
    libraries = kind != "firecracker"
    spec = await unit(kind, rig, probe)
    shown = {
        "/etc": {"alternatives", "ld.so.cache"} if libraries else set(),
        "/run": {"banger", "systemd"},
        "/run/systemd": {"incoming", "notify"},
        "/run/banger": {"vm"},
        RUN: {"00000001"},
        "/var": {"lib"},
        "/var/lib": {"banger"},
        STATE: {"images", "vm"},
        f"{STATE}/vm": {"00000001"},
        str(LIB): {"banger-shim", "probe"},
        # Beside the probe's own three: standard streams and, for QEMU, the guest channel.
        "/proc/self/fd": {str(number) for number in range(7 if libraries else 6)},
    }
    hidden = (
        "/sys",
        "/root",
        "/home",
        "/tmp",
        "/var/tmp",
        "/dev/shm",
        "/dev/mqueue",
        "/dev/pts",
        "/run/user",
    )
    usr = ("/usr/lib/os-release", "/etc/ld.so.cache")
    never = (*SECRETS, "/etc/passwd", "/proc/1/root/etc/passwd", "/proc/kmsg", "/proc/sys/kernel/hostname")
    attempts = ["list /proc/self/fd", "list /usr", "list /proc"]
    attempts += [f"list {path}" for path in (*shown, *hidden)]
    attempts += [f"read {path}" for path in (OWN, SHARED, *usr, *never)]
    async with running(rig, spec, *attempts) as found:
        process = await probe_of(spec)
        inside = number_inside(process)
        assert (process / "environ").read_bytes() == b""
        # systemd 257 leaves the host's os-release there.
        assert found["list /run"] in (entries("systemd", "banger"), entries("host", "systemd", "banger"))
    assert {path: set(found[f"list {path}"].split()[1:]) - {"host"} for path in shown} == shown
    assert ("bin" in found["list /usr"]) == libraries
    assert set(found["list /proc"].split()[1:]) == {"self", "thread-self", inside}
    assert {found[f"list {path}"] for path in hidden} <= {"ENOENT", "EACCES"}
    assert {found[f"read {path}"] for path in never} <= {"ENOENT", "EACCES"}
    assert {found[f"read {path}"] for path in usr} == {"ok" if libraries else "ENOENT"}
    assert found[f"read {OWN}"] == found[f"read {SHARED}"] == "ok"


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_vmm_can_change(kind: str, rig: Rig, host: Machine, probe: Path) -> None:
    """Its disk and its folder; what it writes there it cannot run."""
    spec = await unit(kind, rig, probe)
    host.copy_in(probe, f"{spec.run_dir}/copy")
    folders = (
        "",
        "/etc",
        "/usr",
        "/var",
        "/run",
        "/dev",
        "/tmp",
        "/var/tmp",
        "/dev/shm",
        "/dev/mqueue",
        "/root",
    )
    refused = [
        *(f"write {folder}/x" for folder in folders),
        f"write {SHARED}",
        f"write {PROBE}",
        "write /proc/sys/net/ipv4/ip_forward",
        "write /sys/fs/cgroup/cgroup.procs",
        "execute ./copy",
        "execute /tmp/x",
        "code x",
        f"code {OWN}",
        "setuid-file x",
        "node 1",  # /dev/mem
        "grow 67108864",  # one byte more than its disk has
        *(f"limit {number}" for number in LIMITS.values()),
        *(f"call {name}" for name in CALLS),
    ]
    allowed = [f"write {OWN}", "write x", "grow 67108863"]
    generated = ["code at-once", "code later"]
    async with running(rig, spec, *refused, *allowed, *generated) as found:
        pass
    assert [name for name in refused if found[name] not in REFUSALS] == []
    assert [name for name in allowed if found[name] != "ok"] == []
    # QEMU without KVM translates the guest's code into memory that it then runs.
    assert {found[name] == "ok" for name in generated} == {kind == "qemu-tcg"}


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_vmm_can_reach(kind: str, rig: Rig, host: Machine, probe: Path) -> None:
    """Its tap and, where there is KVM for it, that; no other VM, process, socket, network or device."""
    spec, other = await unit(kind, rig, probe), await unit(kind, rig, probe, number=2)
    names = [name for name in FAMILIES if name != "unix"]
    devices = ("kmsg", "mem", "ptmx", "fuse", "vhost-net", *(() if "/dev/kvm" in spec.devices else ("kvm",)))
    async with running(rig, other):
        pid = number_inside(await probe_of(other))
        refused = [
            *at_others(pid),
            *(f"{verb} 1" for verb in ("signal", "pidfd-signal", "trace", "read-memory")),
            *(f"connect {path}" for path in SOCKETS),
            *(f"socket {FAMILIES[name]}" for name in names),
            *(f"device /dev/{name}" for name in devices),
            *(f"tap {name}" for name in (OTHERS_TAP, "bgr-new", "eth0")),
        ]
        allowed = [
            "socket 1",
            f"tap {TAP}",
            *(f"device /dev/{name}" for name in ("null", "urandom", "net/tun")),
        ]
        with abstract_socket(host):
            async with running(
                rig, spec, *refused, *allowed, f"connect {ABSTRACT}", "device /dev/kvm"
            ) as found:
                pass
    assert [name for name in refused if found[name] not in REFUSALS] == []
    assert [name for name in allowed if found[name] != "ok"] == []
    assert found[f"connect {ABSTRACT}"] == ("EPERM" if landlock_version() >= 6 else "ok")
    if "/dev/kvm" in spec.devices:
        # The latter from a kernel without KVM.
        assert found["device /dev/kvm"] in ("ok", "ENODEV", "ENXIO")


async def test_a_vmm_of_the_admins_own_brings_its_folder(rig: Rig, host: Machine, probe: Path) -> None:
    """A script, too, with what it calls; nothing beside its folder."""
    vmm = Path("/opt/own/bin/vmm")
    spec = await unit("qemu-tcg", rig, probe)
    words = list(spec.argv[: spec.argv.index("--") + 1])
    spec = replace(spec, argv=(*words, str(vmm)), programs=(SHIM, vmm))
    script = "#!/bin/sh\ncat /opt/own/share/data /opt/secret >said 2>&1\nmv said probe\nexec sleep 1000\n"
    host.sh(
        f"mkdir -p /opt/own/bin /opt/own/share; echo mine >/opt/own/share/data; echo '{script}' >{vmm}; chmod 755 {vmm}"
    )
    (rig.outside(spec.run_dir) / "probe").unlink(missing_ok=True)
    await rig.supervisor.start(spec)
    assert (await rig.file(spec, "probe")).splitlines() == [
        "mine", "cat: /opt/secret: No such file or directory",
    ]  # fmt: skip
    await rig.supervisor.stop(spec.vm.sid)


async def test_where_nothing_holds_it_the_probe_gets_all_that(rig: Rig, host: Machine, probe: Path) -> None:
    """Otherwise it would prove nothing that it is refused."""
    other = await unit("firecracker", rig, probe, number=2)
    async with running(rig, other):
        pid = number_inside(await probe_of(other))
        attempts = [
            *(f"read {path}" for path in SECRETS),
            *at_others(pid),
            *(f"connect {path}" for path in (*SOCKETS, ABSTRACT)),
            *(f"socket {number}" for name, number in FAMILIES.items() if name != "vsock"),
            *(f"tap {name}" for name in (TAP, OTHERS_TAP, "bgr-new")),
            *(f"write {folder}/x" for folder in ("", "/etc", "/tmp", "/run", "/dev/shm")),
            *("code at-once", "code later", "code x", "setuid-file x", "device /dev/ptmx", "execute ./copy"),
        ]
        folder = rig.outside(Path("/srv/unheld"))
        folder.mkdir()
        (folder / "wanted").write_text("".join(f"{attempt}\n" for attempt in attempts))
        host.copy_in(probe, "/srv/unheld/copy")
        with abstract_socket(host):
            host.run(str(PROBE), cwd="/srv/unheld")
        found = told((folder / "probe").read_text())
    shutil.rmtree(folder)
    assert {name: said for name, said in found.items() if said != "ok"} == {}


@pytest.mark.parametrize("kind", KINDS)
async def test_the_unit(kind: str, rig: Rig, host: Machine, probe: Path) -> None:
    spec = await unit(kind, rig, probe)
    name = f"banger-vm-{spec.vm.sid}.service"
    async with running(rig, spec):
        process = await probe_of(spec)
        lines = (process / "status").read_text().splitlines()
        status = {key: value.strip() for key, value in (line.split(":", 1) for line in lines)}
        assert {status[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {NOTHING}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(spec.vm.uid)}
        namespaces, hosts = process / "ns", Path(f"/proc/{host.leader}/ns")
        for name_of in ("ipc", "mnt", "user", "uts"):
            assert (namespaces / name_of).readlink() != (hosts / name_of).readlink()
        security = host.run("systemd-analyze", "security", "--no-pager", "--threshold=10", name, check=False)
        assert security.returncode == 0, security.stdout  # an exposure above 1.0 of 10
        shown = host.run("systemctl", "show", name).stdout.splitlines()
    properties = dict(line.split("=", 1) for line in shown if "=" in line)
    assert properties["Slice"] == "banger.slice"
    assert properties["MemoryMax"] == str(256 * 1024 * 1024)
    assert int(properties["TasksMax"]) < (20 if kind == "firecracker" else 200)
    assert int(properties["CPUWeight"]) < 100
    assert properties["CPUQuotaPerSecUSec"] == "2s"
    assert properties["LimitCORE"] == "0"
    assert properties["KillMode"] == "mixed"
    left = host.sh("find /run/banger/empty -mindepth 2")
    assert left == ""  # of one VM nothing is left where the next one's root is put together
