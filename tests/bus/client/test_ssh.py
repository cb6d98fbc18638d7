"""`vm ssh` with an ssh that tells what it was given, and `ssh-connect` with a receiver as ssh is one."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

HOST_KEY = "ssh-ed25519 " + "A" * 68


@pytest.fixture
def vm(lab) -> dict[str, object]:
    """A VM on our loopback whose sshd answers, and which knows our key: the guest is not to be told it, here."""
    assert lab.run("vm", "create", "-q").status == 0
    return {
        "name": "web", "state": "running", "owner": os.getuid(), "address": "127.0.0.1", "listening": ["22"],
        "ssh_keys": lab.ssh_keys, "host_keys": [HOST_KEY],
    }  # fmt: skip


@pytest.fixture
def ssh(lab, vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an ssh writes its arguments before it ends with 9."""
    log = tmp_path / "argv"
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" >{log}\nexit 9\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    lab.set(vms=[vm])
    return log


def given(log: Path) -> list[str]:
    return log.read_text().split("\0")[:-1]


def options(words: list[str]) -> dict[str, str]:
    return dict(value.split("=", 1) for flag, value in pairwise(words) if flag == "-o")


def test_ssh_gets_all_it_has_to_know(lab, ssh: Path) -> None:
    done = lab.run("vm", "ssh", "web", "-A", "-L", "8080:localhost:80", "--", "make", "--json", "a b")
    assert (done.status, done.err) == (9, "")
    words = given(ssh)
    told = options(words)
    assert told["HostName"] == "127.0.0.1"
    assert told["HostKeyAlias"] == "web.vm"
    assert told["StrictHostKeyChecking"] == "yes"
    assert told["ConnectTimeout"] == "30"
    assert told["UserKnownHostsFile"] == told["GlobalKnownHostsFile"] == told["ProxyCommand"] == "none"
    assert told["KnownHostsCommand"] == f'/usr/bin/printf %%s\\n "web.vm {HOST_KEY}"'
    assert told["IdentityFile"].endswith("/.local/state/banger/ssh/id_ed25519")
    assert told["User"] == "root"
    at = words.index("-A")
    assert words[at : at + 3] == ["-A", "-L", "8080:localhost:80"]
    # What decides whom we talk to stands before the user's flags and so wins; what may be another's choice, after.
    assert words.index("StrictHostKeyChecking=yes") < at < words.index("User=root")
    assert words[-5:] == ["web.vm", "--", "make", "--json", "a b"]
    assert lab.members() == ["ResolveSpec", "CreateVM", "Get", "FindVM", "Describe"]


@pytest.mark.parametrize("change", [{"listening": ["80"]}, {"address": ""}])
def test_where_our_own_connection_would_fail_the_proxy_is_asked(lab, ssh: Path, vm, change) -> None:
    vm |= change
    lab.set(vms=[vm])
    done = lab.run("vm", "ssh", "web")
    assert done.status in (9, 125)  # this machine has an sshd, or not, and that is said
    if done.status == 9:
        told = options(given(ssh))
        assert told["ProxyUseFdpass"] == "yes"
        assert told["ProxyCommand"].endswith("ssh-connect '%n' %p")
        assert told["KnownHostsCommand"].endswith("ssh-connect --known-hosts %H")
    else:
        assert "'web' has no sshd" in done.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["web", "ls", "-l"], "banger vm ssh NAME -- ls -l"),
        (["web", "-L"], "option -L requires argument"),
        (["web", "--verboze"], "--verboze"),
        (["Web"], "no valid VM name"),
        ([], "banger vm ssh --help"),
        (["web", "--"], "no command after '--'"),
    ],
)
def test_nonsense_is_told_before_anything_is_asked(lab, ssh: Path, words: list[str], says: str) -> None:
    before = lab.members()
    done = lab.run("vm", "ssh", *words)
    assert (done.status, lab.members()) == (2, before)
    assert says in done.err
    assert not ssh.exists()


def test_without_ssh_there_is_a_way_round(lab, vm) -> None:
    lab.set(vms=[vm])
    done = lab.run("vm", "ssh", "web", "--json", env={"PATH": "/nonexistent"})
    assert done.status == 125
    assert "openssh-client" in done.error["next"]
    assert "banger vm exec" in done.error["next"]


@pytest.mark.parametrize(
    ("state", "command"),
    [
        ("stopped", "start"),
        ("created", "start"),
        ("failed", "start"),
        ("paused", "resume"),
        ("stopping", "start"),
    ],
)
def test_one_that_does_not_run_is_not_started(lab, ssh: Path, vm, state: str, command: str) -> None:
    lab.set(vms=[vm | {"state": state}])
    done = lab.run("vm", "ssh", "web")
    assert done.status == 125
    assert f"`banger vm {command} web`" in done.err
    assert not ssh.exists()


def test_one_that_is_starting_is_waited_for(lab, ssh: Path, vm) -> None:
    lab.set(vms=[vm | {"state": "starting"}])
    client = lab.spawn("vm", "ssh", "web", stdin=subprocess.DEVNULL)
    try:
        lab.wait_for("Describe", count=3)
        assert not ssh.exists()
        lab.set(vms=[vm])
        _, err = client.communicate(timeout=15)
    finally:
        client.kill()
        client.communicate()
    assert (client.returncode, err.decode()) == (9, "waiting for 'web' to start…\n")


def test_a_run_goes_on_without_a_key(lab) -> None:
    """A key that cannot be used is said; the VM works, and can be told a key later."""
    (lab.folder / ".config/banger").mkdir(parents=True, exist_ok=True)
    config = lab.folder / ".config/banger/config.toml"
    config.write_text('ssh_key_path = "~/nothing"\n')
    try:
        done = lab.run("vm", "create")
    finally:
        config.unlink()
    assert done.status == 0
    assert "no ssh key for the VM: there is no key ~/nothing" in done.err
    assert "ssh_keys" not in next(call for call in lab.calls() if call["member"] == "CreateVM")["body"][1]


# ssh-connect


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server.getsockname()[1]


def connect(lab, *words: str) -> tuple[int, str, list[int]]:
    """Run it as ssh does: with a socket as standard input and output. Status, stderr, and what was passed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client = subprocess.Popen(
            lab.argv("ssh-connect", *words), env=lab.env, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE
        )
        theirs.close()
        ours.settimeout(20)
        data, fds, _, _ = socket.recv_fds(ours, 16, 4)
        assert data in (b"\0", b"")
        _, err = client.communicate(timeout=20)
        return client.returncode, err.decode(), list(fds)


def test_a_connected_socket_is_passed(lab, vm, port: int) -> None:
    lab.set(vms=[vm])
    status, err, fds = connect(lab, "web.vm", str(port))
    assert (status, err, len(fds)) == (0, "", 1)
    with socket.socket(fileno=fds[0]) as passed:
        assert passed.getpeername() == ("127.0.0.1", port)
        assert passed.getblocking()
        assert os.get_blocking(passed.fileno())


def test_a_port_on_which_nothing_listens(lab, vm, port: int) -> None:
    del port
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    lab.set(vms=[vm])
    status, err, fds = connect(lab, "web.vm", str(free))
    assert (status, fds) == (1, [])
    assert "cannot be reached on port" in err or "has no sshd" in err  # whether this machine has one


@pytest.mark.parametrize(
    "host", ["other.vm", "WEB.vm.", "a.b.vm", "-x.vm", ".vm", "", "web'.vm", "x" * 5000]
)
def test_hosts_that_are_none(lab, vm, port: int, host: str) -> None:
    lab.set(vms=[vm])
    status, err, fds = connect(lab, host, str(port))
    assert (status == 0) == (host == "WEB.vm.")
    assert len(fds) == (status == 0)
    for fd in fds:
        os.close(fd)
    assert "Traceback" not in err
    assert len(err) < 400


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["web.vm"],
        ["web.vm", "0"],
        ["web.vm", "65536"],
        ["web.vm", "-1"],
        ["--carry", "x"],
        ["-h"],
        ["²", "²"],
    ],
)
def test_it_is_not_for_people(lab, words: list[str]) -> None:
    done = lab.run("ssh-connect", *words)
    assert done.status == 2
    assert "is run by ssh" in done.err


def test_without_a_receiver_nothing_is_asked(lab, vm) -> None:
    lab.set(vms=[vm])
    before = lab.members()
    done = lab.run("ssh-connect", "web.vm", "22")
    assert done.status == 1
    assert "ProxyUseFdpass" in done.err
    assert lab.members() == before


@pytest.mark.parametrize("host", ["web.vm", "[web.vm]:2222", "Web.VM"])
def test_known_hosts_are_printed_for_the_name_that_ssh_looks_for(lab, vm, host: str) -> None:
    lab.set(vms=[vm | {"host_keys": [HOST_KEY, "evil line\nweb.vm ssh-rsa AAAA"]}])
    done = lab.run("ssh-connect", "--known-hosts", host)
    assert (done.status, done.text) == (0, f"{host} {HOST_KEY}\n")


def test_ssh_config_in_json(lab, tmp_path: Path) -> None:
    """Without --install nothing of the user's is touched. (~ is the account's: not asked for here.)"""
    done = lab.run("ssh-config", "--json")
    assert done.status == 0
    said = json.loads(done.text)
    assert said["include"] == f"Include {lab.folder}/.config/banger/ssh_config"
    assert (lab.folder / ".config/banger/ssh_config").read_text().count("\nHost *.vm\n") == 1
    assert not (lab.folder / ".ssh").exists()
    assert lab.run("ssh-config", "--install", "--uninstall").status == 2
