"""A user's repository goes into a real guest and its changes come back. One VM for all."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guest.machine import ALICE, Machine, Terminal, User
from tests.patience import until

VM = "bench-top"


@pytest.fixture(scope="module")
def owner(machine: Machine) -> Iterator[User]:
    """Alice, who has a VM that runs and git set up."""
    user = machine.user(ALICE)
    for key, value in (
        ("user.name", "Alice"),
        ("user.email", "alice@example.org"),
        ("init.defaultBranch", "main"),
    ):
        assert user.run("git", "config", "--global", key, value).status == 0
    user.ok("vm", "create", "--name", VM)
    user.ok("vm", "start", VM)
    yield user
    user.ok("vm", "delete", VM)


@pytest.fixture
def repo(owner: User) -> Path:
    """Alice's repository, with a change that is not committed and files that git does not track."""
    path = owner.home / f"app-{time.monotonic_ns()}"
    script = f"""
        set -e
        git init -q {path}; cd {path}
        mkdir -p 'src/a b'; echo one > 'src/a b/one'; printf '#!/bin/sh\\necho ran\\n' > run; chmod +x run
        ln -s src/one link; echo '*.log' > .gitignore; echo old > changed; printf x > "$(printf 'lat\\351n\\n1')"
        git add -A; git commit -qm first
        echo new > changed; echo staged > staged; git add staged; echo u > untracked; echo l > x.log
    """
    done = owner.run("sh", "-c", script)
    assert done.status == 0, done
    return path


def git(owner: User, repo: Path, *words: str) -> str:
    done = owner.run("git", "-C", str(repo), *words)
    assert done.status == 0, done
    return done.out


def inside(owner: User, folder: str, script: str) -> str:
    return owner.ok("vm", "exec", VM, "--workdir", folder, "--", "sh", "-c", script)


def left_here(machine: Machine) -> list[Path]:
    return [*Path("/tmp").glob("banger-workspace-*"), *Path("/tmp").glob("banger-export-*")]


def fill(owner: User, repo: Path) -> None:
    """30 MB more, in 300 files."""
    script = f"cd {repo}; mkdir many; cd many; for i in $(seq 300); do head -c 99999 /dev/urandom >$i; done; git add ."
    assert owner.run("sh", "-c", script).status == 0


def test_there_and_back(owner: User, repo: Path, machine: Machine) -> None:
    """The same files and the same status there; commits and a patch come back; nothing of ours changes."""
    listed = owner.ok("vm", "workspace", "prepare", VM, str(repo), "--dry-run").splitlines()
    assert listed == [".gitignore", "changed", '"lat\\udce9n\\n1"', "link", "run", "src/a b/one", "staged"]
    here = git(owner, repo, "status", "--porcelain=v2", "--branch", "-uno")
    owner.ok("vm", "workspace", "prepare", VM, str(repo))
    there = f"/root/{repo.name}"
    assert inside(owner, there, "git status --porcelain=v2 --branch") == here
    facts = inside(
        owner, there, "./run; cat changed; stat -c '%U:%G %a %N' run link changed; git fsck --strict"
    )
    assert facts.splitlines() == [
        "ran", "new", "root:root 755 'run'", "root:root 777 'link' -> 'src/one'", "root:root 644 'changed'",
    ]  # fmt: skip
    inside(
        owner,
        there,
        "git config --global user.name G; git config --global user.email g@x; git commit -qam there",
    )
    inside(owner, there, "echo more >> changed; echo new > made; rm run")
    found = owner.json("vm", "workspace", "export", VM, str(repo))
    assert (found["branch"], found["commits"]) == (f"banger/{VM}", 2)
    assert git(owner, repo, "log", "--format=%s", found["branch"]).splitlines()[1:] == ["there", "first"]
    assert git(owner, repo, "status", "--porcelain=v2", "--branch", "-uno") == here
    patch = owner.home / f"{repo.name}.patch"
    owner.ok("vm", "workspace", "export", VM, str(repo), "--patch", str(patch))
    git(owner, repo, "apply", str(patch))
    assert (repo / "changed").read_text() == "new\nmore\n"
    assert (repo / "made").exists()
    assert not (repo / "run").exists()
    assert left_here(machine) == []


def test_refusals(owner: User, repo: Path, machine: Machine) -> None:
    owner.ok("vm", "workspace", "prepare", VM, str(repo))
    again = owner.banger("vm", "workspace", "prepare", VM, str(repo))
    assert (again.status, "is there already" in again.err, "--replace" in again.err) == (1, True, True), (
        again
    )
    owner.ok("vm", "workspace", "prepare", VM, str(repo), "--replace", "--branch", "try")
    assert inside(owner, f"/root/{repo.name}", "git branch --show-current") == "try\n"
    for words, status, says in (
        ((VM, "/usr"), 1, "not in a git repository"),
        ((VM, str(repo / "nowhere")), 2, "does not exist"),
        (("no-such-vm", str(repo)), 1, "no-such-vm"),
        ((VM, str(repo), "--from", "nope"), 2, "no such commit"),
    ):
        done = owner.banger("vm", "workspace", "prepare", *words)
        assert (done.status, says in done.err) == (status, True), done
    elsewhere = owner.banger("vm", "workspace", "export", VM, str(repo), "--guest-path", "/srv")
    assert (elsewhere.status, "is no git repository" in elsewhere.err) == (1, True), elsewhere
    assert left_here(machine) == []


def test_a_full_disk_and_ctrl_c_leave_nothing(
    owner: User, repo: Path, machine: Machine, terminal: Callable[..., Terminal]
) -> None:
    fill(owner, repo)
    inside(
        owner,
        "/",
        "mkdir /root/full; mount -t tmpfs -o size=4m none /root/full; mount --bind /root/full /root",
    )
    full = owner.banger("vm", "workspace", "prepare", VM, str(repo))
    assert (full.status, "does not fit into the guest" in full.err) == (1, True), full
    assert inside(owner, "/", "ls -A /root; umount /root; umount /root/full; rmdir /root/full") == ""
    shell = terminal("banger", "vm", "workspace", "prepare", VM, str(repo))
    shell.expect(r"copying 307 files")
    shell.type("\x03")
    assert shell.wait() == 130, shell.seen
    until(lambda: not inside(owner, "/root", "ls -dA .banger* 2>/dev/null || true"), "nothing is left", 20)
    assert repo.name not in inside(owner, "/root", "ls")
    assert left_here(machine) == []


def test_run_takes_a_repository_along(owner: User, repo: Path) -> None:
    done = owner.banger(
        "vm", "run", "--rm", str(repo / "src"), "--", "sh", "-c", "pwd; git status --short; exit 5"
    )
    assert done.status == 5, done
    assert done.out.splitlines() == [f"/root/{repo.name}/src", " M ../changed", "A  ../staged"]


def test_the_vm_goes_away_meanwhile(
    owner: User, repo: Path, machine: Machine, terminal: Callable[..., Terminal]
) -> None:
    """The last one here: the VM does not run after it."""
    fill(owner, repo)
    shell = terminal("banger", "vm", "workspace", "prepare", VM, str(repo))
    shell.expect(r"copying 307 files")
    owner.ok("vm", "kill", VM)
    shell.expect("was not copied: the guest went away")
    assert shell.wait() == 1, shell.seen
    off = owner.banger("vm", "workspace", "export", VM, str(repo))
    assert (off.status, "next:" in off.err or "start" in off.err) == (1, True), off
    assert left_here(machine) == []
