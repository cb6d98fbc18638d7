"""A VMM that was broken into: what a program in its place can see and do. Each denial is tried for real."""

import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.system.machine import Machine
from tests.system.supervisor_contract import Rig

OTHER = "0000beef"
STATE = "/var/lib/banger"
# All of them open to everyone by their modes, so that only the unit's own view of the host can hide them.
SECRETS = (
    f"{STATE}/banger.db",
    f"{STATE}/vm/{OTHER}/disk.ext4",
    f"/run/banger/vm/{OTHER}/seed.img",
    "/home/alice/secret",
    "/root/secret",
    "/srv/secret",
    "/mnt/secret",
    "/opt/secret",
    "/tmp/secret",
    "/var/tmp/secret",
    "/dev/shm/secret",
)
SOCKETS = ("/run/dbus/system_bus_socket", "/run/systemd/private", f"/run/banger/vm/{OTHER}/control.sock")
NOTHING = "0" * 16


@dataclass
class Probed:
    """What the program in the VMM's place found, and what systemd says of its unit."""

    found: dict[str, Any]
    unit: dict[str, str]
    security: subprocess.CompletedProcess[str]


async def probe(rig: Rig, machine: Machine, devices: tuple[str, ...] = ()) -> Probed:
    for secret in SECRETS:
        machine.sh(
            f"mkdir -p $(dirname {secret}); chmod a+rx $(dirname {secret}); echo x >{secret}; chmod 666 {secret}"
        )
    own, shared = Path(f"{STATE}/vm/00000001/disk.ext4"), Path(f"{STATE}/images/i/rootfs.squashfs")
    spec = rig.spec("exec", (Path(__file__).with_name("probe.py")).read_text())
    for path in (own, shared):
        machine.sh(f"mkdir -p $(dirname {path}); echo x >{path}; chmod 644 {path}")
    machine.sh(f"chown {spec.vm.uid}:{spec.vm.uid} {own}")
    spec = replace(spec, read_write=(own,), read_only=(*spec.read_only, shared), devices=devices)
    wanted = {
        "read": [*SECRETS, str(own), str(shared), "/etc/passwd", "/proc/sys/kernel/hostname", "/proc/kmsg"],
        "write": [str(own), str(shared), "/etc/x", "/usr/x", "/x", "/tmp/x", "/dev/shm/x", "/var/x", "/run/x",
                  "/proc/sys/net/ipv4/ip_forward", "/dev/net/tun", "/dev/kvm", "/dev/null", "/dev/kmsg"],
        "connect": list(SOCKETS),
        "list": ["/run", "/run/banger/vm", "/home", "/root", "/var", f"{STATE}/vm"],
    }  # fmt: skip
    outside = rig.outside(spec.run_dir)
    (outside / "wanted").write_text(json.dumps(wanted))
    await rig.supervisor.start(spec)
    text = await rig.file(spec, "probe")
    name = f"banger-vm-{spec.vm.sid}.service"
    shown = machine.run("systemctl", "show", name).stdout.splitlines()
    security = machine.run("systemd-analyze", "security", "--no-pager", "--threshold=10", name, check=False)
    await rig.supervisor.stop(spec.vm.sid)
    return Probed(json.loads(text), dict(line.split("=", 1) for line in shown if "=" in line), security)


async def test_what_a_vmm_can_do(rig: Rig, machine: Machine) -> None:
    found = (await probe(rig, machine)).found
    sid = "00000001"
    refused = {
        **{f"read {path}": "ENOENT" for path in SECRETS if path != "/root/secret"},
        **{f"connect {path}": "ENOENT" for path in SOCKETS},
        # Only processes are shown of /proc, and of those its own.
        **{f"read {path}": "ENOENT" for path in ("/proc/sys/kernel/hostname", "/proc/kmsg")},
        "write /proc/sys/net/ipv4/ip_forward": "ENOENT",
        **{f"write {path}": "EROFS" for path in ("/etc/x", "/usr/x", "/x", "/dev/shm/x", "/var/x", "/run/x")},
        # There is no such device, and none can be made.
        **{f"write {path}": "EROFS" for path in ("/dev/kvm", "/dev/kmsg")},
        "write /dev/net/tun": "ENOENT",
        f"write {STATE}/images/i/rootfs.squashfs": "EACCES",
        **{f"AF_{name}": "EAFNOSUPPORT" for name in ("INET", "INET6", "NETLINK", "PACKET", "VSOCK", "ALG")},
        **dict.fromkeys(
            ("unshare user", "unshare mount", "mount", "chroot", "setuid", "mknod", "setuid file", "kill others",
             "bpf", "init_module", "keyctl"), "EPERM",
        ),
    }  # fmt: skip
    allowed = {
        f"read {STATE}/vm/{sid}/disk.ext4", f"write {STATE}/vm/{sid}/disk.ext4", "write /dev/null",
        f"read {STATE}/images/i/rootfs.squashfs", "read /etc/passwd", "AF_UNIX",
        "write /tmp/x",  # one of its own
        "W+X memory",  # needed to emulate a CPU
    }  # fmt: skip
    tried = {name: result for name, result in found.items() if isinstance(result, str)}
    assert tried.pop("read /root/secret") in (
        "ENOENT",
        "EACCES",
    )  # systemd 257 gives its empty one mode 0700
    assert tried == refused | dict.fromkeys(allowed, "ok")
    assert found["list /run/banger/vm"] == found[f"list {STATE}/vm"] == [sid]
    assert found["list /home"] == found["list /root"] == []
    assert found["processes"] == 1
    status = found["status"]
    assert {status[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {NOTHING}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for kind in ("ipc", "mnt", "user"):
        assert found["namespaces"][kind] != str(Path(f"/proc/{machine.leader}/ns/{kind}").readlink())


async def test_only_its_own_devices(rig: Rig, machine: Machine) -> None:
    found = (await probe(rig, machine, devices=("/dev/net/tun",))).found
    assert found["write /dev/net/tun"] == "ok"
    assert found["write /dev/kvm"] == found["write /dev/kmsg"] == "EROFS"


async def test_limits_and_exposure(rig: Rig, machine: Machine) -> None:
    probed = await probe(rig, machine)
    unit = probed.unit
    assert unit["Slice"] == "banger.slice"
    assert unit["MemoryMax"] == str(256 * 1024 * 1024)
    assert int(unit["TasksMax"]) < 200
    assert int(unit["CPUWeight"]) < 100
    assert unit["CPUQuotaPerSecUSec"] == "2s"
    assert unit["LimitCORE"] == "0"
    assert unit["KillMode"] == "mixed"
    assert probed.security.returncode == 0, probed.security.stdout  # exposure above --threshold
