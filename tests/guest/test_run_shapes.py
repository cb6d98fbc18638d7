"""The shapes of `vm run` and `vm exec` in a real guest: what goes in, what comes out, and what is left when it ends."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guest.machine import ALICE, Machine, Terminal, User

MIB = 1024 * 1024
# MiB. Where QEMU emulates the guest it is some 10 a second; tests/bus/client moves gigabytes.
LARGE = 16


@pytest.fixture(scope="module")
def box(machine: Machine) -> Iterator[str]:
    """A VM that runs, for all tests of this file."""
    alice = machine.user(ALICE)
    alice.ok("vm", "create", "--name", "box")
    alice.ok("vm", "start", "box")
    yield "box"
    alice.ok("vm", "delete", "box")


@pytest.fixture
def repo(alice: User) -> Iterator[str]:
    """A repository of Alice's, who has a name in git, and another one there."""
    script = """set -e
rm -rf ~/repo ~/.gitconfig; mkdir ~/repo; cd ~/repo; git init -q
git config --global user.name 'Alice A'; git config --global user.email alice@example.org
git config --global init.defaultBranch main
printf 'one\\n' >file; printf '#!/bin/sh\\necho "made $1 in $PWD"; exit 5\\n' >make.sh; chmod 755 make.sh
git add .; git commit -qm first; echo two >file; echo not taken >untracked"""
    done = alice.run("sh", "-c", script)
    assert done.status == 0, done
    yield str(alice.home / "repo")
    alice.run("sh", "-c", "rm -rf ~/repo ~/.gitconfig")


@pytest.mark.lab
def test_a_large_stream_each_way(alice: User, box: str) -> None:
    """Through a pipe, by the command people use; the sums are of both sides."""
    block = bytes(range(256)) * 4096
    expected = hashlib.sha256(block * LARGE).hexdigest()
    client = alice.popen(
        "banger", "vm", "exec", box, "--", "sha256sum", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert client.stdin is not None
    began = time.monotonic()
    with client.stdin as stream:
        for _ in range(LARGE):
            stream.write(block)
    assert client.stdout is not None
    with client.stdout:
        assert client.stdout.read().split()[0].decode() == expected
    assert client.wait(60) == 0
    there = time.monotonic() - began
    script = f"banger vm exec {box} -- head -c {LARGE}M /dev/zero | sha256sum"
    began = time.monotonic()
    done = alice.run("sh", "-c", script, timeout_s=200)
    assert done.out.split()[0] == hashlib.sha256(bytes(LARGE * MIB)).hexdigest()
    back = time.monotonic() - began
    print(f"{LARGE} MiB: {LARGE / there:.0f} MiB/s in, {LARGE / back:.0f} MiB/s out")


def test_a_commit_in_the_guest_is_by_who_made_it(alice: User, box: str, repo: str) -> None:
    """The user's name counts where the guest says nothing; a repository's own setting wins."""
    script = """set -e; cd "$(mktemp -d)"; git init -q; git commit -q --allow-empty -m a
git config user.email repo@example.org; git commit -q --allow-empty -m b; git log --format='%an <%ae> %cn'"""
    assert alice.ok("vm", "exec", box, "--", "sh", "-c", script).splitlines() == [
        "Alice A <repo@example.org> Alice A",
        "Alice A <alice@example.org> Alice A",
    ]
    done = alice.banger("vm", "exec", box, "--forward", "no-git", "--", "sh", "-c", script)
    assert done.status == 128
    assert "Please tell me who you are" in done.err


def test_time_zone_and_certificates(alice: User, box: str) -> None:
    pem = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----"
    script = f"""echo '{pem}' >~/ca.pem
export SSL_CERT_FILE=$HOME/ca.pem TZ=Asia/Kolkata https_proxy=http://proxy.example:3128 http_proxy=localhost:1
banger vm exec {box} -- sh -c 'date +%z; cat "$NODE_EXTRA_CA_CERTS"; echo "$HTTPS_PROXY|$http_proxy"'"""
    done = alice.run("sh", "-c", script)
    assert done.out == f"+0530\n{pem}\nhttp://proxy.example:3128|\n"
    assert "http_proxy is not passed on" in done.err


def left(alice: User, box: str, *words: str) -> dict[str, str]:
    """What is told of a command that is left in the guest."""
    told: dict[str, str] = json.loads(alice.ok("vm", "exec", box, "--detach", "--json", *words))
    return told


def test_a_detached_command(alice: User, box: str) -> None:
    script = "echo begun; sleep 3; echo done; exit 4"
    told = left(alice, box, "--", "sh", "-c", script)
    assert told["vm"] == box
    assert re.fullmatch(r"/root/\.cache/banger/run-[0-9]{8}-[0-9]{6}-\w+\.log", told["log"])
    waits = (
        f"until [ -e {told['status_file']} ]; do sleep 0.1; done; cat {told['log']} {told['status_file']}"
    )
    assert alice.ok("vm", "exec", box, "--", "sh", "-c", waits) == "begun\ndone\n4\n"


def test_a_timeout(alice: User, box: str) -> None:
    done = alice.banger("vm", "exec", box, "--timeout", "1s", "--", "sh", "-c", "echo on; sleep 100")
    assert (done.status, done.out) == (124, "on\n")
    told = left(alice, box, "--timeout", "1s", "--", "sleep", "100")
    waits = f"until [ -e {told['status_file']} ]; do sleep 0.1; done; cat {told['status_file']}"
    assert alice.ok("vm", "exec", box, "--", "sh", "-c", waits) == "124\n"


def test_another_user_another_folder(alice: User, box: str) -> None:
    words = ("vm", "exec", box, "--user", "nobody", "--workdir", "/usr", "-e", "A=b c")
    assert alice.ok(*words, "--", "sh", "-c", 'id -un; pwd; echo "$A"') == "nobody\n/usr\nb c\n"


def test_a_workspace_and_a_command(alice: User, repo: str, machine: Machine) -> None:
    """The working tree's tracked files, the command in their folder, its status ours, nothing left."""
    done = alice.banger("vm", "run", "--rm", repo, "--", "./make.sh", "it")
    assert (done.status, done.out) == (5, "made it in /root/repo\n"), done
    assert alice.json("vm", "list") == [vm for vm in alice.json("vm", "list") if vm["name"] == "box"]


def test_a_workspace_and_a_shell_that_is_left(
    alice: User, terminal: Callable[..., Terminal], repo: str
) -> None:
    """Leaving leaves the VM running, and says how to go on with it."""
    shell = terminal("banger", "vm", "run", "--name", "desk", repo)
    try:
        shell.expect(r":~/repo# ")
        shell.type("cat file untracked; git status --short; echo $TERM\r")
        shell.expect(r"two\r\n.*untracked: No such file")
        shell.expect(r"(?s)M\x1b\[m file\r\n.*xterm-256color")
        shell.type("exit 6\r")
        assert shell.wait() == 6
        assert "desk runs on: `banger vm exec desk`" in shell.seen
        assert alice.state("desk") == "running"
    finally:
        alice.ok("vm", "delete", "desk")


def test_ctrl_c_while_a_workspace_is_sent(alice: User, terminal: Callable[..., Terminal], repo: str) -> None:
    alice.run("sh", "-c", "truncate -s 300M ~/repo/large; cd ~/repo; git add large")
    shell = terminal("banger", "vm", "run", "--rm", "--name", "brief", repo, "--", "true")
    shell.expect(r"repo .*[0-9.]+ MiB of", 120)
    shell.type("\x03")
    assert shell.wait() == 128 + signal.SIGINT, shell.seen
    assert "ended by SIGINT" in shell.seen
    assert [vm["name"] for vm in alice.json("vm", "list")] == ["box"]


def test_the_vm_goes_while_a_command_runs(alice: User) -> None:
    """By its owner's hand: told, with a status that no command of theirs has."""
    alice.ok("vm", "create", "--name", "doomed")
    alice.ok("vm", "start", "doomed")
    client = alice.popen(
        "banger", "vm", "exec", "doomed", "--", "sh", "-c", "echo on; sleep 1000",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout is not None
    assert client.stdout.readline() == b"on\n"
    alice.ok("vm", "delete", "doomed")
    _, err = client.communicate(timeout=30)
    assert client.returncode == 125
    assert b"the guest went away before the command ended" in err


def test_the_users_whole_host_is_busy_on_both_ends(alice: User, box: str) -> None:
    """A reader that stops reading for a while loses nothing."""
    script = f"banger vm exec {box} -- head -c 20M /dev/zero | (sleep 2; sha256sum)"
    done = alice.run("sh", "-c", script)
    assert done.out.split()[0] == hashlib.sha256(bytes(20 * MIB)).hexdigest()


@pytest.fixture
def impatient(cache: Path, library: Path) -> Iterator[Machine]:
    """A machine of its own, whose service waits for guests a few seconds only."""
    folder = cache / f"impatient-{os.getpid()}"
    folder.mkdir()
    made = Machine(f"bgw{os.getpid()}", folder, library, "boot_timeout_s = 4\n")
    try:
        made.start()
        yield made
    finally:
        made.close()
        shutil.rmtree(folder)


def test_a_guest_that_never_comes_up_is_kept_for_its_log(impatient: Machine) -> None:
    """Also with --rm. Its VMM is stopped, so that it stays silent however fast the machine is."""
    alice = impatient.user(ALICE)
    client = alice.popen(
        "banger", "vm", "run", "--rm", "--name", "silent", "--", "true", stderr=subprocess.PIPE
    )
    found: list[int] = []
    while not found:
        assert client.poll() is None
        processes = impatient.netns.processes().items()
        found = [pid for pid, line in processes if "qemu-system" in line and "banger-shim" not in line]
    os.kill(found[0], signal.SIGSTOP)
    _, err = client.communicate(timeout=60)
    assert client.returncode == 125, err
    assert b"the guest did not answer within 4 s; `banger vm logs silent` shows its console" in err
    assert alice.state("silent") == "failed"
    assert alice.banger("vm", "logs", "silent").status == 0
    assert impatient.running_traces() == []
    alice.ok("vm", "delete", "silent")
    assert impatient.traces() == []
