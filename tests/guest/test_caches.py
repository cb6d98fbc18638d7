"""Cache disks with real guests: what one VM leaves the next one finds, however the first one ended."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.guest.machine import ALICE, Machine, User
from tests.patience import until

pytestmark = pytest.mark.needs("dumpe2fs")

GO = "go:/var/cache/go"


@pytest.fixture
def cached(machine: Machine, alice: User) -> Iterator[User]:
    """Alice, whose VMs `holder` and whose caches are gone afterwards."""
    yield alice
    machine.crash_at("")
    alice.banger("vm", "delete", "holder")
    for cache in alice.json("cache", "list"):
        alice.ok("cache", "delete", cache["name"])
    assert list((machine.state / "cache").iterdir()) == []


def disk(machine: Machine, name: str = "go") -> Path:
    (found,) = (machine.state / "cache").glob(f"*-{name}/disk.ext4")
    return found


def at_rest(machine: Machine) -> str:
    """The cache is root's; its features, as its file system has them."""
    seen = disk(machine).stat()
    assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o7777) == (0, 0, 0o600)
    argv = ["dumpe2fs", "-h", str(disk(machine))]
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    (features,) = [line for line in text.splitlines() if line.startswith("Filesystem features:")]
    return features


def the_cache(user: User) -> dict[str, Any]:
    (cache,) = user.json("cache", "list")
    return dict(cache)


def test_what_one_run_leaves_the_next_one_finds(machine: Machine, cached: User) -> None:
    script = "echo one > /var/cache/go/file; df -T /var/cache/go | tail -1"
    shown = cached.ok("vm", "run", "--rm", "-q", "--cache", GO, "--", "sh", "-c", script)
    assert " ext4 " in shown
    assert "needs_recovery" not in at_rest(machine)  # it was unmounted
    cache = the_cache(cached)
    assert (cache["name"], cache["owner_name"], cache["size"], cache["vm"]) == ("go", ALICE, 16 * 2**30, "")
    assert cache["used"] < 64 * 2**20
    assert abs(cache["created_at"] - time.time()) < 600

    # The next one's client is killed in the middle, and its VM with it.
    script = "echo two > /var/cache/go/second; sync; echo written; sleep 600"
    with cached.popen(
        "banger", "vm", "run", "--rm", "-q", "--cache", GO, "--", "sh", "-c", script, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"written\n"
        assert the_cache(cached)["vm"]
        refused = cached.banger("vm", "run", "--rm", "--name", "late", "--cache", GO, "--", "true")
        assert refused.status == 125
        assert "cache 'go' is in use by VM '" in refused.err
        assert "late" not in {vm["name"] for vm in cached.json("vm", "list")}
        client.kill()
    until(lambda: not the_cache(cached)["vm"], "the cache is free")
    assert "needs_recovery" in at_rest(machine)

    script = "cat /srv/else/where/file /srv/else/where/second"
    shown = cached.ok("vm", "run", "--rm", "-q", "--cache", "go:/srv/else/where", "--", "sh", "-c", script)
    assert shown == "one\ntwo\n"
    assert "needs_recovery" not in at_rest(machine)


def test_a_vm_keeps_its_cache_and_its_host_key(machine: Machine, cached: User) -> None:
    cached.ok("vm", "create", "--name", "holder", "--cache", GO)
    assert cached.json("cache", "list") == []  # made when it is needed
    cached.ok("vm", "start", "holder")
    described = cached.json("vm", "show", "holder")
    assert described["caches"] == {"/var/cache/go": "go"}
    assert "/var/cache/go=go" in cached.ok("vm", "show", "holder")
    (line,) = described["host_keys"]
    key = "/etc/ssh/ssh_host_ed25519_key"
    script = f"cat {key}.pub; ssh-keygen -y -f {key}; stat -c '%a %U' {key}"
    told = cached.ok("vm", "exec", "holder", "--", "sh", "-c", script).splitlines()
    assert told[0] == line
    assert told[1].split()[:2] == line.split()
    assert told[2] == "600 root"
    assert "PRIVATE KEY" not in f"{described}{machine.host.log_tail(10_000)}"

    assert the_cache(cached)["vm"] == "holder"
    refused = cached.banger("cache", "delete", "go")
    assert refused.status == 1
    assert "`banger vm stop holder` frees it" in refused.err
    cached.ok("vm", "exec", "holder", "--", "sh", "-c", "echo kept > /var/cache/go/file; sync")
    cached.ok("vm", "kill", "holder")
    assert "needs_recovery" in at_rest(machine)
    cached.ok("vm", "start", "holder")
    assert cached.ok("vm", "exec", "holder", "--", "cat", "/var/cache/go/file") == "kept\n"
    assert cached.json("vm", "show", "holder")["host_keys"] == [line]
    machine.kill_service()
    assert the_cache(cached)["vm"] == "holder"
    cached.ok("vm", "delete", "holder")
    assert "needs_recovery" not in at_rest(machine)
    assert the_cache(cached)["vm"] == ""


def test_a_crash_while_it_changes_hands(machine: Machine, cached: User) -> None:
    cached.ok("vm", "create", "--name", "holder", "--cache", GO)
    for point, verb in (("lend_caches", "start"), ("lend_caches_done", "start"), ("return_caches", "stop"),
                        ("return_caches_done", "stop")):  # fmt: skip
        machine.crash_at(point)
        pid = machine.host.activate()
        done = cached.banger("vm", verb, "holder")
        assert (machine.host.service_pid() != pid, done.status != 0) == (True, True), (point, done)
        machine.crash_at("")
        if point == "lend_caches":
            cached.ok("vm", "kill", "holder")
            at_rest(machine)
            continue
        cached.ok("vm", verb, "holder")  # joins what the new bangerd does by itself
        if verb == "stop":
            at_rest(machine)
            if point == "return_caches":
                cached.ok("vm", "start", "holder")
    cached.ok("vm", "delete", "holder")
    assert the_cache(cached)["vm"] == ""
