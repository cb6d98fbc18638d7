"""Every method, given options that make no sense: one precise sentence each, and nothing done."""

import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from dbus_next.signature import Variant

from bangerd.bus.manager import CREATE_OPTIONS, SPEC_OPTIONS
from tests.bus.caller import ERRORS, NAME, ROOT, CallFailed, Client, plain
from tests.bus.conftest import Service
from tests.bus.contract import CONTRACT
from tests.bus.rig import ALICE, BOB

User = Callable[[int], Awaitable[Client]]
METHODS = [
    (interface.get("name", "").removeprefix(NAME + "."), method.get("name", ""))
    for interface in ET.parse(CONTRACT).getroot()
    for method in interface.findall("method")
    if method.findall("arg[@direction='in'][@type='a{sv}']")
]
KNOWN = {
    "CreateVM": CREATE_OPTIONS,
    "ResolveSpec": SPEC_OPTIONS,
    "ListNames": {"prefix": "s"},
    "PullImage": {"as": "s"},
    "ListVMs": {"owner": "u", "after": "s", "limit": "u"},
    "ListCaches": {"owner": "u"},
    "DeleteCache": {"owner": "u"},
}
VALUES: dict[str, Variant] = {
    "s": Variant("s", "x"),
    "u": Variant("u", 1),
    "i": Variant("i", -1),
    "t": Variant("t", 2**64 - 1),
    "x": Variant("x", -(2**63)),
    "b": Variant("b", True),
    "d": Variant("d", 1.5),
    "o": Variant("o", "/"),
    "g": Variant("g", "s"),
    "h": Variant("h", 0),
    "as": Variant("as", ["x"]),
    "ay": Variant("ay", b"x"),
    "a{ss}": Variant("a{ss}", {"x": "y"}),
    "a{sv}": Variant("a{sv}", {"x": Variant("v", Variant("v", Variant("s", "x")))}),
    "(si)": Variant("(si)", ["x", 1]),
}
NAMES = ["", "x" * 1000, "Image", "__class__", "image ", "\x1b[31mred", "\N{BOMB}", "a\nb", "../../etc"]


class Objects:
    """One object of each kind, with its path."""

    def __init__(self, service: Service, vm: str, job: str) -> None:
        self.service = service
        self.paths = {
            "Manager": ROOT,
            "VM": vm,
            "Job": job,
            "Image": f"{ROOT}/image/{service.world.images[0].id}",
            "Kernel": f"{ROOT}/kernel/{service.world.kernels[0].id}",
        }

    async def call(self, client: Client, kind: str, member: str, options: dict[str, Variant]) -> list[Any]:
        signature, before = {
            "CreateVM": ("sa{sv}", ["new"]),
            "PullImage": ("sa{sv}", ["debian-trixie"]),
            "DeleteCache": ("sa{sv}", ["go"]),
            "ImportImage": ("sha{sv}", ["mine", 0]),
            "SetLabels": ("a{ss}a{sv}", [{"a": "b"}]),
            "ListNames": ("sa{sv}", ["vm"]),
        }.get(member, ("a{sv}", []))
        return await client.call(self.paths[kind], f"{kind}.{member}", signature, *before, options)


@pytest.fixture
async def objects(service: Service, user: User) -> Objects:
    vm, job = await (await user(0)).create("web")
    return Objects(service, vm, job)


def state(service: Service) -> tuple[object, ...]:
    world = service.world
    running = [job for job in service.jobs.all() if job.state.value == "running"]
    return dict(world.rows), list(world.images), list(world.kernels), dict(world.units), running


def check(failed: CallFailed, key: str, known: dict[str, str]) -> None:
    assert failed.name == ERRORS + "InvalidSpec", failed
    assert failed.text.isprintable(), failed
    assert "Traceback" not in failed.text
    assert ascii(key[:64]).strip("'") in failed.text or key in failed.text
    for name, type_ in known.items():
        assert f"{name} ({type_})" in failed.text


@pytest.mark.parametrize(("kind", "member"), METHODS, ids=[".".join(one) for one in METHODS])
async def test_unknown_options(objects: Objects, user: User, kind: str, member: str) -> None:
    root = await user(0)
    known = KNOWN.get(member, {})
    before = state(objects.service)
    for name in NAMES:
        for value in VALUES.values() if name == "Image" else (VALUES["s"],):
            if value.signature == "h":
                continue
            with pytest.raises(CallFailed) as failed:
                await objects.call(root, kind, member, {name: value})
            check(failed.value, name, known)
    with pytest.raises(CallFailed) as failed:
        await objects.call(root, kind, member, {f"option-{n}": VALUES["b"] for n in range(600)})
    check(failed.value, "option-0", known)
    assert state(objects.service) == before


@pytest.mark.parametrize("member", KNOWN)
async def test_options_of_the_wrong_type(objects: Objects, user: User, member: str) -> None:
    root = await user(0)
    known = KNOWN[member]
    before = state(objects.service)
    for name, type_ in known.items():
        for value in VALUES.values():
            if value.signature in (type_, "h"):
                continue
            with pytest.raises(CallFailed) as failed:
                await objects.call(root, "Manager", member, {name: value})
            check(failed.value, name, known)
            assert f"is of type '{type_}', not '{value.signature}'" in failed.value.text
    assert state(objects.service) == before


async def test_a_near_miss_is_named(objects: Objects, user: User) -> None:
    with pytest.raises(CallFailed) as failed:
        await (await user(ALICE)).manager("ResolveSpec", "a{sv}", {"memry": VALUES["t"]})
    assert "did you mean 'memory'?" in failed.value.text


VALUES_OUT_OF_RANGE = {
    "name": ("-web", {}),
    "vcpu": ("new", {"vcpu": Variant("u", 2**32 - 1)}),
    "memory": ("new", {"memory": Variant("t", 2**64 - 1)}),
    "disk": ("new", {"disk": Variant("t", 0)}),
    "image": ("new", {"image": Variant("s", "../../etc/passwd")}),
    "kernel": ("new", {"kernel": Variant("s", "\N{BOMB}" * 1000)}),
    "keys": ("new", {"ssh_keys": Variant("as", ["ssh-ed25519 AAAA\nssh-rsa BBBB"])}),
    "labels": ("new", {"labels": Variant("a{ss}", {"": "x"})}),
    "caches": ("new", {"caches": Variant("a{ss}", {"/srv/../etc": "x"})}),
    "taken": ("web", {}),
}


@pytest.mark.parametrize(("name", "options"), VALUES_OUT_OF_RANGE.values(), ids=VALUES_OUT_OF_RANGE.keys())
async def test_values_that_no_vm_can_have(
    objects: Objects, user: User, name: str, options: dict[str, Variant]
) -> None:
    before = state(objects.service)
    with pytest.raises(CallFailed) as failed:
        await (await user(ALICE)).manager("CreateVM", "sa{sv}", name, options)
    assert failed.value.name.startswith(ERRORS)
    assert not failed.value.name.endswith(("Internal", "StepFailed"))
    assert len(failed.value.text) < 500
    assert state(objects.service) == before


async def test_labels_are_set_and_removed(service: Service, user: User) -> None:
    alice = await user(ALICE)
    vm, _ = await alice.create("web", labels=Variant("a{ss}", {"a": "1", "b": "2"}))

    async def set_labels(**labels: str) -> dict[str, str]:
        await alice.call(vm, "VM.SetLabels", "a{ss}a{sv}", labels, {})
        return plain(await alice.call(vm, "VM.Describe", "a{sv}", {}))[0]["labels"]  # type: ignore[no-any-return]

    assert await set_labels(b="", c="3", d="") == {"a": "1", "c": "3"}
    assert service.world.rows[vm.rpartition("/")[2]].spec.labels == {"a": "1", "c": "3"}
    for wrong in ({"a": "x" * 257}, {"a\nb": "x"}, {f"label-{n}": "x" for n in range(63)}):
        with pytest.raises(CallFailed) as failed:
            await set_labels(**wrong)
        assert failed.value.name == ERRORS + "InvalidSpec"
    assert await set_labels() == {"a": "1", "c": "3"}
    with pytest.raises(CallFailed) as failed:
        await (await user(BOB)).call(vm, "VM.SetLabels", "a{ss}a{sv}", {"a": ""}, {})
    assert "vm.manage-others" in failed.value.text


async def test_what_a_client_needs_for_ssh(service: Service, user: User) -> None:
    alice = await user(ALICE)
    key = "ssh-ed25519 AAAA alice@home"
    vm, _ = await alice.create("web", ssh_keys=Variant("as", [key]))
    facts = plain(await alice.call(vm, "VM.Describe", "a{sv}", {}))[0]
    assert (facts["ssh_keys"], facts["host_keys"]) == ([key], ["ssh-ed25519 AAAAfake"])
    assert "the private key" not in str(facts)
    seed = service.world.run_dirs[vm.rpartition("/")[2]]
    assert b"\x80\x01\0\0/etc/ssh/ssh_host_ed25519_key\0the private key\n" in seed  # 0600


@pytest.mark.parametrize("name", ["docker.io/library/debian:12", f"[::1]:5000/a/b@sha256:{0:064}"])
async def test_names_of_registries_are_judged_as_such(service: Service, user: User, name: str) -> None:
    with pytest.raises(CallFailed) as failed:
        await (await user(ALICE)).manager("PullImage", "sa{sv}", name, {})
    assert "image.pull-any" in failed.value.text


REFERENCES = {
    "library/alpine": "does not say which registry; do you mean docker.io/library/alpine?",
    "docker.io/alpine:3": "does not say whose image; do you mean docker.io/library/alpine:3?",
    "/": "does not say which registry",
    "//etc": "does not say which registry",
    "a\n/b": "does not say which registry",
    "x/" * 200: "has 400 characters; 255 are possible",
    "localhost/": "look at the part of the repository",
    "localhost/A": "look at the part of the repository",
    "localhost/../etc": "look at the part of the repository",
    "localhost:99999/a": "look at the part of the registry",
    "a_b.c/d": "look at the part of the registry",
    "localhost/a:": "look at the part of the tag",
    "localhost/a:b/c": "look at the part of the tag",
    "localhost/a@sha256:12": "look at the part of the digest",
    "localhost/a@": "look at the part of the digest",
    "http://localhost/a": "look at the part of the registry",
    "user:password@localhost/a": "look at the part of the registry",
}


@pytest.mark.parametrize("name", REFERENCES)
async def test_references_that_are_none(service: Service, user: User, name: str) -> None:
    with pytest.raises(CallFailed) as failed:
        await (await user(0)).manager("PullImage", "sa{sv}", name, {})
    assert failed.value.name == ERRORS + "InvalidSpec"
    assert REFERENCES[name] in failed.value.text
    assert failed.value.text.isprintable()


@pytest.mark.parametrize("name", ["nope", "x" * 200_000, "\N{BOMB}"])
async def test_names_of_no_image(service: Service, user: User, name: str) -> None:
    with pytest.raises(CallFailed) as failed:
        await (await user(ALICE)).manager("PullImage", "sa{sv}", name, {})
    assert failed.value.name == ERRORS + "NoSuchImage"
    assert len(failed.value.text) < 1000
