"""What this machine is: CPUs, memory, KVM, boot id, accounts, uids in use."""

import os
import pwd
from pathlib import Path

SYSVIPC = ("shm", "sem", "msg")


class HostFacts:
    """Implements core.ports.Host. `owned` are folders whose entries' owners count as uids in use."""

    def __init__(self, owned: tuple[Path, ...]) -> None:
        self._owned = owned
        self._kvm = probe_kvm()

    def boot_id(self) -> str:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def cpus(self) -> int:
        return len(os.sched_getaffinity(0))

    def memory(self) -> int:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def kvm(self) -> tuple[bool, str]:
        return self._kvm

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
    flags = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), ""
    )
    if not {"vmx", "svm"} & set(flags.split()):
        return False, "the CPU shows neither vmx nor svm"
    try:
        descriptor = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        return False, f"/dev/kvm cannot be opened: {exc.strerror}"
    os.close(descriptor)
    return True, "/dev/kvm opens and the CPU has hardware virtualization"


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
