"""What is one user's is not shown to another: by no method, property, introspection, error or signal."""

import asyncio
import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from dbus_next.message import Message
from dbus_next.signature import Variant

from bangerd.model.image import Image
from tests.bus.caller import NAME, ROOT, CallFailed, Client, plain
from tests.bus.conftest import Service
from tests.bus.contract import CONTRACT
from tests.bus.rig import ALICE, BOB, BOSS, CAROL

User = Callable[[int], Awaitable[Client]]


def _signature(method: ET.Element) -> str:
    return "".join(arg.get("type", "") for arg in method.findall("arg[@direction='in']"))


SECRETS = {
    "label": "lbl-5ecret-value",
    "label name": "lbl-5ecret-name",
    "key": "ssh-ed25519 AAAA5ecretKey alice@home",
    "memory": str(777 * 2**20),
    "disk": str(1234 * 2**20),
    "image": "img-5ecret-digest",
    "image source": "img-5ecret-source",
}
SPEC = {
    "labels": Variant("a{ss}", {SECRETS["label name"]: SECRETS["label"]}),
    "ssh_keys": Variant("as", [SECRETS["key"]]),
    "memory": Variant("t", 777 * 2**20),
    "disk": Variant("t", 1234 * 2**20),
}
PRIVATE_IMAGE = Image(
    id="c0ffee000000",
    name="alices-image",
    digest=SECRETS["image"],
    size=1,
    created_at=1,
    owner_uid=ALICE,
    source=SECRETS["image source"],
)
METHODS = [
    (interface.get("name", ""), method.get("name", ""), _signature(method))
    for interface in ET.parse(CONTRACT).getroot()
    for method in interface.findall("method")
]
DEADLY = {"Delete", "Kill", "Stop", "Cancel"}  # not to be tried by those who may


async def everything(client: Client, paths: list[str], *, all_methods: bool) -> str:
    """All answers to everything that can be asked, errors included, as one text."""
    seen = []
    for path in paths:
        calls = [
            (interface, member, signature)
            for interface, member, signature in METHODS
            if all_methods or member not in DEADLY
        ]
        calls += [("org.freedesktop.DBus.Introspectable", "Introspect", "")]
        calls += [("org.freedesktop.DBus.Properties", "GetAll", "i")]
        calls += [("org.freedesktop.DBus.ObjectManager", "GetManagedObjects", "")]
        for interface, member, signature in calls:
            bodies = {
                "": [[]],
                "a{sv}": [[{}]],
                "s": [["web"]],
                "sa{sv}": [["web", {}], ["docker.io/x", {}]],
                "a{ss}a{sv}": [[{}, {}]],
                "sha{sv}": [["alices-image", 0, {}]],
            }
            bodies["i"] = [[one] for one in {name for name, _, _ in METHODS}]
            for body in bodies[signature]:
                message = client.message(path, interface, member, signature.replace("i", "s"), body)
                try:
                    reply = await client.ask(message)
                    seen.append(f"{path} {interface}.{member}: {plain(reply.body)}")
                    reply.close()
                except CallFailed as exc:
                    seen.append(f"{path} {interface}.{member}: {exc}")
    return "\n".join(seen)


def told(signals: list[Message]) -> str:
    return "\n".join(
        f"{m.path} {m.interface}.{m.member} {plain(m.body)}"
        for m in signals
        if m.sender != "org.freedesktop.DBus"
    )


async def test_nothing_of_alices_is_shown_to_bob(service: Service, user: User) -> None:
    alice, bob = await user(ALICE), await user(BOB)
    await bob.subscribe("type='signal'")
    service.world.images.append(PRIVATE_IMAGE)
    vm, job = await alice.create("web", **SPEC)
    address = service.vms.find("web").address
    machine = service.vms._machines[vm.rpartition("/")[2]]
    await machine.store(last_error="5ecret-error")
    secrets = {**SECRETS, "address": address, "error": "5ecret-error", "id": service.vms.find("web").id}
    image = f"{ROOT}/image/{PRIVATE_IMAGE.id}"
    (stop,) = await alice.call(vm, "VM.Stop", "a{sv}", {})
    await alice.done(stop)
    (start,) = await alice.call(vm, "VM.Start", "a{sv}", {})
    await alice.done(start)
    paths = ["/", ROOT, f"{ROOT}/vm", f"{ROOT}/job", vm, job, stop, image]

    # First the proof that the search would find them: alice sees hers, and so does who may inspect others'.
    for one, hidden in ((alice, {"key"}), (await user(BOSS), {"key"})):
        shown = await everything(one, paths, all_methods=False)
        assert {name for name, secret in secrets.items() if secret not in shown} <= hidden | {"error"}
    await machine.store(last_error="5ecret-error")
    assert "5ecret-error" in await everything(alice, [ROOT], all_methods=False)

    for one in (bob, await user(CAROL)):
        shown = await everything(one, paths, all_methods=True)
        assert not [name for name, secret in secrets.items() if secret in shown]
        assert f"{vm} {NAME}.VM.Describe: " in shown
    heard = told(bob.signals)
    assert vm in heard
    assert not [name for name, secret in secrets.items() if secret in heard]
    assert "JobRemoved" not in heard
    assert "/job/" not in heard
    assert service.vms.find("web").owner_uid == ALICE  # and nothing of what was tried has worked


async def test_jobs_are_told_to_whom_they_concern(service: Service, user: User) -> None:
    alice, other, bob = await user(ALICE), await user(ALICE), await user(BOB)
    for client in (alice, other, bob):
        await client.subscribe("type='signal'")
    _, job = await alice.create("web")
    await alice.heard("JobRemoved", job, "done")
    assert any(m.member == "PropertiesChanged" and m.path == job for m in alice.signals)
    await bob.manager("Ping", "")
    await other.manager("Ping", "")
    assert "JobRemoved" not in told(bob.signals) + told(other.signals)
    assert plain(await bob.manager("ListJobs")) == [[]]
    (mine,) = plain(await alice.manager("ListJobs"))[0]
    assert mine["path"] == job


async def test_who_joins_a_pull_is_told_too(service: Service, user: User) -> None:
    alice, bob = await user(ALICE), await user(BOB)
    gate = service.ports.library.pause = asyncio.Event()  # type: ignore[attr-defined]
    for client in (alice, bob):
        await client.subscribe()
    (first,) = await alice.manager("PullImage", "sa{sv}", "debian-trixie", {})
    (second,) = await bob.manager("PullImage", "sa{sv}", "debian-trixie", {})
    assert first == second
    assert plain(await bob.call(second, "Job.Describe", "a{sv}", {}))[0]["state"] == "running"
    with pytest.raises(CallFailed) as failed:
        await bob.call(second, "Job.Cancel", "a{sv}", {})
    assert "belongs to alice" in failed.value.text
    gate.set()
    await asyncio.gather(alice.heard("JobRemoved", first, "done"), bob.heard("JobRemoved", second, "done"))


async def test_a_uid_that_got_a_new_name_owns_what_the_old_one_did(service: Service, user: User) -> None:
    """Ownership is the uid; the stored name only says who it was."""
    alice = await user(ALICE)
    vm, _ = await alice.create("web")
    machine = service.vms._machines[vm.rpartition("/")[2]]
    machine.vm = replace(machine.vm, owner_name="somebody")
    assert plain(await alice.call(vm, "VM.Describe", "a{sv}", {}))[0]["owner_name"] == "somebody"
