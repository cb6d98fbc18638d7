"""The methods, as their users call them."""

from collections.abc import Awaitable, Callable

import pytest
from dbus_next.signature import Variant

from tests.bus.caller import ERRORS, ROOT, CallFailed, Client, plain
from tests.bus.conftest import Service
from tests.bus.rig import ALICE, BOB, BOSS

User = Callable[[int], Awaitable[Client]]


async def test_create_list_delete(service: Service, user: User) -> None:
    alice = await user(ALICE)
    vm, job = await alice.create("web")
    facts = await alice.done(job)
    assert facts["state"] == "done"
    assert facts["result_name"] == "web"
    (rows, more) = await alice.manager("ListVMs")
    assert more == ""
    (row,) = plain(rows)
    assert (row["path"], row["name"], row["state"], row["owner"]) == (vm, "web", "running", ALICE)
    described = plain((await alice.call(vm, "VM.Describe", "a{sv}", {}))[0])
    assert described["owner_name"] == "alice"
    assert await alice.properties(vm, "VM") == {"Name": "web", "State": "running", "Owner": ALICE}
    assert await alice.manager("FindVM", "s", "web") == [vm]
    (deletion,) = await alice.call(vm, "VM.Delete", "a{sv}", {})
    assert (await alice.done(deletion))["state"] == "done"
    assert service.world.nothing_left()


async def test_others_are_refused_and_told_why(service: Service, user: User) -> None:
    alice, bob = await user(ALICE), await user(BOB)
    vm, _ = await alice.create("web")
    with pytest.raises(CallFailed) as failed:
        await bob.call(vm, "VM.Delete", "a{sv}", {})
    assert failed.value.name == "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
    assert failed.value.text == (
        "VM 'web' belongs to alice; managing other users' VMs needs com.thaloco.banger1.vm.manage-others,"
        " for which somebody has to authenticate; allow the call to be interactive"
    )
    with pytest.raises(CallFailed) as failed:
        await bob.call(vm, "VM.Delete", "a{sv}", {}, interactive=True)
    assert failed.value.name == ERRORS + "AccessDenied"


async def test_names_are_the_callers_own(service: Service, user: User) -> None:
    alice, bob = await user(ALICE), await user(BOB)
    for name in ("web", "db", "worker"):
        await alice.create(name)
    await bob.create("theirs")
    assert await alice.manager("ListNames", "sa{sv}", "vm", {}) == [["db", "web", "worker"]]
    w = {"prefix": Variant("s", "w")}
    assert await alice.manager("ListNames", "sa{sv}", "vm", w) == [["web", "worker"]]
    for kind in ("image", "kernel"):
        assert await alice.manager("ListNames", "sa{sv}", kind, {}) == [["debian-bookworm"]]
    with pytest.raises(CallFailed) as failed:
        await alice.manager("ListNames", "sa{sv}", "user", {})
    assert failed.value.name == ERRORS + "InvalidSpec"


async def test_ping(service: Service, user: User) -> None:
    assert await (await user(ALICE)).call(ROOT, "Manager.Ping") == []


async def test_caches(service: Service, user: User) -> None:
    alice, bob, boss = await user(ALICE), await user(BOB), await user(BOSS)
    for client, name in ((alice, "web"), (bob, "theirs")):
        await client.create(name, caches=Variant("a{ss}", {"/root/go": "go"}))
    (mine,), (his,) = plain(await alice.manager("ListCaches"))[0], plain(await bob.manager("ListCaches"))[0]
    assert {key: mine[key] for key in ("name", "owner", "owner_name", "vm")} == {
        "name": "go", "owner": ALICE, "owner_name": "alice", "vm": "web",
    }  # fmt: skip
    assert (his["owner"], his["vm"]) == (BOB, "theirs")
    assert plain(await boss.manager("ListCaches")) == [[mine, his]]
    bobs = {"owner": Variant("u", BOB)}
    assert plain(await boss.manager("ListCaches", "a{sv}", bobs)) == [[his]]
    assert plain(await alice.manager("ListCaches", "a{sv}", bobs)) == [[]]
    assert await alice.manager("ListNames", "sa{sv}", "cache", {}) == [["go"]]

    async def refused(client: Client, name: str, options: dict[str, Variant]) -> CallFailed:
        with pytest.raises(CallFailed) as failed:
            await client.manager("DeleteCache", "sa{sv}", name, options)
        return failed.value

    assert "in use by VM 'web'" in (await refused(alice, "go", {})).text
    failed = await refused(alice, "go", bobs)
    assert (
        "cache 'go' belongs to bob; deleting it needs com.thaloco.banger1.cache.manage-others" in failed.text
    )
    assert (await refused(alice, "other", {})).name == ERRORS + "NoSuchCache"
    assert (await refused(alice, "../x", {})).name == ERRORS + "InvalidSpec"
    (stop,) = await alice.call(f"{ROOT}/vm/{service.vms.find('web').sid}", "VM.Stop", "a{sv}", {})
    await alice.done(stop)
    await alice.manager("DeleteCache", "sa{sv}", "go", {})
    assert plain(await alice.manager("ListCaches")) == [[]]
    assert plain(await bob.manager("ListCaches")) == [[his]]
    with pytest.raises(CallFailed) as again:
        await alice.create("more", caches=Variant("a{ss}", {"/proc/x": "go"}))
    assert again.value.name == ERRORS + "InvalidSpec"
