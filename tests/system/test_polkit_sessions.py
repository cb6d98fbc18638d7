"""polkit's defaults, the rule for remote sessions and the preset for desktops, where logind really has sessions."""

from collections.abc import Iterator

import pytest
from tests.system.debian_root import REPO
from tests.system.machine import Machine, Session

ACTIONS = "/usr/share/polkit-1/actions/com.thaloco.banger1.policy"
RULE = "/etc/polkit-1/rules.d/50-banger-test.rules"
SESSIONS: tuple[Session, ...] = ("active", "inactive", "remote", "none")
OWN = (
    "vm.create",
    "vm.manage-own",
    "vm.access-own",
    "image.pull",
    "image.manage-own",
    "cache.manage-own",
    "job.manage-own",
)
OTHERS = (
    "inspect-others",
    "vm.manage-others",
    "vm.access-others",
    "image.manage-others",
    "cache.manage-others",
    "job.manage-others",
)
NEVER = (*OTHERS, "image.pull-any")


@pytest.fixture(scope="module")
def actions(machine: Machine) -> Iterator[Machine]:
    machine.copy_in(REPO / "polkit/com.thaloco.banger1.policy", ACTIONS)
    machine.run("chmod", "644", ACTIONS)
    machine.run("systemctl", "restart", "polkit")
    yield machine
    machine.run("rm", "-f", ACTIONS, RULE)
    machine.run("systemctl", "restart", "polkit")


def granted(machine: Machine, session: Session) -> set[str]:
    """The actions that polkit gives a process of alice's in such a session, without asking anybody."""
    # To systemd-run, $$ is one $.
    script = 'for one in "$@"; do pkcheck -a com.thaloco.banger1.$one -p $$$$ 2>/dev/null && echo $one; done; true'
    asked = ("inspect", *OWN, *NEVER)
    return set(machine.run("sh", "-c", script, "sh", *asked, user="alice", session=session).stdout.split())


def with_rule(machine: Machine, rule: str) -> dict[Session, set[str]]:
    machine.run("rm", "-f", RULE)
    if rule:
        machine.copy_in(REPO / "polkit" / rule, RULE)
        machine.run("chmod", "644", RULE)
    machine.run("systemctl", "restart", "polkit")  # it would look at the folder by itself, some time later
    return {session: granted(machine, session) for session in SESSIONS}


LOOKS = {"inspect"}
MAY = {"inspect", *OWN}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("", {"active": MAY, "inactive": LOOKS, "remote": LOOKS, "none": LOOKS}),
        (
            "examples/50-banger-remote.rules",
            {"active": MAY, "inactive": LOOKS, "remote": MAY, "none": LOOKS},
        ),
        (
            "presets/60-banger-desktop.rules",
            {"active": MAY, "inactive": MAY, "remote": LOOKS, "none": LOOKS},
        ),
    ],
    ids=["defaults", "remote", "desktop"],
)
def test_who_is_let_in(actions: Machine, rule: str, expected: dict[Session, set[str]]) -> None:
    assert with_rule(actions, rule) == expected
