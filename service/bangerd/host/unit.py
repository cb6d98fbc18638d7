"""What a VM's systemd unit is and may do: pure, so that it can be read and tested in one place."""

from pathlib import Path

from bangerd.core.ports import UnitSpec
from bangerd.host.devices import device_groups

Property = tuple[str, str, object]  # name, D-Bus signature, value

STDIN_FD = 0  # index of the lifeline among the call's descriptors

_US = 1_000_000

_NOTIFY_SOCKET = "/run/systemd/notify"
# Hidden whole, then the VM's own files are bound back in: other VMs' files, the database, the system bus, other
# users' runtime folders, memory that any two processes could share, and what an admin may keep elsewhere.
_HIDDEN = ("/boot", "/dev/shm", "/media", "/mnt", "/opt", "/run", "/srv", "/var")  # noqa: S108


def unit_name(sid: str) -> str:
    return f"banger-vm-{sid}.service"


def unit_properties(spec: UnitSpec) -> list[Property]:
    """The arguments of StartTransientUnit."""
    return [*_identity(spec), *_limits(spec), *_view(spec), *_SANDBOX]


def _identity(spec: UnitSpec) -> list[Property]:
    vm = spec.vm
    groups = [str(gid) for gid in device_groups(spec.devices)]
    properties: list[Property] = [
        ("Description", "s", f"banger VM {vm.name} of {vm.owner_name} (uid {vm.owner_uid})"),
        ("Slice", "s", "banger.slice"),
        ("Type", "s", "notify"),  # started means that the shim's sockets listen
        ("NotifyAccess", "s", "main"),
        ("ExecStart", "a(sasb)", [[spec.argv[0], list(spec.argv), False]]),
        ("WorkingDirectory", "s", str(spec.run_dir)),
        # A number with DynamicUser= needs no passwd entry; `User=` alone would fail with 217/USER.
        ("DynamicUser", "b", True),
        ("User", "s", str(vm.uid)),
        ("SupplementaryGroups", "as", groups),
        # The folder is root:vmgid 0770; with umask 0 its sockets need no capability of bangerd's.
        ("UMask", "u", 0),
        ("SyslogIdentifier", "s", unit_name(vm.sid).removesuffix(".service")),
        # SIGTERM to the shim alone, which has the guest power off in 8 s; then SIGKILL to all.
        ("KillMode", "s", "mixed"),
        ("TimeoutStopUSec", "t", 12 * _US),
        ("SendSIGHUP", "b", False),
        # A unit that failed stays until forget(), so that `systemctl status` can say why.
        ("CollectMode", "s", "inactive"),
        ("OOMPolicy", "s", "continue"),  # the shim outlives its VMM and writes the exit record
    ]
    if spec.lifeline is not None:
        properties.append(("StandardInputFileDescriptor", "h", STDIN_FD))
    else:
        properties.append(("StandardInput", "s", "null"))
    return properties


def _limits(spec: UnitSpec) -> list[Property]:
    vcpu = spec.vm.spec.vcpu
    return [
        ("MemoryMax", "t", spec.memory_max),
        ("MemorySwapMax", "t", spec.memory_max),
        # Threads: one per vcpu, QEMU's pool for disk requests (64 at most), its own few.
        ("TasksMax", "t", 128 + vcpu),
        ("CPUWeight", "t", 50),
        # One CPU more than the guest has: its disks and its console are served by another thread.
        ("CPUQuotaPerSecUSec", "t", (vcpu + 1) * _US),
        ("IOWeight", "t", 50),
        ("LimitNOFILE", "t", 4096),
        # No file of the VM's grows over its disks' size; a VMM that was broken into could fill the host otherwise.
        ("LimitFSIZE", "t", spec.file_max),
        ("LimitCORE", "t", 0),  # a core would hold the guest's memory
        ("LimitMEMLOCK", "t", 8 * 1024 * 1024),
        ("OOMScoreAdjust", "i", 300),  # rather a VM than a service of the host
    ]


def _view(spec: UnitSpec) -> list[Property]:
    """What the unit sees of the host's files and devices."""
    writable = [str(spec.run_dir), *map(str, spec.read_write), *spec.devices]
    readable = [*map(str, spec.read_only), _NOTIFY_SOCKET]
    # A VMM of the admin's own may be in /opt.
    hidden = [
        path for path in _HIDDEN if path != "/opt" or not any(word.startswith("/opt/") for word in spec.argv)
    ]
    return [
        ("ProtectSystem", "s", "strict"),
        ("ProtectHome", "s", "tmpfs"),
        ("TemporaryFileSystem", "a(ss)", [[path, "ro"] for path in hidden if Path(path).is_dir()]),
        ("BindPaths", "a(ssbt)", [[path, path, False, 0] for path in writable]),
        ("BindReadOnlyPaths", "a(ssbt)", [[path, path, False, 0] for path in readable]),
        # A /dev of its own, to which its devices are bound; the device policy says the same once more.
        ("PrivateDevices", "b", True),
        ("DevicePolicy", "s", "closed"),
        ("DeviceAllow", "a(ss)", [[device, "rw"] for device in spec.devices]),
    ]


_SANDBOX: tuple[Property, ...] = (
    ("NoNewPrivileges", "b", True),
    ("CapabilityBoundingSet", "t", 0),
    ("AmbientCapabilities", "t", 0),
    ("SecureBits", "i", 0),
    ("PrivateTmp", "b", True),
    ("PrivateIPC", "b", True),
    ("PrivateUsers", "b", True),
    ("RemoveIPC", "b", True),
    ("KeyringMode", "s", "private"),
    ("ProtectProc", "s", "invisible"),
    ("ProcSubset", "s", "pid"),
    ("ProtectKernelTunables", "b", True),
    ("ProtectKernelModules", "b", True),
    ("ProtectKernelLogs", "b", True),
    ("ProtectControlGroups", "b", True),
    ("ProtectClock", "b", True),
    ("ProtectHostname", "b", True),
    ("LockPersonality", "b", True),
    ("RestrictRealtime", "b", True),
    ("RestrictSUIDSGID", "b", True),
    ("RestrictNamespaces", "t", 0),
    ("RestrictAddressFamilies", "(bas)", [True, ["AF_UNIX"]]),
    ("IPAddressDeny", "a(iayu)", [[2, bytes(4), 0], [10, bytes(16), 0]]),
    # MemoryDenyWriteExecute= is left out: QEMU without KVM translates the guest's code into memory that it runs.
    ("SystemCallArchitectures", "as", ["native"]),
    # seccomp: QEMU's own -sandbox, which forbids more once it is up; in @system-service since systemd 254.
    ("SystemCallFilter", "(bas)", [True, ["@system-service", "seccomp"]]),
    ("SystemCallFilter", "(bas)", [False, ["@privileged", "@resources"]]),
    ("SystemCallErrorNumber", "i", 1),  # EPERM: QEMU tries some of these and does without
)
