"""ssh into a real guest, with the real programs of the host: ours, plain ssh, and all that runs over it."""

import hashlib
import os
import re
import signal
import stat
from collections.abc import Iterator

import pytest

from tests.guest.machine import ALICE, BOB, STRANGER, Machine, Terminal
from tests.guest.sshuser import SshUser, ssh_user
from tests.patience import until

pytestmark = pytest.mark.needs("ssh", "scp", "sftp", "rsync", "git", "ssh-agent", "ssh-keygen")
VM = "web"
HOST = f"{VM}.vm"
DATA = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def owner(machine: Machine) -> Iterator[SshUser]:
    """Alice, who has a VM that runs, and ssh set up by `banger ssh-config --install`."""
    user = ssh_user(machine, ALICE)
    user.user.ok("vm", "run", "--name", VM, "--", "true")
    user.ok("banger", "ssh-config", "--install")
    yield user
    user.user.ok("vm", "delete", VM)


@pytest.fixture
def address(owner: SshUser) -> str:
    return str(owner.user.json("vm", "show", VM)["address"])


def guest(owner: SshUser, script: str) -> str:
    """The output of a script in the guest, over the guest channel."""
    return owner.user.ok("vm", "exec", VM, "--", "sh", "-ec", script)


def test_plain_ssh_right_after_the_boot(owner: SshUser) -> None:
    """First, while the guest's system is starting still: ssh waits for its sshd."""
    assert owner.ok("ssh", HOST, "hostname", timeout_s=120) == f"{VM}\n"
    assert not (owner.home / ".ssh/known_hosts").exists()


def test_the_key_is_in_the_vm_from_the_start(owner: SshUser) -> None:
    vm = owner.user.json("vm", "show", VM)
    public = (owner.home / ".local/state/banger/ssh/id_ed25519.pub").read_text().strip()
    assert vm["ssh_keys"] == [public]
    assert guest(owner, "cat /root/.ssh/authorized_keys").count(public) == 1
    assert (
        guest(owner, "cat /etc/ssh/ssh_host_ed25519_key.pub").split()[:2] == vm["host_keys"][0].split()[:2]
    )


def test_vm_ssh_gives_output_and_status(owner: SshUser) -> None:
    done = owner.run("banger", "vm", "ssh", VM, "--", "sha256sum; echo oops >&2; exit 7", stdin=DATA)
    assert (done.status, done.out.split()[0]) == (7, hashlib.sha256(DATA).hexdigest()), done
    assert done.err == "oops\n"
    assert owner.run("banger", "vm", "ssh", VM, "-q", "--", "exit 255").status == 255


def test_a_terminal(owner: SshUser) -> None:
    shell = Terminal(_Ready(*owner.argv("banger", "vm", "ssh", VM)), rows=40, columns=132)  # type: ignore[arg-type]
    try:
        shell.expect(r":~# ")
        shell.type("stty size; tty\r")
        shell.expect(r"40 132\r\n/dev/pts/")
        shell.type("exit 3\r")
        assert shell.wait() == 3, shell.seen
    finally:
        shell.close()


class _Ready:
    """What Terminal wants of a user: a command line, which is there already."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self._ready = argv, env

    def command(self, *_argv: str) -> tuple[list[str], dict[str, str]]:
        return self._ready


def test_ports_are_forwarded(owner: SshUser) -> None:
    """-L with -N: sshd's greeting through it, and the end on SIGTERM."""
    tunnel = owner.start("banger", "vm", "ssh", VM, "-N", "-L", "2201:127.0.0.1:22")
    greet = "import socket; print(socket.create_connection(('127.0.0.1', 2201), 5).recv(8))"
    try:
        until(lambda: "SSH-2.0" in owner.run("python3", "-c", greet).out, "no tunnel", 30)
    finally:
        tunnel.terminate()
        tunnel.wait(10)


def test_an_agent_is_forwarded_and_a_key_it_alone_has_works(owner: SshUser) -> None:
    """The configured key is encrypted, unlocked in an agent; its VM was made with another, and is told this one."""
    owner.sh("rm -f locked*; ssh-keygen -q -t ed25519 -N secret -f locked; mkdir -p .config/banger")
    config = owner.home / ".config/banger/config.toml"
    (owner.home / "askpass").write_text("#!/bin/sh\necho secret\n")
    (owner.home / "askpass").chmod(0o755)
    script = """
        config=$HOME/.config/banger/config.toml
        echo 'ssh_key_path = "~/locked"' >$config
        trap 'rm -f $config' EXIT
        DISPLAY=:0 SSH_ASKPASS=$HOME/askpass SSH_ASKPASS_REQUIRE=force ssh-add -q locked
        mv locked away
        banger vm ssh web -A -- 'echo "$SSH_AUTH_SOCK" | grep -q . && ls -ld $SSH_AUTH_SOCK >/dev/null && echo vm ssh'
        ssh web.vm 'echo plain ssh'
    """
    try:
        assert owner.ok("ssh-agent", "sh", "-ec", script, timeout_s=90) == "vm ssh\nplain ssh\n"
    finally:
        config.unlink(missing_ok=True)
    keys = guest(owner, "cat /root/.ssh/authorized_keys").splitlines()
    assert len([line for line in keys if line in (owner.home / "locked.pub").read_text()]) == 1
    assert owner.ok("banger", "vm", "ssh", VM, "--", "echo own key again") == "own key again\n"
    assert guest(owner, "stat -c %a /root /root/.ssh /root/.ssh/authorized_keys").split() == [
        "700",
        "700",
        "600",
    ]


def test_scp_sftp_and_rsync(owner: SshUser) -> None:
    (owner.home / "data").write_bytes(DATA)
    os.chown(owner.home / "data", owner.home.stat().st_uid, -1)
    owner.ok("scp", "-q", "data", f"{HOST}:/root/scp")
    owner.ok("scp", "-q", f"{HOST}:/root/scp", "back")
    assert (owner.home / "back").read_bytes() == DATA
    owner.ok("sftp", "-q", "-b", "-", HOST, stdin=b"put data /root/sftp\n")
    owner.ok("rsync", "-a", "data", f"{HOST}:/root/rsync")
    assert (
        len(
            set(
                guest(
                    owner, "cat /root/scp | sha256sum; sha256sum </root/sftp; sha256sum </root/rsync"
                ).split()
            )
        )
        == 2
    )


def test_git_clones_and_pushes(owner: SshUser) -> None:
    guest(owner, "rm -rf /root/repo.git; git init -q --bare -b main /root/repo.git")
    script = """
        rm -rf repo again; git clone -q web.vm:repo.git repo 2>/dev/null; cd repo; echo hello >file; git add file
        git -c user.name=A -c user.email=a@example.org commit -qm first; git push -q origin HEAD:main
        cd ..; git clone -q ssh://web.vm/root/repo.git again; cat again/file
    """
    assert owner.sh(script) == "hello\n"


def test_what_vs_code_does(owner: SshUser) -> None:
    """ssh -G; one connection with a SOCKS port and a script over its stdin; further ones through a control master."""
    shown = dict(line.split(" ", 1) for line in owner.ok("ssh", "-G", HOST).splitlines() if " " in line)
    assert (shown["hostname"], shown["user"], shown["proxyusefdpass"]) == (HOST, "root", "yes")
    script = b'echo begin; uname -m; printf %s\\\\n "$0"; exit 5\n'
    done = owner.run("ssh", "-T", "-D", "2202", "-o", "ConnectTimeout=15", HOST, "bash", stdin=script)
    assert (done.status, done.out) == (5, "begin\nx86_64\nbash\n"), done
    through = """
        ssh -fN -o ControlMaster=yes -o ControlPath=$HOME/cm -D 2203 web.vm
        trap 'ssh -O exit -o ControlPath=$HOME/cm web.vm 2>/dev/null' EXIT
        ssh -o ControlPath=$HOME/cm web.vm 'echo second'
        python3 -c '
import socket
s = socket.create_connection(("127.0.0.1", 2203), 5)
s.sendall(bytes([5, 1, 0])); s.recv(2)
s.sendall(bytes([5, 1, 0, 1, 127, 0, 0, 1, 0, 22])); s.recv(10)
print(s.recv(7).decode())'
    """
    assert owner.sh(through) == "second\nSSH-2.0\n"


def test_another_host_key_is_never_trusted(owner: SshUser) -> None:
    change = "cp -a /etc/ssh/ssh_host_ed25519_key /root/kept; ssh-keygen -q -t ed25519 -N '' -f /root/other"
    guest(owner, f"{change}; cat /root/other >/etc/ssh/ssh_host_ed25519_key; systemctl restart ssh")
    try:
        for words in (("ssh", HOST), ("banger", "vm", "ssh", VM, "-o", "StrictHostKeyChecking=no", "--")):
            done = owner.run(*words, "echo in", stdin=b"yes\n")
            assert (done.status, done.out) == (255, ""), done
            assert "Host key verification failed" in done.err
    finally:
        guest(owner, "mv /root/kept /etc/ssh/ssh_host_ed25519_key; rm /root/other*; systemctl restart ssh")
    assert owner.ok("ssh", HOST, "echo in again") == "in again\n"


@pytest.mark.parametrize("name", [BOB, STRANGER])
def test_another_user_is_refused(machine: Machine, owner: SshUser, address: str, name: str) -> None:
    """By the service, which tells him no address, and by the firewall, should he know it."""
    other = ssh_user(machine, name)
    other.ok("banger", "ssh-config", "--install")
    done = other.run("banger", "vm", "ssh", VM, "--", "echo in")
    assert (done.status, done.out) == (125, ""), done
    done = other.run("ssh", HOST, "echo in")
    assert (done.status, done.out) == (255, ""), done
    assert "proxy dialer did not pass back a connection" in done.err
    loose = (
        "-F",
        "none",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "ConnectTimeout=5",
    )
    done = other.run("ssh", *loose, f"root@{address}", "echo in")
    assert (done.status, done.out) == (255, ""), done
    assert "No route to host" in done.err
    assert "Permission denied" not in done.err  # not even asked for a key


def test_without_tcp_it_goes_over_the_guest_channel(owner: SshUser) -> None:
    """sshd on loopback alone; then none at all, and a client that is killed leaves nothing on either side."""
    limit = "/etc/ssh/sshd_config.d/60-loopback.conf"
    guest(owner, f"echo ListenAddress 127.0.0.1 >{limit}; systemctl restart ssh")
    try:
        done = owner.run("ssh", HOST, "sha256sum; exit 4", stdin=DATA)
        assert (done.status, done.out.split()[0]) == (4, hashlib.sha256(DATA).hexdigest()), done
        until(
            lambda: "22" not in owner.user.json("vm", "show", VM)["listening"], "its port is still told", 30
        )
        assert owner.ok("banger", "vm", "ssh", VM, "--", "echo $SSH_CONNECTION").startswith("127.0.0.1 ")
    finally:
        guest(owner, f"rm {limit}; systemctl stop ssh ssh.socket 2>/dev/null || true")
    try:
        assert owner.run("ssh", HOST, "exit 6").status == 6
        client = owner.start("ssh", HOST, "exec sleep 999")
        until(lambda: guest(owner, "pgrep -x sleep -a || true").count("999"), "no sleep", 30)
        carriers = [pid for pid, words in owner.user.machine.netns.processes().items() if "--carry" in words]
        assert len(carriers) == 1
        clients = [
            pid for pid, words in owner.user.machine.netns.processes().items() if words.startswith("ssh ")
        ]
        for pid in clients:
            os.kill(pid, signal.SIGKILL)
        client.wait(10)
        until(lambda: not guest(owner, "pgrep -f '^sshd: root' || true"), "sshd stays", 30)
        until(
            lambda: not any("--carry" in words for words in owner.user.machine.netns.processes().values()),
            "the carrier stays",
            30,
        )
    finally:
        guest(owner, "systemctl start ssh")


def test_no_sshd_is_said(owner: SshUser) -> None:
    guest(owner, "systemctl stop ssh; mv /usr/sbin/sshd /usr/sbin/sshd.away")
    try:
        until(
            lambda: not owner.user.json("vm", "show", VM)["listening"],
            "its port is still said to listen",
            30,
        )
        done = owner.run("banger", "vm", "ssh", VM)
        assert done.status == 125, done
        assert f"'{VM}' has no sshd" in done.err
        assert f"banger vm exec {VM}" in done.err
        assert f"'{VM}' has no sshd" in owner.run("ssh", HOST).err
    finally:
        guest(owner, "mv /usr/sbin/sshd.away /usr/sbin/sshd; systemctl start ssh")


# The guest's sshd, asked from outside

PROMISED = {
    "permitrootlogin": "without-password",  # the older word for prohibit-password
    "pubkeyauthentication": "yes",
    "passwordauthentication": "no",
    "kbdinteractiveauthentication": "no",
    "authorizedkeysfile": "/root/.ssh/authorized_keys",
    "strictmodes": "yes",
    "hostbasedauthentication": "no",
    "gssapiauthentication": "no",
    "kerberosauthentication": "no",
    "permitemptypasswords": "no",
    "hostkey": "/etc/ssh/ssh_host_ed25519_key",
}


def test_sshd_is_set_up_as_promised(owner: SshUser) -> None:
    told = dict(line.split(" ", 1) for line in guest(owner, "sshd -T").splitlines() if " " in line)
    assert {key: told.get(key, "no") for key in PROMISED} == PROMISED
    written = guest(owner, "cat /etc/ssh/sshd_config.d/50-banger.conf").splitlines()
    assert [line for line in written if not line.startswith("#")][:5] == [
        "PermitRootLogin prohibit-password",
        "PubkeyAuthentication yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "AuthorizedKeysFile /root/.ssh/authorized_keys",
    ]
    modes = guest(
        owner, "stat -c '%U %a' / /root /root/.ssh /root/.ssh/authorized_keys /etc/ssh/ssh_host_ed25519_key"
    )
    rows = [line.split() for line in modes.splitlines()]
    assert [user for user, _ in rows] == ["root"] * 5
    assert not any(int(mode, 8) & (stat.S_IWGRP | stat.S_IWOTH) for _, mode in rows)
    assert [mode for _, mode in rows][2:] == ["700", "600", "600"]


ATTEMPTS = """
import asyncio, asyncssh, sys
address, right, wrong = sys.argv[1:]

class Client(asyncssh.SSHClient):
    def password_auth_requested(self): return "open sesame"
    def kbdint_auth_requested(self): return ""
    def kbdint_challenge_received(self, name, instructions, lang, prompts): return ["open sesame"] * len(prompts)

async def attempt(title, **how):
    options = dict(username="root", known_hosts=None, config=None, agent_path=None, client_keys=[], gss_auth=False,
                   client_factory=Client) | how
    try:
        async with asyncssh.connect(address, **options):
            print(title, "accepted")
    except asyncssh.PermissionDenied:
        print(title, "refused")

async def main():
    methods = await asyncssh.get_server_auth_methods(address, username="root", config=None)
    print("methods", ",".join(methods))
    await attempt("none", preferred_auth="none")
    await attempt("password", password="open sesame", preferred_auth="password")
    await attempt("keyboard-interactive", password="open sesame", preferred_auth="keyboard-interactive")
    await attempt("hostbased", preferred_auth="hostbased", client_host_keys=[wrong], client_host="localhost")
    await attempt("wrong-key", client_keys=[wrong])
    await attempt("other-user", username="daemon", client_keys=[right])
    await attempt("right-key", client_keys=[right])

asyncio.run(main())
"""


def test_nothing_but_the_key_lets_anybody_in(owner: SshUser, address: str) -> None:
    """Root's password is known and would do, were passwords taken."""
    guest(owner, "echo 'root:open sesame' | chpasswd; echo 'daemon:open sesame' | chpasswd")
    owner.sh("rm -f wrong wrong.pub; ssh-keygen -q -t ed25519 -N '' -f wrong")
    right = str(owner.home / ".local/state/banger/ssh/id_ed25519")
    said = owner.ok("python", "-c", ATTEMPTS, address, right, str(owner.home / "wrong"), timeout_s=120)
    assert said.splitlines() == [
        "methods publickey",
        *(
            f"{how} refused"
            for how in ("none", "password", "keyboard-interactive", "hostbased", "wrong-key")
        ),
        "other-user refused",
        "right-key accepted",
    ]
    loose = (
        "-F",
        "none",
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    )
    for method in ("password", "keyboard-interactive", "hostbased", "gssapi-with-mic", "none"):
        done = owner.run("ssh", *loose, "-o", f"PreferredAuthentications={method}", f"root@{address}")
        assert done.status == 255
        assert "Permission denied (publickey)" in done.err


# Last, since they end it


def test_a_vm_that_does_not_run_says_how_to_go_on(owner: SshUser) -> None:
    owner.user.ok("vm", "pause", VM)
    done = owner.run("banger", "vm", "ssh", VM)
    assert (done.status, re.findall(r"`(.*?)`", done.err)) == (125, [f"banger vm resume {VM}"]), done
    owner.user.ok("vm", "resume", VM)
    owner.user.ok("vm", "stop", VM)
    done = owner.run("banger", "vm", "ssh", VM)
    assert (done.status, re.findall(r"`(.*?)`", done.err)) == (125, [f"banger vm start {VM}"]), done
    done = owner.run("ssh", HOST)
    assert done.status == 255
    assert f"`banger vm start {VM}`" in done.err
    assert "no VM named 'nowhere'" in owner.run("ssh", "nowhere.vm").err


def test_ssh_config_leaves_no_trace(owner: SshUser) -> None:
    owner.ok("banger", "ssh-config", "--uninstall")
    assert not (owner.home / ".ssh/config").exists()
    assert not (owner.home / ".config/banger/ssh_config").exists()
