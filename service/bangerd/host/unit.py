"""What a VM's systemd unit is and may do: pure, so that it can be read and tested in one place."""

from collections.abc import Sequence
from pathlib import Path

from bangerd.core.ports import UnitSpec
from bangerd.host.devices import device_groups

Property = tuple[str, str, object]  # name, D-Bus signature, value

STDIN_FD = 0  # index of the lifeline among the call's descriptors

_US = 1_000_000

_BIN = ("bin", "sbin", "libexec")
_RECURSIVE = 16384  # MS_REC: with what is mounted in it

# What a program that is linked dynamically, or a script, needs beside itself; those that the distribution has.
_LIBRARIES = ("/usr", "/lib", "/lib64", "/bin", "/nix/store", "/gnu/store")
_LINKER = ("/etc/ld.so.cache", "/etc/alternatives")
# Of what systemd puts into every root. PrivateTmp= cannot be refused with DynamicUser=, and would be the host's disk.
_TAKEN_AWAY = (
    *("/tmp", "/var/tmp", "/dev/shm"),  # noqa: S108
    *("/dev/mqueue", "/dev/hugepages", "/dev/pts", "/sys", "/run/systemd/journal", "/run/host"),
)


def unit_name(sid: str) -> str:
    return f"banger-vm-{sid}.service"


def unit_properties(spec: UnitSpec, empty: Path) -> list[Property]:
    """The arguments of StartTransientUnit. `empty` is the folder on which the unit's root is put together."""
    return [*_identity(spec), *_limits(spec), *_view(spec, empty), *_sandbox(spec)]


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
        # Not "continue", with which systemd does not say that it was the want of memory. The shim writes down the end
        # of its VMM on SIGTERM, too.
        ("OOMPolicy", "s", "stop"),
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
        ("TasksMax", "t", spec.threads + vcpu),
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


def _view(spec: UnitSpec, empty: Path) -> list[Property]:
    """What the unit sees of the host's files and devices: an empty root, and in it what it needs."""
    data = [str(path) for path in (spec.run_dir, *spec.read_write, *spec.read_only)]
    programs = [str(path) for path in spec.programs]
    libraries = _libraries(spec.programs) if spec.needs_libraries else []
    linker = _LINKER if spec.needs_libraries else ()
    bound = [*data, *programs, *libraries, *linker]
    # systemd makes the folders in which it binds something: in these, which are the unit's own, and not in `empty`.
    tops = {f"/{Path(path).parts[1]}" for path in bound} - set(bound) | {"/run"}
    return [
        ("RootDirectory", "s", str(empty)),
        ("TemporaryFileSystem", "a(ss)", [[path, "ro,noexec"] for path in sorted(tops)]),
        (
            "BindPaths",
            "a(ssbt)",
            [
                [path, path, False, 0]
                for path in (str(spec.run_dir), *map(str, spec.read_write), *spec.devices)
            ],
        ),
        (
            "BindReadOnlyPaths",
            "a(ssbt)",
            [
                *([path, path, False, 0] for path in (*map(str, spec.read_only), *programs)),
                *([path, path, True, _RECURSIVE] for path in (*libraries, *linker)),
            ],
        ),
        # "+": of the unit's root. "-": not on every host, or not with every systemd.
        ("InaccessiblePaths", "as", [f"-+{path}" for path in _TAKEN_AWAY]),
        ("NoExecPaths", "as", ["+/", *(f"+{path}" for path in data)]),
        ("ExecPaths", "as", [*(f"+{path}" for path in programs), *(f"-+{path}" for path in libraries)]),
        # A /dev of its own, to which its devices are bound; the device policy says the same once more.
        ("PrivateDevices", "b", True),
        ("DevicePolicy", "s", "closed"),
        ("DeviceAllow", "a(ss)", [[device, "rw"] for device in spec.devices]),
    ]


def _libraries(programs: Sequence[Path]) -> list[str]:
    """Where what they load may be. A program of the admin's own, in /opt or the like, brings its folder along."""
    homes = [program.parents[program.parent.name in _BIN] for program in programs]
    own = [home for home in homes if len(home.parts) > 2 and not home.is_relative_to("/usr")]
    return [*_LIBRARIES, *map(str, dict.fromkeys(own))]


def _sandbox(spec: UnitSpec) -> list[Property]:
    return [*_SANDBOX, ("MemoryDenyWriteExecute", "b", not spec.translates)]


# Beside what is for the privileged: what reaches into other processes, and what has had many holes and no VMM needs.
_REFUSED = [
    "@privileged", "@resources", "@keyring", "@setuid", "process_vm_readv", "process_vm_writev", "process_madvise",
    "io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd",
]  # fmt: skip

_LANDLOCK = ("landlock_create_ruleset", "landlock_restrict_self")

_SANDBOX: tuple[Property, ...] = (
    ("NoNewPrivileges", "b", True),
    ("CapabilityBoundingSet", "t", 0),
    ("AmbientCapabilities", "t", 0),
    ("SecureBits", "i", 0),
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
    ("SystemCallArchitectures", "as", ["native"]),
    # seccomp: QEMU's own -sandbox and Firecracker's own filters, which forbid more once they are up; landlock: the
    # shim's, on the VMM. In @system-service since systemd 254.
    ("SystemCallFilter", "(bas)", [True, ["@system-service", "seccomp", *_LANDLOCK]]),
    ("SystemCallFilter", "(bas)", [False, _REFUSED]),
    ("SystemCallErrorNumber", "i", 1),  # EPERM: QEMU tries some of these and does without
)
