"""The shim: its control socket, its files, and every way in which a VM can end."""

import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.native_protocol import (
    STARTED,
    Shim,
    connect,
    exec_message,
    process_state,
    read_line,
    wait_gone,
)

StartShim = Callable[..., Shim]


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_status_watch_and_a_guest_that_powers_off(chain: Shim) -> None:
    chain.run("true")  # by then the first figures have come too
    status = chain.status()
    assert status["state"] == "ready"
    assert process_state(int(status["vmm"])) in "SR"
    total, available = (int(n) for n in status["memory"].split(","))
    assert total > available > 0
    assert 0 <= int(status["t.spawn"]) <= int(status["t.hello"]) <= int(status["t.ready"]) < 30000
    with chain.wait_socket("control.sock") as watch:
        watch.sendall(b"WATCH\n")
        assert read_line(watch).startswith("state=ready ")
        assert chain.control("STOP 10") == "OK\n"
        assert read_line(watch).startswith("state=stopping ")
        assert read_line(watch) == ""
    assert chain.wait() == 0
    record = chain.record()
    assert (record["reason"], record["status"], record["ready"]) == ("stop", "0", "1")
    assert abs(int(record["at"]) - time.time()) < 60
    assert not chain.path("control.sock").exists()
    assert not chain.path("guest.sock").exists()


def test_reboot_starts_the_vmm_again_under_the_same_sockets(chain: Shim) -> None:
    first = chain.status()["vmm"]
    session = chain.session()
    session.send(exec_message(["sleep", "1000"]))
    pid = int.from_bytes(session.wait_for(STARTED), "little")
    with chain.wait_socket("control.sock") as watch:
        watch.sendall(b"WATCH\n")
        assert chain.control("REBOOT") == "OK\n"
        states = []
        while not (line := read_line(watch)).startswith("state=ready ") or len(states) < 2:
            states.append(line.split()[0])
    assert states == ["state=ready", "state=rebooting", "state=booting"]
    assert session.finish().exit is None
    session.close()
    wait_gone(pid)
    assert chain.status()["vmm"] != first
    assert chain.run("echo", "again").stdout == b"again\n"


def test_a_vm_that_reboots_without_end_is_given_up(start_shim: StartShim) -> None:
    shim = start_shim()
    for _ in range(5):
        shim.wait_state("ready")
        assert shim.control("REBOOT") == "OK\n"
        with shim.wait_socket("control.sock") as watch:
            watch.sendall(b"WATCH\n")
            while "state=rebooting" in read_line(watch):
                pass
    shim.wait_state("ready")
    assert shim.control("REBOOT") == "OK\n"
    assert shim.wait() == 1
    assert shim.record()["reason"] == "vmm-failed"


def test_kill(chain: Shim) -> None:
    vmm = int(chain.status()["vmm"])
    assert chain.control("KILL") == "OK\n"
    assert chain.wait() == 0
    assert (chain.record()["reason"], chain.record()["status"]) == ("kill", "137")
    assert process_state(vmm) == ""


def test_a_vmm_that_does_not_stop_is_killed_when_its_time_is_over(start_shim: StartShim) -> None:
    shim = start_shim(vmm=sh("trap '' TERM; while :; do sleep 0.05; done"))
    started = time.monotonic()
    assert shim.control("STOP 60") == "OK\n"
    assert shim.control("STOP 0.5") == "OK\n"  # the sooner one counts
    assert shim.wait() == 0
    assert 0.4 < time.monotonic() - started < 20
    assert shim.record() | {"at": ""} == {"reason": "stop", "status": "137", "ready": "0", "at": ""}


def test_stop_while_the_guest_boots_reaches_it_when_it_is_up(start_shim: StartShim, native: Path) -> None:
    shim = start_shim(vmm=sh(f"sleep 0.5; exec {native}/banger-guest --agent-fd 3"))
    assert shim.control("STOP 30") == "OK\n"
    assert shim.wait() == 0
    assert (shim.record()["reason"], shim.record()["status"]) == ("stop", "0")


def test_sigterm_stops_and_a_second_one_kills(start_shim: StartShim) -> None:
    shim = start_shim()
    shim.wait_state("ready")
    shim.process.send_signal(signal.SIGTERM)
    assert shim.wait() == 0
    assert (shim.record()["reason"], shim.record()["status"]) == ("stop", "0")

    shim = start_shim(vmm=["sleep", "1000"])
    shim.control("STATUS")
    shim.process.send_signal(signal.SIGTERM)
    shim.wait_state("stopping")
    shim.process.send_signal(signal.SIGTERM)
    assert shim.wait() == 0
    assert (shim.record()["reason"], shim.record()["status"]) == ("stop", "137")


def test_the_lifeline_ends_the_vm(start_shim: StartShim) -> None:
    ours, theirs = os.pipe()
    shim = start_shim("--lifeline", stdin=ours)
    os.close(ours)
    shim.wait_state("ready")
    vmm = int(shim.status()["vmm"])
    os.write(theirs, b"what is written there means nothing")
    assert shim.status()["state"] == "ready"
    os.close(theirs)
    assert shim.wait() == 0
    assert shim.record()["reason"] == "lifeline"
    wait_gone(vmm)


def test_a_lifeline_must_be_one(start_shim: StartShim) -> None:
    shim = start_shim("--lifeline")
    assert shim.wait() == 2
    assert "--lifeline needs a pipe" in shim.path("shim.err").read_text()


def test_a_guest_that_ends_by_itself(chain: Shim) -> None:
    session = chain.session()
    session.send(exec_message(sh("kill -TERM $PPID; sleep 1000")))
    assert session.finish().exit is None
    assert chain.wait() == 0
    assert chain.record() | {"at": ""} == {"reason": "poweroff", "status": "0", "ready": "1", "at": ""}


@pytest.mark.parametrize(
    ("vmm", "end", "code", "log"),
    [
        (["/no/such/vmm"], ("vmm-failed", "127"), 1, "cannot run /no/such/vmm: No such file"),
        (["/etc/passwd"], ("vmm-failed", "127"), 1, "Permission denied"),
        (sh("echo no such option >&2; exit 3"), ("vmm-failed", "3"), 1, "no such option\n"),
        (sh("kill -SEGV $$"), ("vmm-failed", "139"), 1, ""),
        (["true"], ("poweroff", "0"), 0, ""),
    ],
)
def test_a_vmm_that_ends_at_once(
    start_shim: StartShim, vmm: list[str], end: tuple[str, str], code: int, log: str
) -> None:
    shim = start_shim(vmm=vmm)
    assert shim.wait() == code
    record = shim.record()
    assert (record["reason"], record["status"], record["ready"]) == (*end, "0")
    assert log in shim.path("vmm.log").read_text()


def test_nothing_of_the_vmm_outlives_a_killed_shim(chain: Shim) -> None:
    vmm = int(chain.status()["vmm"])
    chain.process.kill()
    chain.wait()
    wait_gone(vmm)


def test_the_console_is_kept_within_its_bounds(start_shim: StartShim) -> None:
    shim = start_shim("--console-max", "10000", vmm=sh("seq 100000; seq 30000 >&2"))
    assert shim.wait() == 0
    newest, older = shim.path("console.log"), shim.path("console.log.1")
    text = older.read_bytes() + newest.read_bytes()
    assert older.stat().st_size == 10000
    assert newest.stat().st_size <= 10000
    assert text.endswith(b"99999\n100000\n")
    assert text.split(b"\n")[1:-1] == [b"%d" % n for n in range(100001 - text.count(b"\n") + 1, 100001)]
    log = shim.path("vmm.log")
    assert 32768 <= log.stat().st_size <= 65536
    assert log.read_bytes().endswith(b"29999\n30000\n")


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


def test_reboot_needs_a_guest_that_answers(start_shim: StartShim) -> None:
    shim = start_shim(vmm=["sleep", "1000"])
    assert shim.control("REBOOT").startswith("ERR ")
    assert shim.control("CLOCK").startswith("ERR ")
    shim.control("KILL")
    shim.wait()


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


def test_a_client_that_waits_is_told_of_the_end(start_shim: StartShim) -> None:
    shim = start_shim(vmm=["sleep", "1000"])
    with shim.wait_socket("guest.sock") as sock:
        sock.sendall(b"CONNECT 1\n")
        shim.control("KILL")
        assert read_line(sock) == "ERR the machine has ended\n"
    assert shim.wait() == 0


def test_output_on_its_way_to_a_client_survives_the_vms_end(chain: Shim) -> None:
    vmm = int(chain.status()["vmm"])
    session = chain.session()
    session.send(exec_message(["head", "-c", "250000", "/dev/zero"]))
    while chain.status()["sessions"] != "0":  # the guest has sent its last word; nothing was read yet
        time.sleep(0.01)
    assert chain.control("KILL") == "OK\n"
    wait_gone(vmm)
    result = session.finish()
    session.close()
    assert (bytes(result.stdout), result.exit) == (bytes(250000), (0, 0))
    assert chain.wait() == 0


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


@pytest.mark.parametrize("refuse", [0, 5])
def test_a_guest_behind_a_vsock(firecracker: Callable[[int], Shim], refuse: int) -> None:
    shim = firecracker(refuse)
    data = random.Random(3).randbytes(1 << 20)
    assert shim.run("cat", stdin=data).stdout == data
    assert shim.control("STOP 10") == "OK\n"
    assert shim.wait() == 0
    assert (shim.record()["reason"], shim.record()["status"]) == ("stop", "0")
