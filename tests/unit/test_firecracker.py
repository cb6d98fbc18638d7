"""The Firecracker driver without Firecracker: what it asks is what each release takes, what is answered is checked."""

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.firecracker_facts import RELEASES, check_object, check_request

from bangerd.core.vmm import Capability, Disk, Launch, Rates
from bangerd.host import firecracker
from bangerd.host.disk import DiskFiles
from bangerd.host.firecracker import Firecracker
from bangerd.host.firecracker_config import configuration, features, parse_version
from bangerd.model.errors import HostNotReady, StepFailed
from bangerd.model.vm import GIB, MIB, VM, Desired, VMSpec

ME = os.getuid()

BINARY = Path("/bin/true")


def a_vm(**changes: Any) -> VM:
    spec = VMSpec(image="i", kernel="k", vcpu=3, memory=512 * MIB, disk=GIB)
    vm = VM("id", "0123abcd", "web", 1000, "alice", spec, Desired.RUNNING, uid=ME, address="172.16.0.2")
    return replace(vm, **changes)


def a_launch(tmp_path: Path) -> Launch:
    disks = (
        Disk(tmp_path / "seed.img", "seed", read_only=True),
        Disk(tmp_path / "i.squashfs", "image", read_only=True),
        Disk(tmp_path / "disk.ext4", "data", read_only=False),
        Disk(tmp_path / "c.ext4", "mount:/var/cache", read_only=False),
    )
    elf = tmp_path / "vmlinux"
    elf.write_bytes(b"\x7fELF")
    return Launch(a_vm(), tmp_path, tmp_path / "vmlinuz", elf, tmp_path / "initrd", "quiet", disks, kvm=True)


def version_of(release: str) -> tuple[int, int, int]:
    major, minor = map(int, release.split("."))
    return major, minor, 0


# What it is told


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("rates", [Rates(), Rates(disk=10 * MIB, network=MIB)])
def test_every_release_takes_its_configuration(tmp_path: Path, release: str, rates: Rates) -> None:
    launch = a_launch(tmp_path)
    told = configuration(launch, launch.elf, features(version_of(release)), rates)
    check_object("FullVmConfiguration", told, release)
    assert [drive["is_read_only"] for drive in told["drives"]] == [True, True, False, False]
    assert told["drives"][3]["drive_id"] == "mount__var_cache"
    assert told["machine-config"] == {"vcpu_count": 3, "mem_size_mib": 512}
    assert ("rate_limiter" in told["drives"][0]) == bool(rates.disk)
    assert told["balloon"].get("free_page_reporting", False) == (version_of(release) >= (1, 14, 0))


def test_a_newer_key_is_noticed_by_the_facts() -> None:
    balloon = {"amount_mib": 0, "deflate_on_oom": True, "free_page_reporting": True}
    check_object("Balloon", balloon, "1.14")
    with pytest.raises(AssertionError, match=r"free_page_reporting is of 1\.14, not 1\.13"):
        check_object("Balloon", balloon, "1.13")


@pytest.mark.parametrize(
    "said", ["Firecracker v1.16.1\n\nSupported snapshot data format", "Firecracker v1.12.0"]
)
def test_a_version_is_read(said: str) -> None:
    assert parse_version(said)[:2] in ((1, 16), (1, 12))


@pytest.mark.parametrize(
    "said", ["", "QEMU emulator version 7", "Firecracker 1.12", "Firecracker v1.x.0", "\0"]
)
def test_what_is_no_version_is_refused(said: str) -> None:
    with pytest.raises(HostNotReady, match="firecracker_bin"):
        parse_version(said)


def test_a_release_that_is_too_old_is_refused_with_the_reason() -> None:
    with pytest.raises(HostNotReady, match=r"Firecracker 1\.11\.2 is too old: .*install 1\.12 or later"):
        features((1, 11, 2))


# What it is asked


class Api:
    """A stand-in for the VMM's API socket: answers each connection with what it was given, and keeps what was asked."""

    def __init__(
        self, path: Path, answer: bytes, about: bytes = b"", *, hang: bool = False, slowly: bool = False
    ) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self._answer = answer
        self._about = about  # if anything: what is said to GET /
        self._hang = hang
        self._slowly = slowly
        self.answering: Callable[[], object] = lambda: None  # called before each answer
        self._end = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as stream:
                head = []
                while (line := stream.readline()) not in (b"\r\n", b""):
                    head.append(line)
                if not head:  # whoever it was went away
                    continue
                lengths = [
                    int(line.split(b":")[1]) for line in head if line.lower().startswith(b"content-length")
                ]
                body = stream.read(sum(lengths))
                method, path, _ = head[0].decode().split()
                self.asked.append((method, path, json.loads(body) if body else None))
                self.answering()
                if self._hang:
                    self._end.wait()
                said = self._about if self._about and path == "/" else self._answer
                try:
                    for byte in said if self._slowly else b"":
                        peer.sendall(bytes((byte,)))
                        self._end.wait(0.1)
                    peer.sendall(said)
                except OSError:
                    continue

    def close(self) -> None:
        self._end.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def http(status: str, body: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nServer: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def running(release: str) -> bytes:
    """What a Firecracker says of itself."""
    return http("200 OK", json.dumps({"id": "x", "state": "Running", "vmm_version": f"{release}.0"}))


Start = Callable[..., tuple[Firecracker, Api]]


@pytest.fixture
def disks(tmp_path: Path) -> DiskFiles:
    found = DiskFiles(tmp_path / "state", tmp_path / "run")
    found.run_dir(a_vm()).mkdir()
    return found


@pytest.fixture
def start(disks: DiskFiles) -> Iterator[Start]:
    apis: list[Api] = []

    def begin(
        answer: bytes, release: str = "1.16", about: bytes = b"", *, hang: bool = False, slowly: bool = False
    ) -> tuple[Firecracker, Api]:
        api = Api(disks.run_dir(a_vm()) / "api.sock", answer, about, hang=hang, slowly=slowly)
        apis.append(api)
        return Firecracker(Path("/fc"), version_of(release), disks, Rates()), api

    yield begin
    for api in apis:
        api.close()


@pytest.mark.parametrize("release", RELEASES)
async def test_every_release_takes_what_it_is_asked(start: Start, release: str) -> None:
    driver, api = start(http("204 No Content"), release, running(release))
    vm = a_vm(spec=replace(a_vm().spec, caches={"/var/cache": "apt"}))
    if driver.features.resumes:
        await driver.pause(vm)
        assert [api.asked.pop(0)[1], api.asked.pop(0)[2]] == ["/", {"state": "Paused"}]
    await driver.resume(vm)
    await driver.power_button(vm)
    await driver.balloon(vm, 64 * MIB)
    await driver.limit(vm, Rates(disk=MIB))
    assert not await driver.paused(vm)
    if Capability.SNAPSHOT in driver.capabilities:
        await driver.snapshot(vm, "state", "memory")
        await driver.restore(vm, "state", "memory", resume=True)
    else:
        for refused in (driver.snapshot(vm, "s", "m"), driver.restore(vm, "s", "m", resume=True)):
            with pytest.raises(HostNotReady, match="hear nothing of their host"):
                await refused
    for method, path, body in api.asked:
        check_request(method, path, body, release)
    assert [path for _, path, _ in api.asked] == [
        "/vm", "/actions", "/balloon", "/network-interfaces/eth0",
        "/drives/seed", "/drives/image", "/drives/modules", "/drives/data", "/drives/cache0",
        "/", *(("/", "/snapshot/create", "/", "/snapshot/load") if driver.features.resumes else ("/", "/")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("about", "error", "says"),
    [
        (running("1.16"), HostNotReady, r"Firecracker 1\.16\.0, whose guests"),
        (running("1.2"), StepFailed, r"'1\.2\.0' for its version"),
        (http("200 OK", '{"vmm_version": "odd"}'), StepFailed, "'odd' for its version"),
        (http("200 OK", "{}"), StepFailed, "'None' for its version"),
    ],
)
async def test_who_would_be_deaf_afterwards_is_not_paused(
    start: Start, about: bytes, error: type[Exception], says: str
) -> None:
    """Firecracker 1.16; also where the program is another one by now."""
    driver, api = start(http("204 No Content"), "1.15", about)
    assert Capability.PAUSE in driver.capabilities
    with pytest.raises(error, match=says):
        await driver.pause(a_vm())
    assert [path for _, path, _ in api.asked] == ["/"]
    for patch, both in ((1, False), (2, True)):
        driver = Firecracker(Path("/fc"), (1, 16, patch), driver._disks, Rates())
        assert ({Capability.PAUSE, Capability.SNAPSHOT} <= driver.capabilities) == both


async def test_what_it_answers_is_told(start: Start) -> None:
    driver, _ = start(http("200 OK", '{"state": "Paused", "id": "x", "odd": "text"}'))
    assert await driver.paused(a_vm())


async def test_a_refusal_has_the_reason_and_nothing_a_terminal_would_act_on(start: Start) -> None:
    fault = http("400 Bad Request", '{"fault_message": "not \\u001b[31mnow"}')
    driver, _ = start(fault, "1.15", running("1.15"))
    with pytest.raises(StepFailed, match=r"^Firecracker of 'web': it refused PATCH /vm: not now$"):
        await driver.pause(a_vm())


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "broke off"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 999 Odd\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000, "no HTTP"),
        (b'HTTP/1.1 200 OK\r\nContent-Type: multipart/x;"' + b";" * 500_000 + b"\r\n\r\n", "broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", "more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", "broke off"),
        (b"HTTP/1.1 200 " + b"x" * 100_000, "broke off"),
        (http("200 OK", "{" * 1000), "no JSON"),
        (http("200 OK", "[" * 60_000), "no JSON"),
        (http("200 OK", "[1, 2]"), "no JSON object"),
        (http("200 OK", '"' + "x" * 70_000 + '"'), "more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "broke off"),
    ],
)
async def test_nonsense_is_refused(start: Start, answer: bytes, why: str) -> None:
    driver, _ = start(answer)
    with pytest.raises(StepFailed, match=why):
        await driver.paused(a_vm())


async def test_a_socket_that_hangs_costs_its_time_and_no_more(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firecracker, "API_S", 0.2)
    driver, _ = start(b"", hang=True)
    with pytest.raises(StepFailed, match="did not answer GET / within"):
        await driver.paused(a_vm())


async def test_an_answer_byte_by_byte_costs_no_more(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VMM that was broken into may always be just about to say more."""
    monkeypatch.setattr(firecracker, "API_S", 0.3)
    driver, _ = start(http("200 OK", "{}").replace(b"x", b"x" * 1000), slowly=True)
    begun = time.monotonic()
    with pytest.raises(StepFailed, match="did not answer GET / within"):
        await driver.paused(a_vm())
    assert time.monotonic() - begun < 5


async def test_a_socket_that_is_not_the_vms_is_not_spoken_to(start: Start, disks: DiskFiles) -> None:
    driver, api = start(http("204 No Content"))
    with pytest.raises(StepFailed, match="cannot be reached"):
        await driver.pause(a_vm(uid=ME + 12345))
    socket_file = disks.run_dir(a_vm()) / "api.sock"
    socket_file.rename(socket_file.with_name("elsewhere"))
    socket_file.symlink_to("elsewhere")
    with pytest.raises(StepFailed, match="cannot be reached"):
        await driver.pause(a_vm())
    assert api.asked == []


class Meter:
    """Stands in for what Firecracker does with its end of the pipe."""

    def __init__(self, disks: DiskFiles) -> None:
        asyncio.run(disks.write_files(a_vm(), (("metrics.fifo", None),)))
        self.path = disks.run_dir(a_vm()) / "metrics.fifo"
        self.end = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)

    def write(self, text: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self.end, text)


@pytest.fixture
def meter(disks: DiskFiles) -> Iterator[Meter]:
    made = Meter(disks)
    yield made
    os.close(made.end)


async def test_metrics_are_those_of_now_also_when_nobody_has_read_for_long(
    start: Start, meter: Meter
) -> None:
    driver, api = start(http("204 No Content"))
    for minute in range(100):
        meter.write(b'{"utc_timestamp_ms": %d, "much": "%s"}\n' % (minute, b"x" * 10_000))
    api.answering = lambda: meter.write(b'{"utc_timestamp_ms": 1000}\n{"utc_timestamp_ms": 1001}\n{"cut')
    assert await driver.metrics(a_vm()) == {"utc_timestamp_ms": 1001}
    assert api.asked == [("PUT", "/actions", {"action_type": "FlushMetrics"})]
    api.answering = lambda: None
    with pytest.raises(StepFailed, match="wrote no metrics"):
        await driver.metrics(a_vm())


@pytest.mark.parametrize("what", ["link", "file", "nothing"])
async def test_metrics_are_read_from_the_vms_own_pipe_alone(start: Start, meter: Meter, what: str) -> None:
    driver, api = start(http("204 No Content"))
    meter.path.unlink()
    if what == "link":
        meter.path.symlink_to("/etc/passwd")
    elif what == "file":
        meter.path.write_text("{}")
    with pytest.raises(StepFailed, match="cannot be read|not the VM's own pipe"):
        await driver.metrics(a_vm())
    assert api.asked == []
