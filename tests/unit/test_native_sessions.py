"""Sessions, from a client's socket through the shim and the agent to a process and back."""

import os
import random
import signal
import socket
import struct
import threading
import time

import pytest
from tests.unit.native_protocol import (
    ERROR,
    EXEC,
    EXIT,
    SIGNAL,
    STARTED,
    STDIN,
    STDOUT,
    WINSIZE,
    Session,
    Shim,
    exec_message,
    item,
    message,
    wait_gone,
)

MIB = 1 << 20


def test_every_byte_of_64_mib_comes_back(chain: Shim) -> None:
    data = random.Random(1).randbytes(64 * MIB)
    result = chain.run("cat", stdin=data)
    assert result.stdout == data
    assert result.exit == (0, 0)


def test_streams_are_apart_and_the_status_is_exact(chain: Shim) -> None:
    result = chain.run("sh", "-c", "cat; echo oops >&2; exit 7", stdin=b"in\0put")
    assert (bytes(result.stdout), bytes(result.stderr), result.exit) == (b"in\0put", b"oops\n", (0, 7))


@pytest.mark.parametrize("status", [0, 1, 125, 126, 127, 255])
def test_every_status_is_the_commands_own(chain: Shim, status: int) -> None:
    assert chain.run("sh", "-c", f"exit {status}").exit == (0, status)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_killed_command_says_by_which_signal(chain: Shim, number: signal.Signals) -> None:
    assert chain.run("sh", "-c", f"kill -{int(number)} $$").exit == (1, int(number))


def test_a_signal_reaches_the_whole_group(chain: Shim) -> None:
    session = chain.session()
    session.send(exec_message(["sh", "-c", "sleep 1000 & echo up; wait"]))
    session.read_until(b"up\n")
    session.send(message(SIGNAL, struct.pack("<I", signal.SIGTERM)))
    assert session.finish().exit == (1, signal.SIGTERM)
    session.close()


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["no-such-program"], 127, "not found in PATH"),
        (["/no/such/program"], 127, "No such file"),
        (["/etc/passwd"], 126, "Permission denied"),
        (["/etc"], 126, "Permission denied"),
        ([""], 127, "not found"),
    ],
)
def test_what_cannot_be_run_has_a_code_and_a_reason(
    chain: Shim, argv: list[str], code: int, words: str
) -> None:
    result = chain.run(*argv)
    assert result.error is not None
    assert result.error[0] == code
    assert words in result.error[1]
    assert result.pid is None


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "no command"),
        (item(1, b"a\0b"), "NUL"),
        (item(1, b"true") + item(2, b"NOVALUE"), "NAME=value"),
        (item(1, b"true") + item(2, b"A=b\0c"), "NUL"),
        (item(1, b"true") + item(3, b"relative"), "working folder"),
        (item(1, b"true") + item(3, b"/no/such/folder"), "/no/such/folder: No such file"),
        (item(1, b"true") + item(4, b"nosuchuser"), "no user nosuchuser"),
        (item(1, b"true") + item(4, b"root:nosuchgroup"), "no user"),
        (item(1, b"true") + item(4, b"root") + item(4, b"root"), "twice"),
        (item(1, b"true") + item(5, b"123"), "terminal"),
        (item(1, b"true") + item(6, b""), "login shell"),
        (item(1, b"true") + item(99, b""), "unknown"),
        (item(1, b"true") + b"\x01", "cut off"),
        (item(1, b"true") + struct.pack("<HI", 1, 4000) + b"x", "cut off"),
    ],
)
def test_a_senseless_exec_is_refused_with_a_reason(chain: Shim, payload: bytes, words: str) -> None:
    session = chain.session()
    result = session.run(message(EXEC, payload))
    session.close()
    assert result.error is not None
    assert result.error[0] == 125
    assert words in result.error[1]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (struct.pack("<II", EXEC, MIB + 1) + bytes(MIB + 1), "longer than 1 MiB"),
        (struct.pack("<II", EXEC, 0xFFFFFFFF) + bytes(10 * MIB), "longer than 1 MiB"),
        (message(STDIN, b"x"), "EXEC comes first"),
        (exec_message(["sleep", "1000"]) * 2, "EXEC comes first"),
        (exec_message(["sleep", "1000"]) + message(STDIN, b"x" * 65536), "credited"),
        (exec_message(["sleep", "1000"]) + struct.pack("<II", STDIN, 65537) + bytes(65537), "64 KiB"),
        (message(77), "unknown type"),
        (b"\x01\x00\x00\x01" + bytes(4), "reserved"),
        (struct.pack("<II", WINSIZE, 5) + bytes(5), "4 bytes"),
    ],
)
def test_a_broken_client_is_told_and_its_command_ended(chain: Shim, data: bytes, words: str) -> None:
    session = chain.session()
    result = session.run(data)
    session.close()
    assert result.error is not None
    assert result.error[0] == 125
    assert words in result.error[1]
    assert chain.run("echo", "fine").stdout == b"fine\n"


def test_an_exec_of_nearly_1_mib_arrives(chain: Shim) -> None:
    arguments = [f"{n:07}" + "x" * 993 for n in range(1000)]
    result = chain.run("sh", "-c", 'echo $#; printf %s "$@" | md5sum', "sh", *arguments)
    assert result.stdout.startswith(b"1000\n")
    assert result.exit == (0, 0)


def test_environment_folder_and_user(chain: Shim) -> None:
    result = chain.run("sh", "-c", 'echo "$A|$HOME|$USER|$LOGNAME|$PWD|$(id -un):$(id -gn)"', env=["A=b c"])
    assert result.stdout == b"b c|/root|root|root|/root|root:root\n"
    result = chain.run("sh", "-c", 'echo "$USER|$PATH|$PWD|$(id -u):$(id -g)"', user="nobody", cwd="/tmp")
    assert result.stdout == (
        b"nobody|/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin|/tmp|65534:65534\n"
    )
    assert chain.run("id", "-u", user="12345").stdout == b"12345\n"
    assert chain.run("sh", "-c", "id -u; id -g", user="12345:54321").stdout == b"12345\n54321\n"
    # The session's own PATH is the one that is searched.
    result = chain.run("true", env=["PATH=/nowhere"])
    assert result.error == (127, "true: not found in PATH")


def test_a_terminal(chain: Shim) -> None:
    session = chain.session()
    session.send(exec_message(["sh", "-c", "tty; stty size; read x; stty size; echo got $x"], tty=(33, 101)))
    session.read_until(b"33 101\r\n")
    session.send(message(WINSIZE, struct.pack("<HH", 7, 44)))
    session.send(message(STDIN, b"line\n"))
    result = session.finish()
    session.close()
    assert result.stdout.startswith(b"/dev/pts/")
    assert result.stdout.endswith(b"line\r\n7 44\r\ngot line\r\n")
    assert result.exit == (0, 0)


def test_ctrl_c_ctrl_d_and_a_signal_in_a_terminal(chain: Shim) -> None:
    session = chain.session()
    script = "trap 'echo int' INT; echo up; read x; echo eof"
    session.send(exec_message(["bash", "-c", script], tty=(24, 80)))
    session.read_until(b"up\r\n")
    session.send(message(STDIN, b"\x03"))
    session.read_until(b"int\r\n")
    session.send(message(SIGNAL, struct.pack("<I", signal.SIGINT)))
    while session.result.stdout.count(b"int\r\n") < 2:
        session.wait_for(STDOUT)
    session.send(message(STDIN))
    assert session.finish().stdout.endswith(b"eof\r\n")
    session.close()


def test_a_login_shell(chain: Shim) -> None:
    session = chain.session()
    session.send(exec_message([], tty=(24, 80), login=True))
    session.wait_for(STARTED)
    session.send(message(STDIN, b'echo "<$0>"; exit 3\n'))
    result = session.finish()
    session.close()
    assert b"<-" in result.stdout
    assert result.exit == (0, 3)


def test_output_of_a_terminal_is_whole_though_its_leader_is_gone(chain: Shim) -> None:
    for _ in range(5):
        result = chain.run("sh", "-c", "seq 20000", tty=(24, 80))
        assert result.stdout.count(b"\r\n") == 20000
        assert result.stdout.endswith(b"\r\n20000\r\n")


def test_a_background_process_does_not_hold_the_session(chain: Shim) -> None:
    started = time.monotonic()
    result = chain.run("sh", "-c", "sleep 60 & echo $!")
    assert time.monotonic() - started < 30
    assert result.exit == (0, 0)
    os.kill(int(result.stdout), signal.SIGKILL)


def test_all_that_was_written_by_the_leaders_end_is_sent(chain: Shim) -> None:
    # A full pipe, and a survivor that goes on writing to it for ever.
    script = "head -c 60000 /dev/zero; (trap '' PIPE; while :; do echo x || exit; done) & exit 0"
    result = chain.run("bash", "-c", script)
    assert result.stdout.startswith(bytes(60000))
    assert result.exit == (0, 0)


def test_fifty_sessions_at_once(chain: Shim) -> None:
    sessions = [chain.session() for _ in range(50)]
    assert chain.status()["sessions"] == "50"
    for number, session in enumerate(sessions):
        session.send(exec_message(["sh", "-c", f"read x; echo {number} $x; exit {number}"]))
    for session in sessions:
        session.wait_for(STARTED)
    for session in reversed(sessions):
        session.send(message(STDIN, b"go\n"))
    for number, session in enumerate(sessions):
        result = session.finish()
        assert bytes(result.stdout) == b"%d go\n" % number
        assert result.exit == (0, number)
        session.close()
    assert chain.status()["sessions"] == "0"


def test_a_client_that_goes_takes_its_command_with_it(chain: Shim) -> None:
    session = chain.session()
    session.send(exec_message(["sleep", "1000"]))
    pid = struct.unpack("<I", session.wait_for(STARTED))[0]
    session.close()
    wait_gone(pid)


def test_a_client_that_goes_gives_its_command_the_chance_to_clean_up(chain: Shim) -> None:
    session = chain.session()
    # bash tells of the sleep that was hung up on a standard error that nobody reads any more, which would end it.
    script = "exec 2>/dev/null; "
    script += f"trap 'echo bye > {chain.folder}/bye; exit' HUP; echo up; while :; do sleep 0.1; done"
    session.send(exec_message(["bash", "-c", script]))
    session.read_until(b"up\n")
    pid = session.result.pid
    session.close()
    assert pid is not None
    wait_gone(pid)
    assert chain.path("bye").read_text() == "bye\n"


def test_a_command_that_ignores_the_hangup_is_killed_after_ten_seconds(chain: Shim) -> None:
    session = chain.session()
    session.send(exec_message(["bash", "-c", "trap '' HUP; echo up; while :; do sleep 0.1; done"]))
    session.read_until(b"up\n")
    pid = session.result.pid
    started = time.monotonic()
    session.close()
    assert pid is not None
    wait_gone(pid, timeout=20)
    assert 9 < time.monotonic() - started < 25


def test_a_client_that_closes_its_sending_half_has_ended_its_input(chain: Shim) -> None:
    session = chain.session()
    session.send(exec_message(["cat"]))
    session.wait_for(STARTED)
    session.send(message(STDIN, b"abc"))
    session.sock.shutdown(socket.SHUT_WR)
    result = session.finish()
    session.close()
    assert (bytes(result.stdout), result.exit) == (b"abc", (0, 0))


def test_input_nobody_reads_does_not_stop_signals(chain: Shim) -> None:
    session = chain.session()
    session.send(exec_message(["sleep", "1000"]))
    session.wait_for(STARTED)
    while session.credit < 65536:
        session.wait_for(21)
    while session.credit >= 65536:
        session.send(message(STDIN, bytes(65536)))
        session.credit -= 65536
    session.send(message(SIGNAL, struct.pack("<I", signal.SIGTERM)))
    assert session.finish().exit == (1, signal.SIGTERM)
    session.close()


def test_input_for_a_command_that_closed_it_is_taken_and_dropped(chain: Shim) -> None:
    result = chain.run("sh", "-c", "exec 0<&-; sleep 0.2; echo done", stdin=bytes(4 * MIB))
    assert (bytes(result.stdout), result.exit) == (b"done\n", (0, 0))


def test_a_client_that_does_not_read_blocks_only_itself(chain: Shim) -> None:
    slow = chain.session()
    slow.send(exec_message(["head", "-c", str(16 * MIB), "/dev/zero"]))
    slow.wait_for(STARTED)
    for _ in range(20):
        assert chain.run("echo", "x").stdout == b"x\n"
    received = sum(len(payload) for kind, payload in slow.messages() if kind == STDOUT)
    assert received == 16 * MIB
    assert slow.result.exit == (0, 0)
    slow.close()


def test_many_readers_and_writers_at_once_lose_nothing(chain: Shim) -> None:
    wrong: list[str] = []

    def work(seed: int) -> None:
        data = random.Random(seed).randbytes(2 * MIB)
        session = chain.session()
        try:
            if session.run(exec_message(["cat"]), data).stdout != data:
                wrong.append(f"session {seed} got something else")
        except (AssertionError, OSError) as exc:
            wrong.append(f"session {seed}: {exc}")
        finally:
            session.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_last_message_is_the_last(chain: Shim) -> None:
    session = chain.session()
    session.send(exec_message(["true"]))
    kinds = [kind for kind, _ in session.messages()]
    session.close()
    assert kinds[0] == STARTED
    assert kinds[-1] == EXIT
    assert ERROR not in kinds


def test_messages_may_arrive_byte_by_byte(chain: Shim) -> None:
    session = chain.session()
    for byte in exec_message(["echo", "slowly"]) + message(STDIN):
        session.send(bytes([byte]))
    assert session.finish().stdout == b"slowly\n"
    session.close()


def test_another_port_is_refused(chain: Shim) -> None:
    sock = chain.wait_socket("guest.sock")
    sock.sendall(b"CONNECT 2\n")
    assert sock.recv(100) == b"ERR the guest program refused\n"
    assert sock.recv(100) == b""


def test_random_bytes_hurt_only_their_own_session(chain: Shim) -> None:
    source = random.Random(7)
    for _ in range(50):
        session: Session = chain.session()
        session.send(source.randbytes(source.randrange(1, 5000)))
        session.close()
    assert chain.run("echo", "fine").stdout == b"fine\n"
