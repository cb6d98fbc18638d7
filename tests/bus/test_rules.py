"""The actions' defaults, the example rules and the presets, as the real polkitd understands them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bus.caller import CallFailed, Client
from tests.bus.conftest import Service
from tests.bus.rig import ALICE, BOSS, CAROL, TOP, Rig, rig
from tests.fakes.ports import World

P = "com.thaloco.banger1."
OWN = {
    "vm.create",
    "vm.manage-own",
    "vm.access-own",
    "image.pull",
    "image.manage-own",
    "cache.manage-own",
    "job.manage-own",
}
OTHERS = {
    "inspect-others",
    "vm.manage-others",
    "vm.access-others",
    "image.pull-any",
    "image.manage-others",
    "cache.manage-others",
    "job.manage-others",
}
EXAMPLES = TOP / "polkit/examples"
PRESETS = TOP / "polkit/presets"


async def permissions(bus: Rig, uid: int, *groups: int) -> dict[str, str]:
    """What GetPermissions says, without the actions' prefix."""
    async with Service(bus.address, World()), await Client.connect(bus.address, uid, groups) as client:
        (granted,) = await client.manager("GetPermissions")
    return {name.removeprefix(P): verdict for name, verdict in granted.items()}


def all_of(verdict: str, actions: set[str]) -> dict[str, str]:
    return dict.fromkeys(actions, verdict)


@contextmanager
def with_rules(*rules: Path) -> Iterator[Rig]:
    with rig(rules) as running:
        yield running


async def test_without_rules_a_process_outside_of_any_local_session_only_looks() -> None:
    with with_rules() as bus:
        carol = await permissions(bus, CAROL)
        assert carol == {"inspect": "yes", **all_of("challenge", OWN | OTHERS)}
        assert await permissions(bus, 0) == {"inspect": "yes", **all_of("yes", OWN | OTHERS)}


async def test_group_devs_may(bus: Rig) -> None:
    assert await permissions(bus, ALICE) == {
        "inspect": "yes",
        **all_of("yes", OWN),
        **all_of("challenge", OTHERS),
    }
    assert await permissions(bus, CAROL) == {"inspect": "yes", **all_of("challenge", OWN | OTHERS)}


async def test_nobody_may_pull_from_registries() -> None:
    with with_rules(EXAMPLES / "50-banger-devs.rules", EXAMPLES / "40-banger-no-registries.rules") as bus:
        alice = await permissions(bus, ALICE)
        assert (alice["image.pull-any"], alice["image.pull"]) == ("no", "yes")
        async with Service(bus.address, World()), await Client.connect(bus.address, ALICE) as client:
            with pytest.raises(CallFailed) as failed:
                await client.manager("PullImage", "sa{sv}", "docker.io/library/debian", {}, interactive=True)
            assert failed.value.name.endswith("Error.AccessDenied")
            assert failed.value.text == (
                "getting an image from registry 'docker.io' needs com.thaloco.banger1.image.pull-any,"
                " which this machine's polkit rules do not give alice"
            )
            (job,) = await client.manager("PullImage", "sa{sv}", "debian-trixie", {})
            assert (await client.done(job))["state"] == "done"


@pytest.mark.parametrize("rule", [EXAMPLES / "50-banger-remote.rules", PRESETS / "60-banger-desktop.rules"])
async def test_rules_about_sessions_give_nothing_outside_of_sessions(rule: Path) -> None:
    """What they give in a session needs logind: tests/system."""
    with with_rules(rule) as bus:
        assert await permissions(bus, CAROL) == {"inspect": "yes", **all_of("challenge", OWN | OTHERS)}


async def test_server_preset() -> None:
    with with_rules(PRESETS / "60-banger-server.rules") as bus:
        group = bus.folder / "group"
        group.write_text(group.read_text() + "banger:x:2001:alice\nbanger-operators:x:2002:carol\n")
        alice = await permissions(bus, ALICE, 2001)
        assert alice == {"inspect": "yes", **all_of("yes", OWN), **all_of("challenge", OTHERS)}
        operator = {"inspect-others", "vm.manage-others", "cache.manage-others", "job.manage-others"}
        assert await permissions(bus, CAROL, 2002) == {
            "inspect": "yes",
            **all_of("challenge", OWN | OTHERS - operator),
            **all_of("yes", operator),
        }


async def test_a_rule_sees_the_stored_facts(bus: Rig) -> None:
    """A rule on details: carol may stop VMs of the image debian-bookworm that are alice's, and no other."""
    text = """
    polkit.addRule(function(action, subject) {
        if (action.id == "com.thaloco.banger1.vm.manage-others" && subject.user == "carol"
            && action.lookup("owner") == "alice" && action.lookup("image") == "debian-bookworm"
            && action.lookup("vm") == "web")
            return polkit.Result.YES;
    });
    """
    file = bus.folder / "30-details.rules"
    file.write_text(text)
    with with_rules(file, EXAMPLES / "50-banger-devs.rules") as other:
        async with (
            Service(other.address, World()),
            await Client.connect(other.address, ALICE) as alice,
            await Client.connect(other.address, BOSS) as boss,
            await Client.connect(other.address, CAROL) as carol,
        ):
            web, _ = await alice.create("web")
            db, _ = await alice.create("db")
            boss_vm, _ = await boss.create("boss")
            (job,) = await carol.call(web, "VM.Stop", "a{sv}", {})
            assert job
            for vm in (db, boss_vm):
                with pytest.raises(CallFailed):
                    await carol.call(vm, "VM.Stop", "a{sv}", {})
    file.unlink()
