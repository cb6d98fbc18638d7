"""Every command of the documents for users is run, by an unprivileged user with what a document assumes at home.

A document that belongs here is added to DOCUMENTS. A command that cannot run here stands in ELSEWHERE with its reason,
one that shall fail in STATUS. A command that is new is run, whatever it is: nothing is left out by itself.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import TOP
from tests.guest.documents import Ran, Shown, commands, normal, recorded, run
from tests.guest.machine import User
from tests.guest.reader import prepare

DOCUMENTS = ("README.md", "docs/advanced.md", "docs/workspace.md")

OTHERS = {
    "docs/config.md": "tests/bus/client/test_config.py and tests/guest/test_filesync.py do what it shows",
    "docs/hacking.md": "for those who have a checkout, as root",
    "docs/images.md": "needs registries: tests/unit/test_registry_pull.py, test_image_import.py and test_own_images.py",
    "docs/running.md": "tests/guest/test_run_shapes.py and test_cp.py do what it shows",
    "docs/ssh.md": "tests/guest/test_ssh.py does what it shows",
}
"""Documents with commands that other tests run, and which."""

ELSEWHERE: dict[str, str] = {
    "git clone https://git.thaloco.com/thaloco/banger && cd banger": "needs the internet",
    "./packaging/demo": "root's; CI starts on machines where it ran",
    "./tests/run": "is this",
    "banger config edit": "an editor needs a terminal: tests/bus/client/test_config.py",
    "banger image pull docker.io/library/alpine:3.20 --as alpine": "needs the internet: test_registry_pull.py",
    "banger ssh-config --install": "ssh's config is below the home in passwd, where tests' users have none",
    "banger ssh-config --uninstall": "the same; tests of ssh do both",
    "banger vm run --rm --image alpine -- cat /etc/alpine-release": "has no image without it",
}
"""Commands that this test does not run, and why."""

STATUS: dict[str, int] = {
    "banger vm run --rm -- sh -c 'cat /etc/os-release; uname -r; exit 7'": 7,
    "banger vm exec web -- sh -c 'cat repo/hello.py; uname -r; exit 7'": 7,
}
"""Exit statuses of commands that are to end with another one than 0."""


@pytest.fixture
def reader(alice: User) -> Iterator[User]:
    """A user with a git repository at ~/repo. Whatever VMs the document leaves are removed."""
    prepare(alice)
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
    ran = run(reader, shown, ELSEWHERE, timeout_s=580)
    bad = [
        f"{name}:{one.shown.line}: `{one.shown.text}` ended with {one.status}:\n{one.output[-1500:]}"
        for one in ran
        if one.status != STATUS.get(one.shown.text, 0)
    ]
    assert not bad, "\n".join(bad)
    other = [
        f"{name}:{one.shown.line}: `{one.shown.text}` said\n{normal(one.output)}\nnot\n{normal(one.shown.output)}"
        for one in ran
        if not one.as_shown
    ]
    assert not other, "(docs/record-session writes the README's session anew)\n" + "\n".join(other)


def test_what_differs_between_runs_does_not_count() -> None:
    here = "spec: 1 vCPU (built-in), 2.9 GiB memory (host)\n✓ VM: booting  3.1 s\nweb  running  172.16.0.3  4 s\n"
    there = "spec: 4 vCPU (host), 512 MiB memory (host)\nweb      running  172.16.0.211  2 min\n"
    assert normal(here) == normal(there)
    assert normal(here) != normal(there.replace("running", "stopped"))
    shown = Shown("x", 1, root=False, written="$ x\n", output="one\n…\nlast 5", block=0)
    assert Ran(shown, 0, "one\ntwo\nthree\nlast 7\n").as_shown
    assert not Ran(shown, 0, "one\ntwo\nthree\n").as_shown


def test_what_was_said_is_put_below_its_command(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ a\n$ b  # remark\nold\n```\n\n```console\n$ a\nstays\n```\n")
    first = [one for one in commands(page) if one.block == 0]
    ran = [Ran(one, 0, f"said of {one.text} \n\nmore\n") for one in first]
    told = "```console\n$ a\nsaid of a\n\nmore\n$ b  # remark\nsaid of b\n\nmore\n```\n\n```console\n$ a\nstays\n```\n"
    assert recorded(page, ran) == told


def test_no_exception_is_stale() -> None:
    """What the tables name is shown by a document."""
    shown = {one.text for name in DOCUMENTS for one in commands(TOP / name)}
    assert ELSEWHERE.keys() <= shown, ELSEWHERE.keys() - shown
    assert STATUS.keys() <= shown, STATUS.keys() - shown


def test_no_document_is_forgotten() -> None:
    shown = {name for path in TOP.glob("docs/*.md") if commands(path) for name in [f"docs/{path.name}"]}
    assert shown - {*DOCUMENTS} == OTHERS.keys()


def test_the_readme_knows_all_documents() -> None:
    text = (TOP / "README.md").read_text()
    assert [path.name for path in TOP.glob("docs/*.md") if f"docs/{path.name}" not in text] == []


@pytest.mark.parametrize("path", [TOP / "README.md", *TOP.glob("docs/*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []
