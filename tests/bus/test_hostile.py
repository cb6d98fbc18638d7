"""Callers that mean harm: they get an error, and everybody else goes on being served."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import SignatureTree, Variant

from bangerd.bus import clients, polkit, wire
from bangerd.core import jobs
from bangerd.core.jobs import Caller
from bangerd.core.requests import CreateRequest
from tests.bus.caller import ERRORS, NAME, ROOT, STANDARD, CallFailed, Client
from tests.bus.conftest import Service
from tests.bus.rig import ALICE, BOB, CAROL, Rig

User = Callable[[int], Awaitable[Client]]
MANAGER = f"{NAME}.Manager"


def open_fds() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that answers nothing for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def idle(service: Service) -> None:
    """Return when no call is under way."""
    while service.server._serving:
        await asyncio.wait(set(service.server._serving))
    counts = service.server._clients
    assert not counts._calls
    assert not counts._descriptors
    assert not counts._of_client


async def test_a_full_socket_waits(
    bus: Rig, service: Service, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 objects appear at once; dbus-next's own writer ended the connection on the first EAGAIN."""
    alice, bob = await user(ALICE), await user(BOB)
    await alice.subscribe()
    service.server._connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    out = service.server._connection._out
    backlog = []
    flush = out._flush

    def watched() -> None:
        backlog.append(len(out._queue))
        flush()

    out._flush = watched  # type: ignore[method-assign]
    by = Caller(ALICE, "alice", alice.name)
    monkeypatch.setattr(jobs, "PER_USER", 1000)
    requests = [CreateRequest(name=f"vm-{number:04}", start=False) for number in range(1000)]
    with stopped(bus.bus_pid):  # it takes nothing, so the socket is full for sure
        await asyncio.gather(*(service.vms.create(one, replace(by, client=":0.0")) for one in requests))
    async with asyncio.timeout(30):
        while sum(signal.member == "VMAdded" for signal in alice.signals) < 1000:
            await alice._news.wait()
            alice._news.clear()
    assert max(backlog) > 1  # it did wait
    names, after = [], ""
    while True:
        rows, after = await bob.manager("ListVMs", "a{sv}", {"after": Variant("s", after)})
        names += [row["name"].value for row in rows]
        if not after:
            break
    assert names == [f"vm-{number:04}" for number in range(1000)]
    message = bob.message(f"{ROOT}/vm", "org.freedesktop.DBus.Introspectable", "Introspect")
    assert (await bob.ask(message)).body[0].count("<node name=") == 1000


async def test_descriptors_that_nobody_asked_for_are_closed(service: Service, user: User) -> None:
    carol = await user(CAROL)
    await carol.manager("Ping", "")
    before = open_fds()
    ten = [os.open("/dev/null", os.O_RDONLY) for _ in range(10)]
    for _ in range(100):
        with pytest.raises(CallFailed) as failed:
            await carol.manager("ListVMs", "a{sv}", {}, fds=ten)
        assert failed.value.name == STANDARD + "InvalidArgs"
        assert failed.value.text == "ListVMs takes no descriptors, not 10"
    for fd in ten:
        os.close(fd)
    assert open_fds() == before


CREATIONS = {
    "undeclared": {},
    "no such index": {"ephemeral": Variant("b", True), "lifeline": Variant("h", 7)},
    "without ephemeral": {"lifeline": Variant("h", 0)},
    "wrong type": {"lifeline": Variant("u", 0)},
    "unknown image": {
        "image": Variant("s", "nope"),
        "ephemeral": Variant("b", True),
        "lifeline": Variant("h", 0),
    },
    "refused by the core": {
        "vcpu": Variant("u", 900),
        "ephemeral": Variant("b", True),
        "lifeline": Variant("h", 0),
    },
    "bad key": {
        "ssh_keys": Variant("as", ["x"]),
        "ephemeral": Variant("b", True),
        "lifeline": Variant("h", 0),
    },
}


@pytest.mark.parametrize("options", CREATIONS.values(), ids=CREATIONS.keys())
async def test_a_descriptor_of_a_refused_call_is_closed(
    service: Service, user: User, options: dict[str, Variant]
) -> None:
    alice, carol = await user(ALICE), await user(CAROL)
    ours, theirs = os.pipe()
    for client, name in ((alice, "Not A Name"), (alice, "web"), (carol, "web")):
        if options or client is carol:
            with pytest.raises(CallFailed):
                await client.call(ROOT, "Manager.CreateVM", "sa{sv}", name, options, fds=[theirs])
    os.close(theirs)
    assert os.read(ours, 1) == b""  # nobody holds the other end any more
    os.close(ours)
    assert not service.vms.all() or options == {}


async def test_a_lifeline_is_the_vms_and_ends_it(service: Service, user: User) -> None:
    alice = await user(ALICE)
    ours, theirs = os.pipe()
    options = {"ephemeral": Variant("b", True), "lifeline": Variant("h", 0)}
    vm, job = await alice.call(ROOT, "Manager.CreateVM", "sa{sv}", "web", options, fds=[theirs])
    os.close(theirs)
    await alice.done(job)
    os.set_blocking(ours, False)
    with pytest.raises(BlockingIOError):
        os.read(ours, 1)  # the VM holds it
    (deletion,) = await alice.call(vm, "VM.Delete", "a{sv}", {})
    await alice.done(deletion)
    assert os.read(ours, 1) == b""
    os.close(ours)


async def test_a_message_that_is_too_long_is_passed_over(service: Service, user: User) -> None:
    bob = await user(BOB)
    with pytest.raises(CallFailed) as failed:
        await bob.manager("FindVM", "s", "x" * 10_000_000)
    assert failed.value.name == STANDARD + "LimitsExceeded"
    assert failed.value.text.endswith("262144 are taken")
    long_path = bob.message("/" + "x" * 2_000_000, MANAGER, "Ping")
    await bob.send(long_path)  # cannot be answered: who sent it stands in a header that nobody reads
    assert await bob.manager("Ping", "") == []


async def test_a_body_of_too_many_values_is_refused(service: Service, user: User) -> None:
    bob = await user(BOB)
    options = {"x": Variant("av", [Variant("y", 0)] * 40_000)}
    with pytest.raises(CallFailed) as failed:
        await bob.manager("ListVMs", "a{sv}", options)
    assert failed.value.name == STANDARD + "InvalidArgs"
    assert str(wire.MAX_VALUES) in failed.value.text


async def test_signatures_are_forgotten(service: Service, user: User) -> None:
    bob = await user(BOB)
    kinds = "ybnqiuxtds"
    for round_ in range(3):
        options = {}
        for number in range(600):
            inner = "".join(kinds[(number + round_ * 600) // 10**digit % 10] for digit in range(4))
            options[f"k{number}"] = Variant(f"a({inner})", [])
        with pytest.raises(CallFailed):
            await bob.manager("ListVMs", "a{sv}", options)
    assert len(SignatureTree._cache) <= wire.MAX_SIGNATURES


async def test_calls_beyond_the_cap_are_refused_at_once(bus: Rig, service: Service, user: User) -> None:
    first, second, alice = await user(BOB), await user(BOB), await user(ALICE)
    await asyncio.gather(first.manager("Ping", ""), second.manager("Ping", ""), alice.manager("Ping", ""))
    with stopped(bus.polkit_pid):
        # The cap is the user's, not the connection's.
        calls = [
            await one.send(one.message(ROOT, MANAGER, "Ping")) for _ in range(100) for one in (first, second)
        ]
        # While polkit is stopped no call can be allowed: what is answered is refused, and that is all beyond the cap.
        async with asyncio.timeout(30):
            while sum(call.done() for call in calls) < 200 - clients.CALLS:
                await asyncio.wait(
                    [call for call in calls if not call.done()], return_when=asyncio.FIRST_COMPLETED
                )
        refused = [call.result() for call in calls if call.done()]
        assert len(refused) == 200 - clients.CALLS
        assert {answer.error_name for answer in refused} == {ERRORS + "LimitReached"}
        others = await alice.send(alice.message(ROOT, MANAGER, "Ping"))
    answers = await asyncio.gather(others, *calls)
    assert answers[0].message_type is MessageType.METHOD_RETURN
    assert sum(one.message_type is MessageType.METHOD_RETURN for one in answers) == 1 + clients.CALLS
    await idle(service)


async def test_one_user_does_not_keep_the_others_waiting(
    service: Service, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of bob's 64 calls are allowed in the same moment as alice's one; hers is not answered last."""
    alice, bob = await user(ALICE), await user(BOB)
    gate, answered = asyncio.Event(), []
    reply = service.server._reply_result

    async def check(_call: object, _facts: object) -> None:
        await gate.wait()

    def watched(header: wire.Header, *rest: Any) -> None:
        answered.append(header.member)
        reply(header, *rest)

    monkeypatch.setattr(service.server._authority, "check", check)
    monkeypatch.setattr(service.server, "_reply_result", watched)
    calls = [await bob.send(bob.message(ROOT, MANAGER, "ListVMs", "a{sv}", [{}])) for _ in range(64)]
    while sum(visit.call is not None for visit in service.server._serving.values()) < 64:
        await asyncio.sleep(0.01)
    calls.append(await alice.send(alice.message(ROOT, MANAGER, "Ping")))
    while sum(visit.call is not None for visit in service.server._serving.values()) < 65:
        await asyncio.sleep(0.01)
    gate.set()
    await asyncio.wait(calls)
    assert len(answered) == 65
    assert answered.index("Ping") == clients.AT_ONCE


async def test_descriptors_in_flight_are_capped(bus: Rig, service: Service, user: User) -> None:
    bob = await user(BOB)
    await bob.manager("Ping", "")
    before = open_fds()
    null = os.open("/dev/null", os.O_RDONLY)
    with stopped(bus.polkit_pid):
        for _ in range(3):  # what is refused before polkit is asked counts no longer
            with pytest.raises(CallFailed):
                await bob.call(ROOT, "Manager.CreateVM", "sa{sv}", "a b", {}, fds=[null])
        options = {"ephemeral": Variant("b", True), "lifeline": Variant("h", 0)}
        named = [bob.message(ROOT, MANAGER, "CreateVM", "sa{sv}", [f"vm-{n}", options]) for n in range(50)]
        calls = [await bob.send(one, [null]) for one in named]
        done, _ = await asyncio.wait(calls, timeout=0.5)
        errors = [call.result().error_name for call in done]
        assert errors == [ERRORS + "LimitReached"] * (50 - clients.DESCRIPTORS)
    await asyncio.wait(calls)
    await idle(service)
    assert len(service.vms.all()) == clients.DESCRIPTORS
    for vm in service.vms.all():
        await service.vms.delete(vm, Caller(BOB, "bob", ":0.0")).wait()
    os.close(null)
    assert open_fds() == before


async def test_a_caller_that_leaves_is_forgotten(bus: Rig, service: Service) -> None:
    before = open_fds()
    null = os.open("/dev/null", os.O_RDONLY)
    with stopped(bus.polkit_pid):
        async with await Client.connect(bus.address, BOB) as bob:
            options = {"ephemeral": Variant("b", True), "lifeline": Variant("h", 0)}
            for number in range(20):
                await bob.send(
                    bob.message(ROOT, MANAGER, "CreateVM", "sa{sv}", [f"vm-{number}", options]), [null]
                )
            while sum(visit.call is not None for visit in service.server._serving.values()) < 20:
                await asyncio.sleep(0.01)
        # polkit still says nothing: the calls end because their caller has left.
        async with asyncio.timeout(5):
            await idle(service)
    os.close(null)
    assert open_fds() == before
    assert not service.vms.all()
    assert not service.server._clients._known


async def test_a_caller_that_leaves_unread_leaves_no_descriptor(
    bus: Rig, service: Service, user: User
) -> None:
    alice = await user(ALICE)
    vm, _ = await alice.create("web")
    before = open_fds()
    for _ in range(20):
        async with await Client.connect(bus.address, ALICE) as hasty:
            await hasty.deafen()
            for _ in range(5):
                await hasty.send(hasty.message(vm, f"{NAME}.VM", "Exec", "a{sv}", [{}]))
    await alice.manager("Ping", "")
    await idle(service)
    assert open_fds() == before


async def test_sessions_and_logs_are_handed_over(service: Service, user: User) -> None:
    alice = await user(ALICE)
    vm, _ = await alice.create("web")
    before = open_fds()
    for member in ("Exec", "OpenLog"):
        for _ in range(50):
            os.close(await alice.open(vm, member))
    assert open_fds() == before


async def test_polkit_that_says_nothing_is_a_no(
    bus: Rig, service: Service, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polkit, "ANSWER_S", 0.2)
    alice = await user(ALICE)
    with stopped(bus.polkit_pid), pytest.raises(CallFailed) as failed:
        await alice.manager("Ping", "")
    assert failed.value.name == ERRORS + "AccessDenied"
    assert failed.value.text.startswith("polkit does not answer")
    assert await alice.manager("Ping", "") == []


async def test_answers_that_nobody_asked_for_change_nothing(service: Service, user: User) -> None:
    """Forged replies from polkit, forged news of the bus: the bus keeps them back, and we would not believe them."""
    alice, bob = await user(ALICE), await user(BOB)
    vm, _ = await alice.create("web")
    await bob.manager("Ping", "")
    service_name = service.server._connection.unique_name
    known = set(service.server._clients._known)
    for serial in range(1, 200):
        forged = Message(
            destination=service_name, message_type=MessageType.METHOD_RETURN, reply_serial=serial,
            signature="(bba{ss})", body=[[True, False, {}]], serial=10_000 + serial,
        )  # fmt: skip
        await bob.send(forged)
    news = bob.message(
        "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameOwnerChanged", "sss", [alice.name, alice.name, ""],
        message_type=MessageType.SIGNAL, destination=service_name,
    )  # fmt: skip
    await bob.send(news)
    assert await bob.manager("Ping", "") == []
    assert set(service.server._clients._known) == known
    with pytest.raises(CallFailed):
        await bob.call(vm, "VM.Delete", "a{sv}", {})
    assert await alice.properties(vm, "VM")


async def test_what_is_no_method_is_refused(service: Service, user: User) -> None:
    root = await user(0)  # the bus lets root send anything
    cases = {
        (ROOT, MANAGER, "Frob", ""): "UnknownMethod",
        (ROOT, MANAGER, "_request", ""): "UnknownMethod",
        (ROOT, MANAGER, "get", ""): "UnknownMethod",
        (ROOT, f"{NAME}.VM", "Start", "a{sv}"): "UnknownInterface",
        (ROOT, "", "Ping", ""): "UnknownInterface",
        (f"{ROOT}/vm/x/y", f"{NAME}.VM", "Start", "a{sv}"): "UnknownObject",
        ("/", MANAGER, "Ping", ""): "UnknownObject",
        (ROOT, MANAGER, "Ping", "a{sv}"): "InvalidArgs",
        (ROOT, MANAGER, "ListVMs", ""): "InvalidArgs",
        (ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", ""): "UnknownInterface",
        (ROOT, "org.freedesktop.DBus.Properties", "Get", "s"): "InvalidArgs",
        (ROOT, "org.freedesktop.DBus.Properties", "Frob", "s"): "UnknownInterface",
    }
    bodies = {"": [], "a{sv}": [{}], "s": ["x"]}
    for (path, interface, member, signature), error in cases.items():
        with pytest.raises(CallFailed) as failed:
            await root.ask(root.message(path, interface or None, member, signature, bodies[signature]))  # type: ignore[arg-type]
        assert failed.value.name == STANDARD + error, (path, interface, member)
    for path, error in {
        f"{ROOT}/vm/0": "NoSuchVM",
        f"{ROOT}/job/7": "NoSuchJob",
        f"{ROOT}/job/x": "NoSuchJob",
    }.items():
        kind = "VM" if "/vm/" in path else "Job"
        with pytest.raises(CallFailed) as failed:
            await root.call(path, f"{kind}.Describe", "a{sv}", {})
        assert failed.value.name == ERRORS + error


async def test_properties_are_read_only(service: Service, user: User) -> None:
    alice, root = await user(ALICE), await user(0)
    vm, _ = await alice.create("web")
    body = [f"{NAME}.VM", "Owner", Variant("u", BOB)]
    for client, error in ((alice, "AccessDenied"), (root, "PropertyReadOnly")):
        with pytest.raises(CallFailed) as failed:
            await client.ask(client.message(vm, "org.freedesktop.DBus.Properties", "Set", "ssv", body))
        assert failed.value.name == STANDARD + error


async def test_nobody_else_can_own_the_name(service: Service, user: User) -> None:
    with pytest.raises(CallFailed) as failed:
        await (await user(BOB)).driver("RequestName", "su", [NAME, 4])
    assert failed.value.name == STANDARD + "AccessDenied"
