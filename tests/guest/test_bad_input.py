"""Wrong requests: each a precise sentence with the next step; nothing is created, nothing is left."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.guest.machine import ALICE, Machine, User
from tests.patience import patience, until


@pytest.mark.parametrize(
    "name", ["Web", "-web", "web-", "w_eb", "a.b", "x" * 64, "../etc", "web\n", "wéb", "a b"]
)
def test_names_that_are_no_dns_labels(alice: User, name: str) -> None:
    done = alice.banger("vm", "create", f"--name={name}")
    assert done.status in (1, 2), done
    assert "1 to 63 of a-z, 0-9 and '-'" in done.err, done
    assert "\n\n" not in done.err
    assert alice.json("vm", "list") == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--memory", "1K"), "MiB"),
        (("--memory", "900T"), "memory"),
        (("--memory", "-1"), "memory"),
        (("--vcpu", "0"), "vCPU"),
        (("--vcpu", "100000"), "vCPU"),
        (("--disk", "1"), "disk"),
        (("--disk", "900T"), "disk"),
        (("--disk", "lots"), "size"),
        (("--image", "no-such-image"), "no-such-image"),
        (("--image", "../../etc/passwd"), "image"),
        (("--kernel", "no-such-kernel"), "no-such-kernel"),
    ],
)
def test_impossible_specs(alice: User, options: tuple[str, ...], says: str) -> None:
    done = alice.banger("vm", "create", "--name", "odd", *options)
    assert done.status in (1, 2), done
    assert says.lower() in done.err.lower(), done
    assert "Traceback" not in done.err
    assert alice.json("vm", "list") == []


def test_the_service_itself_refuses_what_the_client_would(alice: User) -> None:
    """The client's checks are a courtesy: the same requests by D-Bus alone meet the same refusals."""
    for options, says in (
        (["1", "memory", "t", str(900 << 40)], "memory"),
        (["1", "vcpu", "u", "0"], "vCPU"),
        (["1", "disk", "t", "1"], "disk"),
        (["1", "image", "s", "no-such-image"], "no image named 'no-such-image'"),
        (["1", "colour", "s", "red"], "colour"),
    ):
        done = alice.run(
            "busctl", "call", "com.thaloco.Banger1", "/com/thaloco/Banger1", "com.thaloco.Banger1.Manager",
            "CreateVM", "sa{sv}", "odd", *options,
        )  # fmt: skip
        assert done.status == 1, done
        assert says.lower() in done.err.lower(), done
    assert alice.json("vm", "list") == []


def test_same_name_twice(alice: User) -> None:
    alice.ok("vm", "create", "--name", "twin")
    done = alice.banger("vm", "create", "--name", "twin")
    alice.ok("vm", "delete", "twin")
    assert done.status == 1, done
    assert "a VM named 'twin' exists already" in done.err


def test_unknown_vm(alice: User) -> None:
    for verb in ("start", "stop", "kill", "delete", "show", "logs"):
        done = alice.banger("vm", verb, "ghost")
        assert done.status == 1, done
        assert "no VM named 'ghost'" in done.err, done
    assert alice.banger("vm", "exec", "ghost", "--", "true").status == 125


def test_command_lines_that_no_guest_can_run(alice: User) -> None:
    """An argument list over the protocol's limit is refused before a VM is made."""
    big = "x" * 100_000  # the kernel takes 128 KiB an argument, and some MiB in all
    done = alice.banger("vm", "run", "--rm", "--", "echo", *[big] * 12)
    assert done.status in (125, 2), done
    assert "1 MiB" in done.err or "too long" in done.err or "too large" in done.err, done
    assert alice.json("vm", "list") == []


def test_image_that_is_no_squashfs(machine: Machine, alice: User) -> None:
    """A VM on a damaged image fails with a reason, not with silence."""
    folder = machine.state / "images" / ("0" * 12)
    folder.mkdir()
    try:
        (folder / "rootfs.squashfs").write_bytes(os.urandom(1 << 20))
        original = next(path for path in machine.state.glob("images/*/manifest.json"))
        manifest = json.loads(original.read_text()) | {"id": "0" * 12, "name": "noise", "size": 1 << 20}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        done = alice.banger("vm", "run", "--rm", "--image", "noise", "--", "true", timeout_s=200)
        assert done.status == 125, done
        assert "noise" in done.err or "squashfs" in done.err or "guest" in done.err.lower(), done
        assert alice.json("vm", "list") == []
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_terminal_escapes_in_a_guests_log(alice: User) -> None:
    """What a guest writes to its console cannot drive the terminal of who reads the log."""
    alice.ok("vm", "create", "--name", "loud")
    alice.ok("vm", "start", "loud")
    try:
        alice.ok(
            "vm",
            "exec",
            "loud",
            "--",
            "sh",
            "-c",
            r"printf '\033]0;owned\007\033[2Jescape-mark\n' > /dev/console",
        )
        log = alice.ok("vm", "logs", "loud")
    finally:
        alice.ok("vm", "delete", "loud")
    assert "escape-mark" in log
    assert "\x1b" not in log
    assert "\x07" not in log


def test_second_bangerd(machine: Machine, alice: User) -> None:
    """It ends at once, says why, and disturbs nothing."""
    layout = machine.layout
    done = subprocess.run(
        [*layout.within, *layout.service_argv],
        env=machine.host.env,
        capture_output=True,
        text=True,
        timeout=patience(30),
        check=False,
    )
    assert done.returncode == 1, done
    assert "another bangerd" in done.stderr
    assert alice.json("vm", "list") == []


def test_client_that_leaves_during_a_job(alice: User) -> None:
    """`vm start` without --rm: the client goes, the VM still comes up."""
    alice.ok("vm", "create", "--name", "orphan")
    client = alice.popen("banger", "vm", "start", "orphan")
    until(lambda: alice.state("orphan") != "created", "the client has called")
    client.kill()
    client.wait()
    try:
        until(lambda: alice.state("orphan") != "starting", "the VM has started", 200)
        assert alice.ok("vm", "exec", "orphan", "--", "echo", "up") == "up\n"
    finally:
        alice.ok("vm", "delete", "orphan")


def test_full_disk(library: Path, cache: Path) -> None:
    """A VM whose disk cannot be made for lack of room: said, and nothing is left."""
    folder = cache / f"small-{os.getpid()}"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", folder], check=True)
    try:
        machine = Machine(f"bgs{os.getpid()}", folder, library)
        try:
            machine.start()
            alice = machine.user(ALICE)
            assert alice.json("vm", "list") == []
            subprocess.run(
                ["dd", "if=/dev/zero", f"of={folder}/ballast", "bs=1M"], check=False, capture_output=True
            )
            done = alice.banger("vm", "run", "--rm", "--disk", "256M", "--", "true")
            assert done.status == 125, done
            assert any(word in done.err for word in ("room", "space", "disk full")), done
            (folder / "ballast").unlink()
            assert alice.json("vm", "list") == []
            assert machine.traces() == []
        finally:
            machine.close()
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()
