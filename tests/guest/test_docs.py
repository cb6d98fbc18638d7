"""Every command of the documents for users is run, by an unprivileged user with what a document assumes at home.

A document that belongs here is added to DOCUMENTS. A command that cannot run here stands in ELSEWHERE with its reason,
one that shall fail in STATUS. A command that is new is run, whatever it is: nothing is left out by itself.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import TOP
from tests.guest.documents import commands, run
from tests.guest.machine import Machine, User

DOCUMENTS = ("README.md", "docs/advanced.md", "docs/workspace.md")

ELSEWHERE: dict[str, str] = {
    "git clone https://git.thaloco.com/thaloco/banger && cd banger": "needs the internet",
    "./packaging/demo": "root's; .ci/run is started on machines where it ran",
    "./tests/run": "is this",
    "banger image pull debian-bookworm": "needs the internet",
    "banger vm exec web -- sh -c 'apt-get update && apt-get install -y nginx'": "needs the internet",
}
"""Commands that this test does not run, and why."""

STATUS: dict[str, int] = {
    "banger vm run --rm -- sh -c 'cat /etc/os-release; uname -r; exit 7'": 7,
}
"""Exit statuses of commands that are to end with another one than 0."""

REPOSITORY = """\
git init -q -b main repo
cd repo
git config user.name Alice
git config user.email alice@example.org
printf 'test:\\n\\t@echo all tests passed\\n' > Makefile
echo 'print("hello")' > hello.py
git add .
git commit -q -m 'First'
"""


@pytest.fixture
def reader(machine: Machine, alice: User) -> Iterator[User]:
    """A user with a git repository at ~/repo. Whatever VMs the document leaves are removed."""
    made = alice.run("sh", "-ec", f"cd; {REPOSITORY}")
    assert made.status == 0, made
    yield alice
    for vm in alice.json("vm", "list"):
        alice.ok("vm", "delete", vm["name"])
    subprocess.run(["rm", "-rf", "--", *alice.home.iterdir()], check=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_of(name: str, reader: User) -> None:
    shown = commands(TOP / name)
    assert shown, f"{name} shows no command"
    root = [one for one in shown if one.root and one.text not in ELSEWHERE]
    assert not root, f"commands of root cannot run here; give the reason in ELSEWHERE: {root}"
    bad = [
        f"{name}:{one.shown.line}: `{one.shown.text}` ended with {one.status}:\n{one.output[-1500:]}"
        for one in run(reader, shown, ELSEWHERE, timeout_s=580)
        if one.status != STATUS.get(one.shown.text, 0)
    ]
    assert not bad, "\n".join(bad)


def test_no_exception_is_stale() -> None:
    """What the tables name is shown by a document."""
    shown = {one.text for name in DOCUMENTS for one in commands(TOP / name)}
    assert ELSEWHERE.keys() <= shown, ELSEWHERE.keys() - shown
    assert STATUS.keys() <= shown, STATUS.keys() - shown


def test_documents_are_found() -> None:
    assert all(Path(TOP / name).is_file() for name in DOCUMENTS)
