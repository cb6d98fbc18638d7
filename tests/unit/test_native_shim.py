"""The shim: its sockets, its files, its command line, and what it gives to its VMM."""

import fcntl
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.landlock import landlock_version
from tests.patience import until
from tests.unit.native_protocol import (
    Shim,
    connect,
    read_line,
)

StartShim = Callable[..., Shim]


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_files_and_sockets_take_no_link_and_leave_nothing_of_an_earlier_run(
    start_shim: StartShim, folder: Path
) -> None:
    victim = folder / "victim"
    victim.write_text("untouched")
    for name in ("console.log", "vmm.log", "control.sock", "guest.sock", ".control.sock.new", ".exit.new"):
        (folder / name).symlink_to(victim)
    (folder / "exit").write_text("reason=kill status=0 ready=1 at=1\n")
    shim = start_shim(vmm=sh("echo console"))
    assert shim.wait() == 0
    assert victim.read_text() == "untouched"
    assert shim.path("console.log").read_text() == "console\n"
    assert shim.record()["reason"] == "poweroff"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("", "ERR expected STATUS"),
        ("status", "ERR expected STATUS"),
        ("STOP", "ERR expected"),
        ("STOP -1", "ERR expected"),
        ("STOP 1 2", "ERR expected"),
        ("STOP nan", "ERR expected"),
        ("STOP 1e99", "ERR expected"),
        ("x" * 1024, "ERR the line is longer"),
        ("x" * 5000, "ERR the line is longer"),
    ],
)
def test_senseless_commands_are_answered(chain: Shim, line: str, answer: str) -> None:
    assert chain.control(line).startswith(answer)
    assert chain.status()["state"] == "ready"


def test_commands_may_come_in_pieces_or_together(chain: Shim) -> None:
    with chain.wait_socket("control.sock") as sock:
        for byte in b"STATUS\n":
            sock.sendall(bytes([byte]))
        assert read_line(sock).startswith("state=ready ")
        sock.sendall(b"STATUS\nNONSENSE\nSTATUS\n")
        answers = [read_line(sock).split()[0] for _ in range(3)]
        assert answers == ["state=ready", "ERR", "state=ready"]


@pytest.mark.parametrize(
    "text", ["CONNECT\n", "CONNECT x\n", "CONNECT 1 2\n", "GET / HTTP/1.1\r\n", "x" * 100]
)
def test_a_client_that_does_not_say_connect(chain: Shim, text: str) -> None:
    with chain.wait_socket("guest.sock") as sock:
        sock.sendall(text.encode())
        assert read_line(sock) == "ERR expected CONNECT <port>\n"
        assert sock.recv(1) == b""


def test_a_client_may_ask_before_the_guest_is_up(start_shim: StartShim, native: Path) -> None:
    shim = start_shim(vmm=sh(f"sleep 0.5; exec {native}/banger-guest --agent-fd 3"))
    assert shim.run("echo", "early").stdout == b"early\n"


def test_sessions_over_the_limit_are_refused(chain: Shim) -> None:
    sessions = [chain.session() for _ in range(256)]
    with chain.wait_socket("guest.sock") as sock:
        assert read_line(sock) == "ERR too many sessions in this machine\n"
    sessions.pop().close()
    while chain.status()["sessions"] != "255":
        pass
    assert chain.run("echo", "x").stdout == b"x\n"
    for session in sessions:
        session.close()


def test_only_root_may_connect(chain: Shim) -> None:
    script = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "try:\n  s.sendall(b'STATUS\\n'); print(s.recv(100))\n"
        "except (BrokenPipeError, ConnectionResetError): print(b'')\n"
    )
    chain.folder.chmod(0o777)
    for name in ("control.sock", "guest.sock"):
        done = subprocess.run(
            [sys.executable, "-I", "-c", script, chain.path(name)],
            user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
        assert done.stdout == "b''\n"
    assert chain.status()["state"] == "ready"


def test_the_pid_file_is_written_and_locked_as_long_as_the_shim_lives(
    start_shim: StartShim, folder: Path
) -> None:
    file = os.open(folder / "pid", os.O_RDWR | os.O_CREAT)
    shim = start_shim("--pid-fd", str(file), pass_fds=(file,))
    os.close(file)
    shim.wait_state("ready")
    pid, started = shim.path("pid").read_text().split()
    stat = Path(f"/proc/{shim.process.pid}/stat").read_text().rpartition(")")[2].split()
    assert (int(pid), started) == (shim.process.pid, stat[19])
    vmm = shim.status()["vmm"]
    held = {str(link.readlink()) for link in Path(f"/proc/{vmm}/fd").iterdir() if link.name != "0"}
    assert not [name for name in held if name.endswith("/pid")]
    with shim.path("pid").open() as again:
        with pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shim.control("KILL")
        shim.wait()
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_ready_is_said_when_the_sockets_listen(start_shim: StartShim, folder: Path) -> None:
    hears, says = os.pipe()
    shim = start_shim("--ready-fd", str(says), vmm=["sleep", "1000"], pass_fds=(says,))
    os.close(says)
    assert os.read(hears, 100) == b"READY=1\n"
    assert os.read(hears, 100) == b""  # closed, so the VMM does not have it
    os.close(hears)
    for name in ("control.sock", "guest.sock"):
        connect(folder / name).close()
    assert shim.control("KILL") == "OK\n"
    shim.wait()


def test_ready_is_said_to_systemd(native: Path, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(folder / "notify"))
        notify.settimeout(20)
        shim = Shim(
            native / "banger-shim", folder, ["sh", "-c", 'echo "<$NOTIFY_SOCKET>"'],
            env={"NOTIFY_SOCKET": str(folder / "notify"), "PATH": os.environ["PATH"]},
        )  # fmt: skip
        try:
            assert notify.recv(100) == b"READY=1"
            assert shim.wait() == 0
            assert shim.path("console.log").read_text() == "<>\n"
        finally:
            shim.close()


def test_what_the_vmm_gets(start_shim: StartShim) -> None:
    script = "ls -l /proc/self/fd; grep -E 'NoNewPrivs|SigBlk|SigIgn' /proc/self/status; umask; pwd"
    shim = start_shim(vmm=sh(script))
    assert shim.wait() == 0
    text = shim.path("console.log").read_text()
    assert "0 -> /dev/null" in text
    assert "3 -> socket:" in text
    assert "\n".join(text.split("\n")[-6:]) == (
        f"SigBlk:\t{0:016x}\nSigIgn:\t{0:016x}\nNoNewPrivs:\t1\n0000\n{shim.folder}\n"
    )
    links = [line for line in text.split("\n") if " -> " in line]
    assert len(links) == 5  # 0 to 3, and the folder that ls reads


def test_the_vmm_gets_no_environment(start_shim: StartShim) -> None:
    shim = start_shim(vmm=["cat", "/proc/self/environ"])
    assert shim.wait() == 0
    assert shim.path("console.log").read_bytes() == b""


REACH = """
import os, socket, sys
def attempt(name, deed, *arguments):
    try:
        deed(*arguments)
        print(name, "ok")
    except PermissionError:
        print(name, "refused")
with socket.socket(socket.AF_UNIX) as theirs, socket.socket(socket.AF_UNIX) as own, socket.socket(socket.AF_UNIX) as to:
    own.bind(b"\\0" + sys.argv[1].encode() + b"own")
    own.listen()
    attempt("abstract", theirs.connect, b"\\0" + sys.argv[1].encode())
    attempt("named", theirs.connect, sys.argv[2])
    attempt("own", to.connect, own.getsockname())
attempt("signal", os.kill, int(sys.argv[3]), 0)
attempt("shim", os.kill, os.getppid(), 0)
attempt("itself", os.kill, os.getpid(), 0)
"""


@pytest.mark.skipif(landlock_version() < 6, reason="Linux is older than 6.12, or has no Landlock")
def test_the_vmm_reaches_no_abstract_socket_and_no_process(start_shim: StartShim, folder: Path) -> None:
    """No mount namespace hides the first, and the second are guarded by uids alone, which here are the same."""
    name = f"banger-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_UNIX) as named:
        for sock, address in ((abstract, f"\0{name}"), (named, str(folder / "named"))):
            sock.bind(address)
            sock.listen()
        shim = start_shim(
            vmm=[sys.executable, "-I", "-c", REACH, name, str(folder / "named"), str(os.getpid())]
        )
        assert shim.wait() == 0
    assert shim.path("console.log").read_text().splitlines() == [
        "abstract refused", "named ok", "own ok", "signal refused", "shim refused", "itself ok",
    ]  # fmt: skip


def test_the_shim_is_not_dumpable(chain: Shim) -> None:
    """So that the VMM, which has the same uid, cannot trace it."""
    memory = Path(f"/proc/{chain.process.pid}/mem")
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(
            [sys.executable, "-I", "-c", f"open('{memory}', 'rb')"],
            user=65534, group=65534, extra_groups=[], check=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    assert memory.stat().st_uid == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "are needed"),
        (["--dir", "/tmp", "--channel", "fd"], "are needed"),
        (["--dir", "/tmp", "--channel", "tcp", "--", "true"], "neither fd nor vsock"),
        (["--dir", "/tmp", "--channel", "vsock:../x", "--", "true"], "neither fd nor vsock"),
        (["--dir", "/tmp", "--channel", "vsock:..", "--", "true"], "neither fd nor vsock"),
        (["--dir", "/tmp", "--channel", "fd", "--unlink", "../x", "--", "true"], "--unlink is no name"),
        (["--dir", "/tmp", "--channel", "fd", "--unlink", "", "--", "true"], "--unlink is no name"),
        (["--dir", "/tmp", "--channel", "fd", *["--unlink", "x"] * 5, "--", "true"], "more than 4"),
        (["--dir", "/tmp", "--channel", "fd", "--console-max", "1", "--", "true"], "--console-max"),
        (["--dir", "/tmp", "--channel", "fd", "--pid-fd", "x", "--", "true"], "--pid-fd"),
        (["--dir", "/tmp", "--channel", "fd", "--pid-fd", "999", "--", "true"], "pid file: Bad file"),
        (["--dir", "/no/such/folder", "--channel", "fd", "--", "true"], "/no/such/folder: No such file"),
        (["--nonsense"], "unknown option"),
    ],
)
def test_a_wrong_command_line(native: Path, arguments: list[str], words: str) -> None:
    done = subprocess.run(
        [native / "banger-shim", *arguments], capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode == 2
    assert words in done.stderr


FIRECRACKER = """
import os, socket, subprocess, sys, time
server = socket.socket(socket.AF_UNIX)
refuse = int(sys.argv[2])
time.sleep(0.2)
server.bind("v.sock"); server.listen()
while True:
    peer, _ = server.accept()
    line = b""
    while not line.endswith(b"\\n"):
        line += peer.recv(1)
    assert line == b"CONNECT 1024\\n", line
    if refuse:  # the guest does not listen yet
        refuse -= 1
        peer.close()
        continue
    peer.sendall(b"OK 1073741824\\n")
    os.dup2(peer.fileno(), 3)
    peer.close()
    sys.exit(subprocess.call([sys.argv[1], "--agent-fd", "3"], pass_fds=(3,)))
"""


@pytest.fixture
def firecracker(start_shim: StartShim, native: Path) -> Iterator[Callable[[int], Shim]]:
    """A VMM that offers its guest through a Unix socket with CONNECT, as Firecracker does."""

    def start(refuse: int) -> Shim:
        vmm = [sys.executable, "-I", "-c", FIRECRACKER, native / "banger-guest", str(refuse)]
        return start_shim(vmm=vmm, channel="vsock:v.sock")

    return start


@pytest.mark.parametrize("refuse", [0, 1])
def test_a_guest_behind_a_vsock(firecracker: Callable[[int], Shim], refuse: int) -> None:
    shim = firecracker(refuse)
    data = random.Random(3).randbytes(1 << 20)
    assert shim.run("cat", stdin=data).stdout == data
    assert shim.control("STOP 10") == "OK\n"
    assert shim.wait() == 0
    assert (shim.record()["reason"], shim.record()["status"]) == ("stop", "0")


BAD_VSOCK = """
import socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind("v.sock"); server.listen()
print("listening", flush=True)
kept = []
while True:
    peer, _ = server.accept()
    kept.append(peer)
    if sys.argv[1]:
        peer.sendall(sys.argv[1].encode())
"""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("", "does not answer CONNECT"),
        ("NO\x1b[2J\n", "answered CONNECT with NO?[2J"),
        ("x" * 100, "answered CONNECT with " + "x" * 32),
    ],
)
def test_a_vsock_that_is_none_is_told_once(start_shim: StartShim, answer: str, words: str) -> None:
    shim = start_shim(vmm=[sys.executable, "-I", "-c", BAD_VSOCK, answer], channel="vsock:v.sock")
    assert shim.status()["state"] == "booting"
    said = until(shim.path("vmm.log").read_text, "word of it", 20)
    time.sleep(1.5)  # for another try
    assert shim.path("vmm.log").read_text() == said == f"banger-shim: the VMM's socket v.sock {words}\n"
    assert shim.control("KILL") == "OK\n"
    assert shim.wait() == 0


def test_sockets_of_the_last_run_are_out_of_the_way(start_shim: StartShim, folder: Path) -> None:
    (folder / "api.sock").write_text("of an earlier VMM")
    (folder / "kept").write_text("not named")
    shim = start_shim("--unlink", "api.sock", vmm=sh("ls"))
    assert shim.wait() == 0
    seen = shim.path("console.log").read_text().split()
    assert "api.sock" not in seen
    assert "kept" in seen
