"""What this machine is: CPUs, memory, KVM, boot id, accounts, uids in use."""

import fcntl
import os
import pwd
from pathlib import Path

SYSVIPC = ("shm", "sem", "msg")
KVM = "/dev/kvm"
# linux/kvm.h: _IO(KVMIO, 0x00), and the only answer since Linux 2.6.22
_KVM_GET_API_VERSION, _KVM_API_VERSION = 0xAE00, 12


class HostFacts:
    """Implements core.ports.Host. `owned` are folders whose entries' owners count as uids in use."""

    def __init__(self, owned: tuple[Path, ...]) -> None:
        self._owned = owned
        self._why_no_cpu = _why_no_cpu()

    def boot_id(self) -> str:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def cpus(self) -> int:
        return len(os.sched_getaffinity(0))

    def memory(self) -> int:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def kvm(self) -> tuple[bool, str]:
        """Looked at anew each time, in some microseconds: a module can be unloaded, a device be taken away."""
        return (False, self._why_no_cpu) if self._why_no_cpu else _probe_device()

    def new_host_key(self) -> tuple[str, str]:
        """In this process: no child per VM, and no file that a crash could leave a private key in."""
        # 10 MiB of OpenSSL that a service without new VMs does not need.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
            PublicFormat,
        )

        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        return private.decode(), public.decode()

    def user_name(self, uid: int) -> str:
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return str(uid)

    def uids_in_use(self, first: int, count: int) -> frozenset[int]:
        """Owners in the range of processes, of System V IPC objects, and of what lies in banger's own folders."""
        uids = _process_uids() | _ipc_uids() | _owners(self._owned)
        return frozenset(uid for uid in uids if first <= uid < first + count)


def probe_kvm() -> tuple[bool, str]:
    """Whether KVM works here, and why (not).

    The device alone says little: in a VM without nested virtualization it opens, yet runs no stock kernel.
    """
    why_not = _why_no_cpu()
    return (False, why_not) if why_not else _probe_device()


def _why_no_cpu() -> str:
    with Path("/proc/cpuinfo").open() as file:  # of many CPUs it is long, and slow to read
        flags = next((line for line in file if line.startswith("flags")), "")
    return "" if {"vmx", "svm"} & set(flags.split()) else "the CPU shows neither vmx nor svm"


def _probe_device() -> tuple[bool, str]:
    try:
        descriptor = os.open(KVM, os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        return False, f"{KVM} cannot be opened: {exc.strerror}"
    try:
        version = fcntl.ioctl(descriptor, _KVM_GET_API_VERSION)
        mode = os.fstat(descriptor).st_mode
    except OSError as exc:
        return False, f"{KVM} is no KVM device: {exc.strerror}"
    finally:
        os.close(descriptor)
    if version != _KVM_API_VERSION:
        return False, f"{KVM} speaks version {version} of KVM's interface"
    if not any(mode & bits == bits for bits in (0o060, 0o006)):
        return (
            False,
            f"{KVM} is root's alone, and VMs do not run as root: chgrp kvm {KVM} && chmod 660 {KVM}",
        )
    return True, f"{KVM} opens and the CPU has hardware virtualization"


def _process_uids() -> set[int]:
    return _owners((Path("/proc"),))


def _owners(folders: tuple[Path, ...]) -> set[int]:
    found: set[int] = set()
    for folder in folders:
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            continue
        for entry in entries:
            try:
                found.add(entry.stat(follow_symlinks=False).st_uid)
                if folder != Path("/proc") and entry.is_dir(follow_symlinks=False):
                    found.update(inner.stat(follow_symlinks=False).st_uid for inner in os.scandir(entry))
            except (FileNotFoundError, ProcessLookupError):
                continue  # gone meanwhile
    return found


def _ipc_uids() -> set[int]:
    found: set[int] = set()
    for kind in SYSVIPC:
        try:
            lines = Path("/proc/sysvipc", kind).read_text().splitlines()
        except FileNotFoundError:
            continue  # a kernel without System V IPC
        if not lines:
            continue
        column = lines[0].split().index("uid")
        found.update(int(line.split()[column]) for line in lines[1:])
    return found
