"""banger on a booted Debian machine, installed and used as people do."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.patience import patience
from tests.system.built import OFFLINE, SOURCE
from tests.system.debian_root import REPO
from tests.system.installed import (
    SMALL,
    banger,
    make,
    make_later,
    running,
    show,
    traces,
    unit_of,
    vms_of,
    with_each_vmm,
)
from tests.system.machine import Machine

NET_ADMIN, CHOWN = 1 << 12, 1 << 0
SUMS = "cd /usr/local/lib/banger && sha256sum banger-shim banger-guest"


pytestmark = pytest.mark.usefixtures("nothing_left")


@with_each_vmm
@pytest.mark.lab
def test_a_first_command(installed: Machine) -> None:
    """An ordinary user in no special group, at the machine: no prompt, no sudo, the exact status."""
    assert installed.run("id", "-Gn", user="alice").stdout == "alice\n"
    script = "cat /etc/os-release; uname -r; exit 7"
    status, out, err = banger(installed, "vm", "run", "--rm", *SMALL, "--", "sh", "-c", script, check=False)
    assert status == 7, err + installed.journal()
    assert 'PRETTY_NAME="Debian GNU/Linux 12' in out
    assert re.search(r"^6\.1\.[0-9-]+-cloud-amd64$", out, re.MULTILINE)


def test_manual_pages_and_completion_are_installed(installed: Machine) -> None:
    pages = "man1/banger.1 man1/banger-vm.1 man5/banger.toml.5 man5/com.thaloco.Banger1.5 man8/bangerd.8"
    installed.sh(f"cd /usr/local/share/man; for page in {pages}; do test -s $page || exit 1; done")
    installed.sh("bash -n /usr/local/share/bash-completion/completions/banger")
    installed.sh("test -s /usr/local/share/zsh/site-functions/_banger")
    installed.sh("test -s /usr/share/fish/vendor_completions.d/banger.fish")


@pytest.mark.lab
def test_the_first_call_starts_the_service(installed: Machine) -> None:
    installed.run("systemctl", "stop", "banger.service")
    assert show(installed, "banger.service", "ActiveState") == {"ActiveState": "inactive"}
    installed.run("busctl", "call", "com.thaloco.Banger1", "/com/thaloco/Banger1",
                  "com.thaloco.Banger1.Manager", "Ping", user="bob")  # fmt: skip
    assert show(installed, "banger.service", "ActiveState", "Type") == {
        "ActiveState": "active",
        "Type": "notify",
    }


@with_each_vmm
@pytest.mark.lab
def test_the_console_can_be_read(installed: Machine) -> None:
    """It is a file of the VM's uid, and the service is root without the right to read any file."""
    running(installed, "told")
    assert "banger: kernel " in banger(installed, "vm", "logs", "told")[1]


def test_the_status_line_says_something(installed: Machine) -> None:
    banger(installed, "vm", "create", "--name", "idle", *SMALL)
    running(installed, "busy")
    installed.sh(
        "for i in $(seq 100); do systemctl status banger | grep -q 'Status: \"2 VMs, 1 running\"' && exit 0;"
        " sleep 0.1; done; systemctl status banger; exit 1"
    )


@pytest.mark.lab
def test_another_user_is_refused_and_told_why(installed: Machine) -> None:
    running(installed, "hers")
    for words in (("stop",), ("kill",), ("delete",), ("exec",)):
        after = ("--", "true") if words == ("exec",) else ()
        status, _, err = banger(installed, "vm", *words, "hers", *after, user="bob", check=False)
        assert status == (125 if words == ("exec",) else 1)
        assert "'hers'" in err
        assert "alice" in err
    (vm,) = vms_of(installed, "alice")
    assert vm["state"] == "running"
    assert vms_of(installed, "bob") == []


def test_no_seat_no_vm(installed: Machine) -> None:
    """The defaults are for who sits at the machine; over ssh an admin decides."""
    done = installed.run(
        "banger", "vm", "run", "--rm", "--", "true", user="alice", session="remote", check=False
    )
    assert done.returncode == 125
    assert "not allowed" in done.stderr or "authenticat" in done.stderr, done.stderr
    installed.sh(f"cp {SOURCE}/polkit/examples/50-banger-remote.rules /etc/polkit-1/rules.d/")
    try:
        done = installed.run(
            "banger", "vm", "run", "--rm", *SMALL, "--", "sh", "-c", "exit 3",
            user="alice", session="remote", check=False, timeout=240,
        )  # fmt: skip
        assert done.returncode == 3, done.stderr
    finally:
        installed.sh("rm /etc/polkit-1/rules.d/50-banger-remote.rules")


def test_the_guide_to_the_bus_is_true(installed: Machine) -> None:
    """Every shell block of docs/dbus.md, in order, in one shell of an ordinary user."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (REPO / "docs/dbus.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    script = "set -eu\n" + "\n".join(blocks)
    done = installed.run(
        "bash", "-c", script, user="alice", session="active", cwd="/home/alice", check=False, timeout=240
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{installed.journal()}"
    assert "hello from Linux" in done.stdout


@pytest.mark.lab
def test_a_cache_goes_from_one_vm_to_the_next(installed: Machine) -> None:
    """Also of another user's name: under the uid of each VM in turn, and root's in between."""
    run = ("vm", "run", "--rm", *SMALL, "--cache", "go:/srv/go", "--", "sh", "-c")
    stat = "stat -c '%u %a' /var/lib/banger/cache/*-go/disk.ext4"
    banger(installed, *run, "echo hers >/srv/go/file")
    assert installed.sh(stat) == "0 600\n"
    assert banger(installed, *run, "ls -A /srv/go", user="bob")[1] == "lost+found\n"
    with installed.spawn(
        "banger", *run, "cat /srv/go/file; read -r line", user="alice", session="active"
    ) as one:
        assert one.stdin
        assert one.stdout
        assert one.stdout.readline() == b"hers\n"
        (vm,) = vms_of(installed, "alice")
        uid = show(installed, unit_of(installed, vm["name"]), "UID")["UID"]
        assert sorted(installed.sh(stat).splitlines()) == sorted(["0 600", f"{uid} 600"])
        one.stdin.close()
        one.wait(patience(60))
    for user in ("alice", "bob"):
        assert banger(installed, "cache", "delete", "go", user=user)[0] == 0
    assert installed.sh("ls -A /var/lib/banger/cache") == ""


@contextmanager
def echo_session(machine: Machine, vm: str) -> Iterator[Callable[[str], None]]:
    """A session with a guest; what it gives has a line go there and back. Its exact status comes at the end."""
    script = "while read -r line; do echo got $line; done; exit 5"
    words = ("banger", "vm", "exec", vm, "--", "sh", "-c", script)
    with machine.spawn(*words, user="alice", session="active") as session:
        assert session.stdin
        assert session.stdout
        stdin, stdout = session.stdin, session.stdout

        def goes_on(after: str) -> None:
            stdin.write(f"{after}\n".encode())
            stdin.flush()
            assert stdout.readline() == f"got {after}\n".encode()

        goes_on("nothing")
        yield goes_on
        stdin.close()
        assert session.wait(patience(60)) == 5


def still_obeys(machine: Machine, name: str) -> None:
    """The service as it is now has found the VM again: its guest, and the socket that its VMM is told things over."""
    assert banger(machine, "vm", "exec", name, "--", "sh", "-c", "exit 4", check=False)[0] == 4
    shown = json.loads(banger(machine, "vm", "show", name, "--json")[1])
    deeds = (("pause", "paused"), ("resume", "running"))
    for deed, state in deeds if "pause" in shown["capabilities"] else ():
        banger(machine, "vm", deed, name)
        (vm,) = vms_of(machine, "alice")
        assert (vm["name"], vm["state"]) == (name, state)
    assert banger(machine, "vm", "exec", name, "--", "echo", "awake")[1] == "awake\n"


@with_each_vmm
@pytest.mark.lab
def test_guests_outlive_the_service(installed: Machine) -> None:
    """A session with a guest goes on while the service is restarted, and while it is killed."""
    running(installed, "web")
    unit = unit_of(installed, "web")
    before = show(installed, unit, "MainPID", "ActiveEnterTimestampMonotonic")
    with echo_session(installed, "web") as goes_on:
        for deed in ("systemctl restart banger", "systemctl kill -s KILL banger"):
            installed.sh(deed)
            goes_on(deed)
    assert show(installed, unit, "MainPID", "ActiveEnterTimestampMonotonic") == before
    still_obeys(installed, "web")


@with_each_vmm
@pytest.mark.lab
def test_a_run_in_the_foreground_outlives_the_service(installed: Machine) -> None:
    """`vm run --rm` notices nothing, gives the exact status, and its VM goes although another service started it."""
    words = (
        "banger",
        "vm",
        "run",
        "--rm",
        *SMALL,
        "--",
        "sh",
        "-c",
        "echo up; read -r line; echo $line; exit 6",
    )
    with installed.spawn(*words, user="alice", session="active") as session:
        assert session.stdin
        assert session.stdout
        assert session.stdout.readline() == b"up\n"
        installed.run("systemctl", "restart", "banger.service")
        session.stdin.write(b"again\n")
        session.stdin.close()
        assert session.stdout.read() == b"again\n"
        assert session.wait(patience(60)) == 6
    assert vms_of(installed, "alice") == []


@with_each_vmm
@pytest.mark.lab
def test_an_upgrade_disturbs_nothing(installed: Machine) -> None:
    """To a later version with another shim and another guest program, and back."""
    running(installed, "web")
    unit = unit_of(installed, "web")
    before = show(installed, unit, "MainPID", "ActiveEnterTimestampMonotonic")
    listed = installed.sh("cat /usr/local/lib/banger/manifest")
    programs = installed.sh(SUMS)
    with echo_session(installed, "web") as goes_on:
        service = show(installed, "banger.service", "MainPID")
        make_later(installed)
        goes_on("upgrade")
        assert service_version(installed) == "999.0"
        assert show(installed, "banger.service", "MainPID") != service
        assert len(set(installed.sh(SUMS).splitlines()) - set(programs.splitlines())) == 2
        assert installed.sh("cat /usr/local/lib/banger/manifest") == listed
        still_obeys(installed, "web")
        make(installed, "install")
        goes_on("downgrade")
    assert show(installed, unit, "MainPID", "ActiveEnterTimestampMonotonic") == before
    assert installed.sh(SUMS) == programs
    assert service_version(installed) != "999.0"
    still_obeys(installed, "web")


def service_version(machine: Machine) -> str:
    """Of the service that runs."""
    said = machine.run(
        "busctl", "--json=short", "get-property", "com.thaloco.Banger1", "/com/thaloco/Banger1",
        "com.thaloco.Banger1.Manager", "Version",
    ).stdout  # fmt: skip
    return str(json.loads(said)["data"])


@pytest.mark.lab
def test_uninstalling_keeps_the_data(installed: Machine) -> None:
    listing = r"find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var \) -prune -o -print"
    running(installed, "kept")
    banger(installed, "vm", "exec", "kept", "--", "sh", "-c", "echo precious >/root/file; sync")
    owned = {line.rstrip("/") for line in installed.sh("cat /usr/local/lib/banger/manifest").splitlines()}
    before = set(installed.sh(listing).splitlines())

    said = make(installed, "uninstall")

    assert "Stopping 1 running VM" in said
    assert "/var/lib/banger" in said
    assert traces_but_disks(installed) == []
    gone = before - set(installed.sh(listing).splitlines())
    assert {path for path in gone if not path.startswith("/usr/local/lib/banger/venv/")} == owned & before
    assert owned - before <= {"/usr/local/lib/banger/.installed-from"}  # only the demo makes it
    assert show(installed, "banger.service", "LoadState") == {"LoadState": "not-found"}
    assert installed.sh("ls /var/lib/banger/vm | wc -l") == "1\n"

    make(installed, "install")
    (vm,) = vms_of(installed, "alice")
    assert (vm["name"], vm["state"]) == ("kept", "stopped")
    banger(installed, "vm", "start", "kept")
    assert banger(installed, "vm", "exec", "kept", "--", "cat", "/root/file")[1] == "precious\n"


def traces_but_disks(machine: Machine) -> list[str]:
    disks = machine.sh("ls /var/lib/banger/vm").split()
    return [trace for trace in traces(machine) if trace not in disks]


@pytest.mark.lab
def test_what_the_service_may_do(installed: Machine) -> None:
    installed.run("banger", "version", user="alice")
    pid = show(installed, "banger.service", "MainPID")["MainPID"]
    status = dict(
        line.split(":\t", 1)
        for line in installed.sh(f"cat /proc/{pid}/status").splitlines()
        if ":\t" in line
    )
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[kind], 16) == NET_ADMIN | CHOWN
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    security = installed.run(
        "systemd-analyze", "security", "--no-pager", "--threshold=25", "banger.service", check=False
    )
    assert security.returncode == 0, security.stdout


def test_units_are_sound(installed: Machine) -> None:
    for unit in ("banger.service", "banger.slice"):
        done = installed.run("systemd-analyze", "verify", "--man=no", unit, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.lab
def test_the_journal_has_no_surprises(installed: Machine) -> None:
    """No traceback, no warning of the service's after a VM's whole life."""
    banger(installed, "vm", "run", "--rm", *SMALL, "--", "true")
    assert "Traceback" not in installed.sh("journalctl -q --no-pager -o cat -u banger.service")


def test_the_demo_uses_the_machines_own_bus(installed: Machine) -> None:
    """What the README promises of its first command where systemd runs; here everything is installed already."""
    done = installed.run(f"{SOURCE}/packaging/demo", env=OFFLINE, timeout=300)
    assert 'PRETTY_NAME="Debian GNU/Linux 12' in done.stdout, done.stderr
    done = installed.run(
        f"{SOURCE}/packaging/demo", "--", "sh", "-c", "id -un; exit 9", env=OFFLINE, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (9, "banger-demo\n"), done.stderr
    assert not (installed.root / "etc/polkit-1/rules.d/50-banger-demo.rules").exists()
