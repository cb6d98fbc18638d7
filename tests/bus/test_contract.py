"""Code, XML, bus policy, actions and what was released agree on banger's members."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bangerd.bus import guards
from bangerd.bus.export import Interface
from bangerd.bus.image import ImageInterface
from bangerd.bus.job import JobInterface
from bangerd.bus.kernel import KernelInterface
from bangerd.bus.manager import Manager
from bangerd.bus.vm import VMInterface
from tests.bus.caller import CallFailed, Client
from tests.bus.conftest import Service
from tests.bus.contract import CONTRACT, OURS, TOP, members
from tests.bus.rig import ALICE

User = Callable[[int], Awaitable[Client]]
KINDS: tuple[type[Interface], ...] = (Manager, VMInterface, ImageInterface, KernelInterface, JobInterface)
RELEASED = Path(__file__).with_name("signatures-0.1.txt")
FREE = {  # D-Bus's own members that everybody may call
    "org.freedesktop.DBus.Introspectable.Introspect",
    "org.freedesktop.DBus.Peer.GetMachineId",
    "org.freedesktop.DBus.Peer.Ping",
    "org.freedesktop.DBus.Properties.Get",
    "org.freedesktop.DBus.Properties.GetAll",
}


def contract() -> dict[str, str]:
    return members(CONTRACT.read_text())


def methods() -> set[str]:
    return {name for name, shape in contract().items() if shape.startswith("method")}


async def test_the_running_service_is_what_the_contract_says(service: Service, user: User) -> None:
    alice = await user(ALICE)
    vm, job = await alice.create("web")
    root = "/com/thaloco/Banger1"
    (image,), (kernel,) = service.world.images, service.world.kernels
    seen = {}
    for path in (root, vm, job, f"{root}/image/{image.id}", f"{root}/kernel/{kernel.id}"):
        message = alice.message(path, "org.freedesktop.DBus.Introspectable", "Introspect")
        seen |= members((await alice.ask(message)).body[0])
    assert seen == contract()


async def walk(client: Client) -> set[str]:
    """All paths that introspection leads to."""
    found, todo = set(), ["/"]
    while todo:
        path = todo.pop()
        found.add(path)
        message = client.message(path, "org.freedesktop.DBus.Introspectable", "Introspect")
        children = ET.fromstring((await client.ask(message)).body[0]).findall("node")
        todo += [f"{path.rstrip('/')}/{child.get('name')}" for child in children]
    return found


async def test_objects_are_found_from_the_root_down(service: Service, user: User) -> None:
    alice = await user(ALICE)
    service.world.images, images = [], service.world.images
    service.world.kernels, kernels = [], service.world.kernels
    folders = {"/", "/com", "/com/thaloco", "/com/thaloco/Banger1"}
    folders |= {f"/com/thaloco/Banger1/{kind}" for kind in ("vm", "image", "kernel", "job")}
    assert await walk(alice) == folders
    service.world.images, service.world.kernels = images, kernels
    vm, job = await alice.create("web")
    image = f"/com/thaloco/Banger1/image/{images[0].id}"
    kernel = f"/com/thaloco/Banger1/kernel/{kernels[0].id}"
    assert await walk(alice) == folders | {vm, job, image, kernel}
    for path in ("/com/thaloco/Banger1/vm/0", "/com/thaloco/Banger1/frob", "/org", "/vm"):
        with pytest.raises(CallFailed) as failed:
            await alice.ask(alice.message(path, "org.freedesktop.DBus.Introspectable", "Introspect"))
        assert failed.value.name == "org.freedesktop.DBus.Error.UnknownObject"


def test_every_member_is_explained_and_dated() -> None:
    tree = ET.parse(CONTRACT).getroot()
    things = [
        thing
        for interface in tree
        for thing in (interface, *interface)
        if thing.tag not in ("arg", "annotation")
    ]
    assert len(things) == len(contract()) + len(KINDS)
    for thing in things:
        notes = {note.get("name"): note.get("value", "") for note in thing.findall("annotation")}
        assert notes["org.freedesktop.DBus.DocString"].endswith("."), thing.get("name")
        assert re.fullmatch(r"\d+\.\d+", notes["com.thaloco.Since"]), thing.get("name")


def test_exported_is_what_the_contract_says() -> None:
    assert {f"{kind.name}.{name}" for kind in KINDS for name in kind.methods} == methods()
    for kind in KINDS:
        for name, method in kind.methods.items():
            assert callable(method.guard), name


def test_descriptors_are_declared() -> None:
    declared = {
        f"{interface.get('name')}.{method.get('name')}": int(note.get("value", "0"))
        for interface in ET.parse(CONTRACT).getroot()
        for method in interface.findall("method")
        for note in method.findall("annotation[@name='com.thaloco.Descriptors']")
    }
    assert declared == {
        f"{kind.name}.{name}": method.descriptors
        for kind in KINDS
        for name, method in kind.methods.items()
        if method.descriptors
    }


def test_only_the_exported_methods_are_methods() -> None:
    """No interface has a public function that is neither exported nor a property: it could only be forgotten there."""
    for kind in KINDS:
        stray = [name for name, value in vars(kind).items() if name[:1].isupper() and callable(value)]
        assert not stray


def policy(user: str) -> list[ET.Element]:
    tree = ET.parse(TOP / "packaging/dbus/com.thaloco.Banger1.conf").getroot()
    attribute, value = user.split("=")
    (found,) = [one for one in tree.findall("policy") if one.get(attribute) == value]
    assert len(tree.findall("policy")) == 2
    return list(found)


def test_the_bus_policy_lists_every_method_and_no_more() -> None:
    rules = policy("context=default")
    assert (rules[0].tag, rules[0].attrib) == ("deny", {"send_destination": OURS.rstrip(".")})
    allowed = set()
    for rule in rules[1:]:
        assert rule.tag == "allow"
        if "send_destination" in rule.attrib:
            assert rule.get("send_destination") == OURS.rstrip(".")
            allowed.add(f"{rule.attrib['send_interface']}.{rule.attrib['send_member']}")
        else:
            assert rule.attrib == {"receive_sender": OURS.rstrip(".")}
    assert allowed == methods() | FREE


def test_only_root_owns_the_name() -> None:
    owners = [rule for rule in policy("user=root") if "own" in rule.attrib]
    assert [rule.get("own") for rule in owners] == [OURS.rstrip(".")]
    assert not [rule for rule in policy("context=default") if "own" in rule.attrib]


def actions() -> dict[str, ET.Element]:
    tree = ET.parse(TOP / "polkit/com.thaloco.banger1.policy").getroot()
    return {action.get("id", ""): action for action in tree.findall("action")}


def test_polkit_knows_the_actions_that_are_asked_for() -> None:
    named = {value for name, value in vars(guards).items() if name.isupper() and isinstance(value, str)} - {
        guards.PREFIX
    }
    assert set(actions()) == named == set(guards.ALL)


def test_actions_have_sentences_and_sane_defaults() -> None:
    for name, action in actions().items():
        assert action.findtext("description"), name
        assert action.findtext("message", "").startswith("Authentication is required to "), name
        defaults = {one.tag: one.text for one in action.iterfind("defaults/*")}
        assert set(defaults) == {"allow_any", "allow_inactive", "allow_active"}, name
        assert not [value for value in defaults.values() if str(value).endswith("_keep")], name
        if "others" in name or name.endswith("-any"):
            assert set(defaults.values()) == {"auth_admin"}, name
        else:
            assert defaults["allow_active"] == "yes", name


def test_nothing_released_has_changed() -> None:
    released = dict(line.split("\t") for line in RELEASED.read_text().splitlines() if line)
    now = contract()
    assert {name: now.get(name) for name in released} == released
