"""Long work: followed to its end, cancelled by Ctrl-C, and a service that dies in the midst of it."""

import json
import os
import signal
import subprocess
import sys

import pytest

SLOW = {"seconds": 30, "stages": ["disk", "boot"]}


def wait_busy(lab, client):
    """The client follows a job: it has asked for its progress."""
    lab.wait_for("Describe")
    assert client.poll() is None


def test_the_end_of_a_short_job_is_seen_at_once(lab):
    """Its signal leaves before the reply that says which job it is; no polling is waited for."""
    assert lab.run("vm", "stop", "web").status == 0
    assert lab.members() == ["FindVM", "Stop"]


def test_the_end_of_a_longer_job_comes_as_a_signal(lab):
    lab.set(jobs={"Stop": {"seconds": 0.6}}, fail={"Describe": ["Failed", "no"]})
    assert lab.run("vm", "stop", "web").status == 0


def test_an_end_whose_signal_is_lost_is_seen_all_the_same(lab):
    lab.set(mute=True)
    assert lab.run("vm", "stop", "web").status == 0
    assert lab.members() == ["FindVM", "Stop", "Describe"]


def test_a_job_that_fails_says_why(lab):
    lab.set(jobs={"Start": {"error": ["GuestFailed", "the kernel did not boot; see `banger vm logs web`"]}})
    done = lab.run("vm", "start", "web")
    assert (done.status, done.text) == (1, "")
    assert done.err == "banger: cannot start VM 'web': the kernel did not boot; see `banger vm logs web`\n"
    done = lab.run("vm", "start", "web", "--json")
    assert done.error == {
        "error": "GuestFailed",
        "message": "cannot start VM 'web': the kernel did not boot; see `banger vm logs web`",
    }


def test_a_vm_that_does_not_come_up_is_bangers_failure(lab):
    lab.set(jobs={"CreateVM": {"seconds": 0.3, "error": ["GuestFailed", "no answer"]}})
    done = lab.run("vm", "run", "--rm", "--", "true")
    assert done.status == 125
    assert "cannot create the VM: no answer" in done.err
    lab.wait_for("lifeline closed")
    assert "Exec" not in lab.members()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_the_job(lab, signum):
    lab.set(jobs={"CreateVM": SLOW})
    client = lab.spawn("vm", "run", "--rm", "--", "true")
    wait_busy(lab, client)
    client.send_signal(signum)
    out, err = client.communicate(timeout=10)
    assert (client.returncode, out) == (128 + signum, b"")
    assert err.endswith(b"banger: cannot create the VM: cancelled\n")
    assert lab.members()[-2:] == ["Describe", "lifeline closed"]
    assert "Cancel" in lab.members()


def test_ctrl_c_before_the_job_is_known(lab):
    """The signal comes while the call is still under way: the job is cancelled when its path arrives."""
    lab.set(slow={"Stop": 1.0}, jobs={"Stop": SLOW})
    client = lab.spawn("vm", "stop", "web")
    lab.wait_for("Stop")
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=10)
    assert client.returncode == 130
    assert "Cancel" in lab.members()


def test_a_second_ctrl_c_leaves_at_once(lab):
    lab.set(jobs={"Stop": SLOW}, stubborn=True)
    client = lab.spawn("vm", "stop", "web")
    wait_busy(lab, client)
    client.send_signal(signal.SIGINT)
    lab.wait_for("Cancel")
    client.send_signal(signal.SIGINT)
    _, err = client.communicate(timeout=5)
    assert client.returncode == 130
    assert b"still cancelling" in err
    assert b"banger job list" in err


@pytest.mark.parametrize(
    "command", [("vm", "stop", "web"), ("vm", "run", "--rm", "--", "true"), ("image", "pull")]
)
def test_a_service_that_dies_in_the_midst_of_a_job(mortal, command):
    mortal.set(jobs={"Stop": SLOW, "CreateVM": SLOW, "PullImage": SLOW})
    client = mortal.spawn(*command, "--json") if "--" not in command else mortal.spawn(*command)
    mortal.wait_for({"stop": "Stop", "run": "CreateVM", "pull": "PullImage"}[command[1]])
    mortal.end()
    _, err = client.communicate(timeout=5)
    assert client.returncode == (125 if "--" in command else 1)
    assert b"ended in the midst of it" in err
    assert b"systemctl status banger" in err
    if "--json" in command:
        assert json.loads(err)["error"] == "ServiceGone"


def test_a_service_that_dies_during_the_call(mortal):
    mortal.set(die=["Stop"])
    done = mortal.run("vm", "stop", "web")
    assert done.status == 1
    assert "the banger service" in done.err
    assert done.took_s < 3


def test_a_service_that_dies_just_after_the_call(mortal):
    mortal.set(jobs={"Stop": {"seconds": 0.05, "end": "die"}})
    done = mortal.run("vm", "stop", "web")
    assert done.status == 1
    assert "ended in the midst of it" in done.err
    assert done.took_s < 3


def test_a_forged_end_is_not_believed(lab):
    """Any user can send us a signal that looks like the service's."""
    lab.set(jobs={"Stop": {"seconds": 2}})
    client = lab.spawn("vm", "stop", "web")
    wait_busy(lab, client)
    script = (
        "import pydbus\nfrom gi.repository import GLib\ncon = pydbus.SystemBus().con\n"
        "body = GLib.Variant('(os)', ('/com/thaloco/Banger1/job/1', 'done'))\n"
        "con.emit_signal(None, '/com/thaloco/Banger1', 'com.thaloco.Banger1.Manager', 'JobRemoved', body)\n"
        "con.flush_sync(None)\n"
    )
    subprocess.run([sys.executable, "-c", script], env={**lab.env, "PYTHONWARNINGS": ""}, check=True)
    with pytest.raises(subprocess.TimeoutExpired):
        client.wait(0.5)
    client.communicate(timeout=10)
    assert client.returncode == 0


def test_progress_without_a_terminal_is_a_line_for_what_took_long(lab):
    lab.set(jobs={"PullImage": {"seconds": 6, "stages": ["fetch", "pack"]}})
    done = lab.run("image", "pull", "debian")
    lines = done.err.splitlines()
    assert [line.rsplit("  ", 1)[0] for line in lines[:2]] == ["✓ debian: fetch", "✓ debian: pack"]
    assert "\r" not in done.err
    assert "\x1b" not in done.err
    assert lab.run("image", "pull", "debian", "--quiet").err == ""


def test_an_interactive_caller_only_when_that_helps(lab, terminal):
    lab.set(prompt=["Stop"])
    done = lab.run("vm", "stop", "web")
    assert done.status == 1
    assert "needs consent\n  next: run it in a terminal" in done.err
    assert [call["interactive"] for call in lab.calls() if call["member"] == "Stop"] == [False]
    tty = terminal("vm", "stop", "web")
    assert tty.wait() == 0, tty.seen
    assert [call["interactive"] for call in lab.calls() if call["member"] == "Stop"] == [False, False, True]


def test_the_service_is_not_running(mortal):
    mortal.end()
    done = mortal.run("vm", "list")
    assert done.status == 1
    assert done.err.startswith("banger: the banger service is not running\n  next: ")
    assert mortal.run("vm", "run", "--", "true").status == 125
    assert mortal.run("vm", "list", "--json").error["error"] == "ServiceUnknown"


def test_no_bus(lab):
    done = lab.run("vm", "list", env={"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent"})
    assert done.status == 1
    assert "cannot reach the system bus" in done.err


@pytest.mark.parametrize(
    ("code", "status"),
    [("InvalidSpec", 2), ("VMExists", 1), ("HostNotReady", 1), ("AccessDenied", 1), ("SomethingNew", 1)],
)
def test_errors_of_the_service(lab, code, status):
    lab.set(fail={"CreateVM": [code, "this is why; do that"]})
    done = lab.run("vm", "create", "--name", "x", "-q")
    assert (done.status, done.err) == (status, "banger: cannot create VM 'x': this is why; do that\n")
    assert lab.run("vm", "create", "--json").error["error"] == code
    assert lab.run("vm", "run", "--", "true").status == (125 if status == 1 else status)


def test_an_error_of_another_kind(lab):
    lab.set(fail={"FindVM": ["org.freedesktop.DBus.Error.FileNotFound", "hm"]})
    done = lab.run("vm", "stop", "web")
    assert done.status == 1
    assert "hm" in done.err


def test_output_into_a_pipe_nobody_reads(lab):
    lab.set(
        vms=[{"name": f"vm{n}", "state": "running", "owner": os.getuid()} for n in range(3000)], page=5000
    )
    client = lab.spawn("vm", "list", "--json")
    client.stdout.close()
    assert client.wait(10) in (0, 141)
    assert client.stderr.read() == b""
    client.stderr.close()
    client.stdin.close()
