"""`vm run` and `vm exec` with a real guest program behind a real shim."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

MIB = 1024 * 1024


def test_a_run_leaves_streams_apart_and_gives_the_status(lab):
    script = "cat; echo err >&2; exit 7"
    done = lab.run("vm", "run", "--rm", "--forward", "none", "--", "sh", "-c", script, stdin=b"in\n")
    assert (done.status, done.out) == (7, b"in\n")
    assert done.err.splitlines()[1:] == ["err"]
    assert lab.members() == ["ResolveSpec", "CreateVM", "Exec", "Delete", "lifeline closed"]
    create = lab.calls()[1]
    assert create["body"] == [
        "",
        {"ephemeral": True, "lifeline": 0, "entrypoint": False, "ssh_keys": lab.ssh_keys},
    ]
    assert create["fds"] == 1


def test_without_rm_the_vm_runs_on(lab):
    lab.set(vms=[{"name": "web", "state": "running", "owner": 0}])
    done = lab.run("vm", "run", "--name", "web", "--", "true")
    assert done.status == 0
    assert "banger vm exec web" in done.err
    assert "Delete" not in lab.members()
    assert lab.run("vm", "run", "-q", "--name", "web", "--", "true").err == ""


def test_a_vm_that_powered_itself_off_is_not_said_to_run(lab):
    lab.set(vms=[{"name": "web", "state": "stopped", "owner": 0}])
    assert "web is stopped: `banger vm start web`" in lab.run("vm", "run", "--name", "web", "--", "true").err


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 1", 1), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)  # fmt: skip
def test_exit_statuses(lab, script, status):
    assert lab.run("vm", "exec", "web", "--", "sh", "-c", script).status == status


def test_what_cannot_be_run(lab):
    done = lab.run("vm", "exec", "web", "--", "no-such-program")
    assert done.status == 127
    assert "no-such-program" in done.err
    done = lab.run("vm", "exec", "web", "--", "/etc/passwd")
    assert done.status == 126
    assert lab.run("vm", "exec", "web", "--json", "--", "/nowhere").error["error"] == "NotFound"


def test_words_after_the_dashes_are_the_guests(lab):
    done = lab.run("vm", "exec", "web", "--", "printf", "%s|", "--json", "--", "-x", "", "a b", "ü")
    assert done.text == "--json|--|-x||a b|ü|"


def test_environment_folder_and_user(lab):
    script = 'echo "$A|$B|$PWD"; id -un'
    env = {"B": "from here"}
    done = lab.run(
        "vm",
        "exec",
        "web",
        "-e",
        "A=x=y",
        "--env",
        "B",
        "--workdir",
        "/usr",
        "--",
        "sh",
        "-c",
        script,
        env=env,
    )
    assert done.text == "x=y|from here|/usr\nroot\n"
    assert lab.run("vm", "exec", "web", "-e", "NOT_HERE", "--", "true").status == 2


def test_a_shell_without_a_terminal_reads_its_commands(lab):
    done = lab.run("vm", "exec", "web", stdin=b"echo one; exit 4\n")
    assert (done.status, done.text.splitlines()[-1]) == (4, "one")


def test_every_byte_both_ways(lab):
    data = bytes(range(256)) * 4096 * 8
    done = lab.run("vm", "exec", "web", "--", "cat", stdin=data, timeout=60)
    assert done.status == 0
    assert done.out == data


@pytest.mark.timeout(120)
def test_a_gigabyte_through_a_pipe_each_way(lab):
    """Without loss, and without keeping more of it than is on the way."""
    client = " ".join(lab.argv("vm", "exec", "web", "--", "cat"))
    script = f"head -c 1G /dev/zero | (ulimit -v 1500000; exec {client}) | sha256sum"
    done = subprocess.run(["sh", "-c", script], env=lab.env, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14", done


def test_stdout_to_a_file_at_its_offset(lab, tmp_path):
    target = tmp_path / "out"
    with target.open("wb") as file:
        file.write(b"first\n")
        file.flush()
        subprocess.run(
            lab.argv("vm", "exec", "web", "--", "echo", "second"), env=lab.env, stdout=file, check=True
        )
        os.write(file.fileno(), b"third\n")
    assert target.read_bytes() == b"first\nsecond\nthird\n"


def test_a_full_disk_is_told(lab):
    with Path("/dev/full").open("wb") as full:
        client = lab.spawn("vm", "exec", "web", "--", "echo", "x", stdout=full)
        _, err = client.communicate(timeout=10)
    assert client.returncode == 125
    assert b"No space left" in err


def test_closed_standard_streams(lab):
    command = "exec <&- >&- 2>&-; exec " + " ".join(
        lab.argv("vm", "exec", "web", "--", "sh", "-c", "'cat; exit 9'")
    )
    assert subprocess.run(["sh", "-c", command], env=lab.env, timeout=20, check=False).returncode == 9


def test_streams_stay_blocking_for_others(lab):
    """O_NONBLOCK on a shared pipe would make the next writer fail."""
    ours, theirs = os.pipe()
    client = subprocess.Popen(
        lab.argv("vm", "exec", "web", "--", "sleep", "0.5"), env=lab.env, stdout=theirs
    )
    time.sleep(0.4)
    assert os.get_blocking(theirs)
    assert client.wait(10) == 0
    os.close(ours)
    os.close(theirs)


def test_a_reader_that_leaves_ends_the_command_as_it_would_here(lab):
    client = lab.spawn("vm", "exec", "web", "--", "yes", stdin=subprocess.DEVNULL)
    assert client.stdout.read(2) == b"y\n"
    client.stdout.close()
    assert client.wait(10) == 128 + signal.SIGPIPE
    client.stderr.close()


def test_a_reader_that_leaves_a_command_that_waits(lab):
    client = lab.spawn(
        "vm", "exec", "web", "--", "sh", "-c", "echo x; exec sleep 60", stdin=subprocess.DEVNULL
    )
    assert client.stdout.read(2) == b"x\n"
    client.stdout.close()
    assert client.wait(10) == 128 + signal.SIGPIPE
    client.stderr.close()


def test_a_reader_that_leaves_a_command_that_ignores_it(lab):
    script = "import signal\nsignal.signal(13, signal.SIG_IGN)\nwhile True: print('y' * 1000)"
    client = lab.spawn("vm", "exec", "web", "--", "python3", "-c", script, stdin=subprocess.DEVNULL)
    client.stdout.read(10)
    client.stdout.close()
    assert client.wait(15) != 0
    client.stderr.close()


def test_a_slow_reader_holds_the_guest_back(lab):
    """Memory stays small while nobody reads, and then nothing is lost."""
    count = 64 * MIB
    client = lab.spawn(
        "vm", "exec", "web", "--", "head", "-c", str(count), "/dev/zero", stdin=subprocess.DEVNULL
    )
    time.sleep(2)
    grown = next(
        line
        for line in Path(f"/proc/{client.pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    assert int(grown.split()[1]) < 60 * 1024
    out, _ = client.communicate(timeout=60)
    assert (client.returncode, len(out)) == (0, count)


def test_a_guest_that_does_not_read_holds_stdin_back(lab):
    client = lab.spawn("vm", "exec", "web", "--", "sh", "-c", "sleep 1; wc -c")
    fed = 0

    def feed() -> None:
        nonlocal fed
        for _ in range(256):
            fed += client.stdin.write(bytes(64 * 1024))
        client.stdin.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    time.sleep(0.8)
    assert fed < 8 * MIB
    feeder.join(30)
    client.stdin = None
    out, _ = client.communicate(timeout=30)
    assert int(out) == fed == 16 * MIB


@pytest.mark.parametrize(
    "signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
)
def test_signals_reach_the_command(lab, signum):
    script = f"trap 'echo got; exit 40' {signum.name[3:]}; echo up; while :; do sleep 0.05; done"
    client = lab.spawn("vm", "exec", "web", "--", "sh", "-c", script)
    assert client.stdout.readline() == b"up\n"
    client.send_signal(signum)
    out, _ = client.communicate(timeout=10)
    assert (client.returncode, out) == (40, b"got\n")


def test_a_command_that_a_signal_ends(lab):
    client = lab.spawn("vm", "run", "--rm", "--", "sh", "-c", "echo up; exec sleep 60")
    assert client.stdout.readline() == b"up\n"
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=10)
    assert client.returncode == 130
    assert lab.members()[-2:] == ["Delete", "lifeline closed"]


def test_insisting_on_ctrl_c_leaves_a_command_that_takes_no_notice(lab):
    client = lab.spawn("vm", "exec", "web", "--", "sh", "-c", "trap '' INT; echo up; sleep 60")
    assert client.stdout.readline() == b"up\n"
    for _ in range(3):
        client.send_signal(signal.SIGINT)
        time.sleep(0.1)
    client.communicate(timeout=10)
    assert client.returncode == 130


def test_killing_the_client_closes_the_lifeline(lab):
    client = lab.spawn("vm", "run", "--rm", "--", "sh", "-c", "echo up; exec sleep 60")
    assert client.stdout.readline() == b"up\n"
    client.kill()
    client.communicate(timeout=10)
    lab.wait_for("lifeline closed")
    assert "Delete" not in lab.members()


def test_a_session_outlives_the_service(mortal):
    client = mortal.spawn("vm", "exec", "web", "--", "sh", "-c", "echo up; read x; echo $x; exit 5")
    assert client.stdout.readline() == b"up\n"
    mortal.end()
    out, _ = client.communicate(b"still\n", timeout=10)
    assert (client.returncode, out) == (5, b"still\n")


def test_a_deletion_that_fails_is_told_and_is_not_the_status(lab):
    lab.set(fail={"Delete": ["VMBusy", "VM 'x' is busy"]})
    done = lab.run("vm", "run", "--rm", "--", "sh", "-c", "exit 3")
    assert done.status == 3
    assert "is busy" in done.err
    lab.set(fail={"Delete": ["NoSuchVM", "no VM named 'x'"]})
    assert "no VM" not in lab.run("vm", "run", "--rm", "--", "true").err
