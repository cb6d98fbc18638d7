"""`vm cp` with a real guest: its own tar on the other side, and one that lies."""

import hashlib
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.guest.machine import ALICE, Machine, User


@pytest.fixture(scope="module")
def box(machine: Machine) -> Iterator[str]:
    alice = machine.user(ALICE)
    alice.ok("vm", "create", "--name", "box")
    alice.ok("vm", "start", "box")
    yield "box"
    alice.ok("vm", "delete", "box")


LIST = (
    r"find . -mindepth 1 -printf '%P %y %m %T@ %l %U\n' | sort; find . -type f -exec sha256sum '{}' + | sort"
)


@pytest.fixture
def tree(alice: User) -> Iterator[str]:
    script = r"""set -e; rm -rf ~/tree ~/back; mkdir -p ~/tree/sub/empty; cd ~/tree
head -c 3M /dev/urandom >data; chmod 640 data; ln -s sub link; ln -s nowhere sub/dangling
printf x >"$(printf 'odd\nn\303\244me \377')"; printf '#!/bin/sh\n' >run; chmod 755 run
touch -d '2020-02-02 02:02:02.123456789' run data sub/empty"""
    done = alice.run("sh", "-c", script)
    assert done.status == 0, done
    yield f"{alice.home}/tree"
    alice.run("sh", "-c", "rm -rf ~/tree ~/back")


def facts(text: str, owner: str) -> list[str]:
    """A listing without the owner, which must be `owner`."""
    lines = [line.rstrip() for line in text.splitlines()]
    entries = [line for line in lines if len(line.split()) > 4 and line.split()[-1].isdecimal()]
    assert {line.split()[-1] for line in entries} == {owner}
    return [line.rsplit(" ", 1)[0] if line in entries else line for line in lines]


def test_a_tree_there_and_back(alice: User, box: str, tree: str) -> None:
    """Modes, times to the nanosecond, links and names are kept; the owner is root there, and the user here."""
    uid = alice.run("id", "-u").out.strip()
    alice.ok("vm", "cp", tree, f"{box}:")
    there = alice.ok("vm", "exec", box, "--workdir", "/root/tree", "--", "sh", "-c", LIST)
    here = alice.run("sh", "-c", f"cd {tree}; {LIST}").out
    assert facts(there, "0") == facts(here, uid)
    alice.ok("vm", "cp", f"{box}:tree", f"{alice.home}/back")
    assert alice.run("sh", "-c", f"cd ~/back; {LIST}").out == here


def test_a_stream_of_the_guests_tar(alice: User, box: str) -> None:
    """As it comes: the guest's own sums of it are the same."""
    alice.ok("vm", "exec", box, "--", "sh", "-c", "mkdir -p /srv/s; seq 500000 >/srv/s/numbers")
    script = f"banger vm cp {box}:/srv/s - | tar -xO s/numbers | sha256sum"
    numbers = "".join(f"{number}\n" for number in range(1, 500001)).encode()
    assert alice.run("sh", "-c", script).out.split()[0] == hashlib.sha256(numbers).hexdigest()
    script = f"cd ~; echo in >in; tar -c in | banger vm cp - {box}:/srv/s; rm in"
    assert alice.run("sh", "-c", script).status == 0
    assert alice.ok("vm", "exec", box, "--", "sh", "-c", "cat /srv/s/in; stat -c %u /srv/s/in") == "in\n0\n"


LIES = {
    "a name that leads out": "tar -c -P -f - ../../etc/hostname",
    "an absolute name": "tar -c -P -f - /etc/hostname",
    "a link that leads out": "ln -s /etc out; tar -c -f - out",
    "a device": "mknod null c 1 3; tar -c -f - null",
    "a link and a file through it": "ln -s /tmp l; tar -c -f a l; rm l; mkdir l; touch l/x; tar -r -f a l/x; cat a",
    "more than announced": "head -c 100M /dev/zero >z; tar -c -f - z",
    "no end": "tar -c -f - . | head -c 700",
    "no tar": "cat /dev/urandom",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_guest_whose_tar_lies(alice: User, box: str, lie: str) -> None:
    """Nothing is there afterwards, and what was there is as before."""
    fake = f"""#!/bin/sh
case $1 in -c) ;; *) exec /usr/bin/tar "$@";; esac
PATH=/usr/bin:/bin; cd "$(mktemp -d)"; {LIES[lie]}
"""
    script = "mkdir -p /srv/d; cat >/usr/local/bin/tar; chmod 755 /usr/local/bin/tar"
    alice.ok("vm", "exec", box, "--", "sh", "-c", script, stdin=fake.encode())
    try:
        alice.run("sh", "-c", "mkdir -p ~/into; echo mine >~/into/mine")
        done = alice.banger("vm", "cp", f"{box}:/srv/d", f"{alice.home}/into")
        assert done.status == 1, done
        assert "what the guest sent is not taken" in done.err
        assert alice.run("sh", "-c", "cd ~/into; find . | sort; cat mine").out == ".\n./mine\nmine\n"
    finally:
        alice.ok("vm", "exec", box, "--", "rm", "-f", "/usr/local/bin/tar")


def test_no_room_in_the_guest(alice: User, box: str) -> None:
    """Tar's own words are told."""
    alice.ok(
        "vm",
        "exec",
        box,
        "--",
        "sh",
        "-c",
        "mkdir -p /mnt/small; mount -t tmpfs -o size=1M tmpfs /mnt/small",
    )
    alice.run("sh", "-c", "head -c 3M /dev/zero >~/three")
    done = alice.banger("vm", "cp", f"{alice.home}/three", f"{box}:/mnt/small")
    assert done.status == 1
    assert re.search(r"tar: three: (Cannot write: No space left on device|Wrote only \d+ of)", done.err), (
        done
    )


def test_a_file_that_the_user_may_not_read(alice: User, box: str, tree: str) -> None:
    """Told before anything is sent."""
    alice.run("sh", "-c", f"chmod 0 {tree}/data")
    done = alice.banger("vm", "cp", tree, f"{box}:/srv/unread")
    assert done.status == 1
    assert f"cannot read {tree}/data: Permission denied" in done.err
    assert alice.banger("vm", "exec", box, "--", "test", "-e", "/srv/unread").status == 1


def test_ctrl_c_leaves_nothing_here(alice: User, box: str) -> None:
    alice.ok("vm", "exec", box, "--", "sh", "-c", "mkdir -p /srv/l; truncate -s 400M /srv/l/large")
    alice.run("sh", "-c", "rm -rf ~/into; mkdir ~/into")
    client = alice.popen("banger", "vm", "cp", f"{box}:/srv/l", f"{alice.home}/into", stderr=subprocess.PIPE)
    try:
        while not list((alice.home / "into").rglob("large")):
            assert client.poll() is None
        client.send_signal(signal.SIGINT)
        _, err = client.communicate(timeout=30)
    finally:
        client.kill()
        client.wait()
    assert client.returncode == 128 + signal.SIGINT, err
    assert b"ended by SIGINT" in err
    assert list((alice.home / "into").iterdir()) == []
