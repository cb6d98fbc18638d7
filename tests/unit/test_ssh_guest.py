"""The scripts that are run in guests, here in a folder that plays root's home."""

import socket
import stat
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.unit.workspace_guest import Guest, Link, message

from banger.ssh import reach

KEY, OTHER = "ssh-ed25519 AAAAkey me@here", "ssh-rsa AAAAother them"


def add(
    home: Path, key: str, shell: tuple[str, ...] = ("sh",), **env: str
) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", **env}
    return subprocess.run(
        [*shell, "-c", reach._ADD_KEY],
        input=f"{key}\n",
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def modes(home: Path) -> list[int]:
    return [stat.S_IMODE((home / name).stat().st_mode) for name in (".ssh", ".ssh/authorized_keys")]


@pytest.mark.parametrize(
    "shell", ["dash", "bash", pytest.param("busybox", marks=pytest.mark.needs("busybox"))]
)
@pytest.mark.parametrize("before", [None, "", f"{OTHER}\n", OTHER, f"# mine\n\n{OTHER}\n"])
def test_a_key_is_added_once(tmp_path: Path, shell: str, before: str | None) -> None:
    words = (shell, "sh") if shell == "busybox" else (shell,)
    home = tmp_path / "root"
    home.mkdir(mode=0o770)
    home.chmod(0o770)
    if before is not None:
        (home / ".ssh").mkdir(mode=0o755)
        (home / ".ssh/authorized_keys").write_text(before)
    for _ in range(2):
        done = add(home, KEY, words)
        assert (done.returncode, done.stderr) == (0, "")
    text = (home / ".ssh/authorized_keys").read_text()
    assert text.splitlines() == [*(before or "").splitlines(), KEY]
    assert modes(home) == [0o700, 0o600]
    assert not stat.S_IMODE(home.stat().st_mode) & 0o022  # StrictModes
    assert [entry.name for entry in (home / ".ssh").iterdir()] == ["authorized_keys"]


def test_the_same_key_with_another_remark_is_the_same(tmp_path: Path) -> None:
    add(tmp_path, KEY)
    add(tmp_path, "ssh-ed25519 AAAAkey somebody else")
    assert (tmp_path / ".ssh/authorized_keys").read_text() == f"{KEY}\n"


def test_a_key_is_no_pattern(tmp_path: Path) -> None:
    add(tmp_path, "ssh-ed25519 AAAAkeyX")
    add(tmp_path, "ssh-ed25519 AAAA....")
    assert len((tmp_path / ".ssh/authorized_keys").read_text().splitlines()) == 2


def test_several_at_once_lose_none(tmp_path: Path) -> None:
    running = [
        subprocess.Popen(
            ["sh", "-c", reach._ADD_KEY],
            stdin=subprocess.PIPE,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        )
        for _ in range(8)
    ]
    for number, process in enumerate(running):
        process.communicate(f"ssh-ed25519 AAAA{number}\n".encode(), timeout=30)
    assert [process.returncode for process in running] == [0] * 8
    lines = (tmp_path / ".ssh/authorized_keys").read_text().splitlines()
    assert sorted(lines) == [f"ssh-ed25519 AAAA{number}" for number in range(8)]


def test_a_full_disk_costs_no_key(tmp_path: Path) -> None:
    """What cannot be written whole is not put in the old file's place, and what was begun is removed."""
    add(tmp_path, OTHER)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/cat").write_text("#!/bin/sh\necho half\nexit 4\n")
    (tmp_path / "bin/cat").chmod(0o755)
    done = add(tmp_path, KEY, PATH=f"{tmp_path}/bin:/usr/bin:/bin")
    assert done.returncode != 0
    assert (tmp_path / ".ssh/authorized_keys").read_text() == f"{OTHER}\n"
    assert [entry.name for entry in (tmp_path / ".ssh").iterdir()] == ["authorized_keys"]


@pytest.mark.parametrize(
    ("host", "name"),
    [("web.vm", "web"), ("[web.vm]:2222", "web"), ("Web.VM", "web"), ("web.vm.", "web"), ("web", "web")],
)
def test_names_in_hosts(host: str, name: str) -> None:
    assert reach.vm_name(host) == name


def test_a_guest_that_says_much_fills_no_memory(guest: Guest) -> None:
    """Of an answer only the beginning is looked at, and no more is kept."""
    much = 64 * 1024 * 1024

    def play(link: Link) -> None:
        link.sendall(message(17, b"booting "))
        for _ in range(much // 65536):
            link.sendall(message(17, b"x" * 65536))
        link.sendall(message(19, bytes(8)))

    guest.play = play
    target = reach.Target("/vm", "web", "", reachable=False, host_keys=(), knows=())
    service = SimpleNamespace(open_session=lambda _vm: guest.open_session())
    tracemalloc.start()
    try:
        assert reach.ask(service, target) == "booting"  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < much // 8
    finally:
        tracemalloc.stop()


def test_what_carries_a_connection_ends_with_ssh() -> None:
    """Also when the guest neither says anything more nor hangs up."""
    guest, theirs = socket.socketpair()
    ssh, its = socket.socketpair()
    with guest, ssh:
        words = [sys.executable, "-m", "banger", "ssh-connect", "--carry", str(theirs.fileno())]
        carrier = subprocess.Popen(words, stdin=its, stdout=its, pass_fds=[theirs.fileno()])
        theirs.close()
        its.close()
        assert guest.recv(8)
        guest.sendall(message(16, bytes(4)))
        ssh.close()
        assert carrier.wait(20) == 1
