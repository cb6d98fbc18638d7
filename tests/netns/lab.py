"""A small internet in network namespaces, and guests whose frames really cross their taps."""

import ctypes
import fcntl
import ipaddress
import itertools
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType

from bangerd.model.network import BRIDGE_MAC
from bangerd.model.vm import GIB, MIB, VM, Desired, VMSpec

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_idents = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)

# The machine that banger runs on, its router, and a server somewhere (TEST-NET-1 and -2, RFC 5737).
HOST, ROUTER, SERVER = "192.0.2.2", "192.0.2.1", "198.51.100.1"
METADATA = "169.254.169.254"
GATEWAY = "172.16.0.1"


def run(*argv: str, given: str | None = None) -> str:
    """Run a command in the current namespace; its output. A failure shows what it wrote."""
    done = subprocess.run(argv, input=given, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout


def ip(batch: str) -> None:
    run("ip", "-batch", "-", given=batch)


class Netns:
    """A network namespace that lives as long as this object is open; `with` enters it (this thread only)."""

    def __init__(self) -> None:
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            if _libc.unshare(_CLONE_NEWNET) != 0:
                error = ctypes.get_errno()
                raise AssertionError(
                    f"cannot make a network namespace: unshare(CLONE_NEWNET): {os.strerror(error)};"
                    " these tests need root with CAP_SYS_ADMIN and a kernel with CONFIG_NET_NS"
                )
            self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        finally:
            _setns(before)
            os.close(before)
        self._before: list[int | None] = []
        with self:
            ip("link set lo up\n")

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> "Netns":
        if os.path.sameopenfile(self._fd, here := os.open("/proc/thread-self/ns/net", os.O_RDONLY)):
            os.close(here)
            self._before.append(None)  # nothing to do, which an unprivileged user can
        else:
            _setns(self._fd)
            self._before.append(here)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        before = self._before.pop()
        if before is not None:
            _setns(before)
            os.close(before)

    def tcp_server(self, address: str, port: int) -> socket.socket:
        with self:
            return socket.create_server((address, port))

    def udp(self, address: str = "", port: int = 0, *, timeout: float = 2.0) -> socket.socket:
        with self:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(timeout)
        sock.bind((address, port))
        return sock

    def connect(self, address: str, port: int, *, timeout: float = 2.0) -> socket.socket:
        """A TCP connection; raises OSError as connect() does, TimeoutError after `timeout` s."""
        with self:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect((address, port))
            try:
                sock.getpeername()
            except OSError:  # Linux 6.1 may lose the error of a refused connection until the next call
                sock.send(b"?")
        except OSError:
            sock.close()
            raise
        return sock

    def ping(self, address: str, *, timeout: float = 2.0, source: str = "") -> bool:
        """Whether an echo request is answered; an ICMP error, or silence for `timeout` s, is False."""
        with self, socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
            sock.settimeout(timeout)
            if source:
                sock.bind((source, 0))
            ident = next(_idents) & 0xFFFF  # each a flow of its own
            try:
                sock.sendto(echo_request(ident), (address, 0))
                while True:
                    packet, (sender, _) = sock.recvfrom(2048)
                    kind = packet[20]
                    if kind == 0 and sender == address and packet[24:26] == struct.pack(">H", ident):
                        return True
                    # An error carries the header of what it complains of, and eight bytes more.
                    if kind in {3, 11} and packet[37] == 1 and packet[52:54] == struct.pack(">H", ident):
                        return False
            except OSError:
                return False


def _setns(fd: int) -> None:
    assert _libc.setns(fd, _CLONE_NEWNET) == 0, f"setns: {os.strerror(ctypes.get_errno())}"


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(ident: int, payload: bytes = b"banger!!") -> bytes:
    body = struct.pack(">HH", ident, 1) + payload
    return struct.pack(">BBH", 8, 0, checksum(b"\x08\0\0\0" + body)) + body


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ether(destination: str, source: str, kind: int, payload: bytes) -> bytes:
    return mac(destination) + mac(source) + struct.pack(">H", kind) + payload


def ipv4(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    addresses = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(destination).packed
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 7, 0, 64, protocol, 0) + addresses
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload


def udp(source_port: int, port: int, payload: bytes) -> bytes:
    return struct.pack(">HHHH", source_port, port, 8 + len(payload), 0) + payload  # 0: no checksum


def arp(operation: int, sender_mac: str, sender: str, target: str) -> bytes:
    return (
        struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
        + mac(sender_mac) + ipaddress.IPv4Address(sender).packed
        + bytes(6) + ipaddress.IPv4Address(target).packed
    )  # fmt: skip


def open_tap(name: str) -> int:
    """A descriptor on the other side of a tap of the current namespace: what a VMM holds."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    except BaseException:
        os.close(fd)
        raise
    os.set_blocking(fd, False)
    return fd


def capture(interface: str) -> socket.socket:
    """All frames of an interface of the current namespace, in both directions."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    sock.bind((interface, 0))
    sock.settimeout(2)
    return sock


def until(met: Callable[[], bool], what: str, *, timeout: float = 5.0) -> None:
    """Wait for what the kernel does in its own time (a link's carrier)."""
    deadline = time.monotonic() + timeout
    while not met():
        assert time.monotonic() < deadline, f"waited {timeout} s for {what}"


class Guest:
    """What runs behind a tap: a namespace with a kernel's own network stack, on eth0, like a guest's.

    Its frames are carried between its eth0 and the host's tap unchanged; `send` adds whatever frame a hostile
    guest may think of.
    """

    def __init__(self, vm: VM, *, prefix: int = 24, gateway: str = GATEWAY) -> None:
        self.vm = vm
        self.seen: list[bytes] = []  # frames from the host
        self._stack = ExitStack()
        self.ns = Netns()
        self._stack.callback(self.ns.close)
        self._tap = open_tap(vm.tap)
        self._stack.callback(os.close, self._tap)
        with self.ns:
            inside = open_tap("eth0")
            self._stack.callback(os.close, inside)
            ip(
                f"link set eth0 address {vm.mac} addrgenmode none\n"
                f"addr add {vm.address}/{prefix} dev eth0\nlink set eth0 up\n"
                f"route add default via {gateway}\n"
            )
        stop, self._stop = os.pipe()
        self._stack.callback(os.close, stop)
        self._thread = threading.Thread(target=self._carry, args=(inside, stop))
        self._thread.start()

    def _carry(self, inside: int, stop: int) -> None:
        while True:
            ready, _, _ = select.select([self._tap, inside, stop], [], [])
            if stop in ready:
                return
            for source, target in ((self._tap, inside), (inside, self._tap)):
                with suppress(BlockingIOError, OSError):  # the tap may be down, or gone
                    frame = os.read(source, 65536)
                    if source == self._tap:
                        self.seen.append(frame)
                    os.write(target, frame)

    def send(self, frame: bytes) -> None:
        os.write(self._tap, frame)

    def send_udp(
        self, destination: str, port: int, payload: bytes, *,
        source: str = "", source_mac: str = "", to_mac: str = BRIDGE_MAC,
    ) -> None:  # fmt: skip
        """One datagram as a hostile guest would forge it; what is not given is true."""
        packet = ipv4(source or self.vm.address, destination, 17, udp(4000, port, payload))
        self.send(ether(to_mac, source_mac or self.vm.mac, 0x0800, packet))

    def close(self) -> None:
        os.close(self._stop)
        self._thread.join(timeout=5)
        assert not self._thread.is_alive()
        self._stack.close()


def make_vm(
    number: int, *, owner: int = 1000, nat: bool = True, address: str | None = None, uid: int | None = None
) -> VM:
    return VM(
        id=f"{number:08x}-0000-4000-8000-000000000000", sid=f"{number:08x}", name=f"vm{number}",
        owner_uid=owner, owner_name=f"user{owner}",
        spec=VMSpec(image="i", kernel="k", vcpu=1, memory=256 * MIB, disk=GIB, nat=nat),
        desired=Desired.RUNNING, uid=71000 + number if uid is None else uid,
        address=f"172.16.0.{number + 1}" if address is None else address,
    )  # fmt: skip


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """Sockets made here belong to this user, as far as the kernel's filters can see."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
