"""file_sync of the user's config, into a real guest: one VM for all of it."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.machine import User

NAME = "files"
CONFIG = """
[vm_defaults]
memory_mib = 640

[[file_sync]]
host = "~/.aws"
guest = "~/.aws"

[[file_sync]]
host = "~/bin/my-script"
guest = "/root/bin/my-script"
mode = "0755"

[[file_sync]]
host = "~/.ssh"
guest = "~/.ssh"

[[file_sync]]
host = "~/not-here"
guest = "~/not-here"
"""
LABEL = f"""
from banger.service import Service
service = Service()
service.set_labels(service.find_vm("{NAME}"), {{"banger.file-sync": "pending"}})
"""


@pytest.fixture
def home(alice: User) -> Iterator[Path]:
    """Alice's home with files to send; afterwards as it was."""
    made = {
        ".aws/credentials": b"key\n",
        ".aws/sso/cache/token": os.urandom(300_000),
        "bin/my-script": b"#!/bin/sh\necho it runs\n",
        ".ssh/id_ed25519": b"private\n",
        ".ssh/authorized_keys": b"not for guests\n",
    }
    for name, content in made.items():
        file = alice.home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (alice.home / ".aws/link").symlink_to("/etc/passwd")
    os.mkfifo(alice.home / ".aws/pipe")
    configure(alice, CONFIG)
    for path in alice.home.rglob("*"):
        os.chown(path, alice.home.stat().st_uid, -1, follow_symlinks=False)
    yield alice.home
    for name in (".aws", "bin", ".ssh", ".config"):
        shutil.rmtree(alice.home / name)


def configure(alice: User, text: str) -> None:
    file = alice.home / ".config/banger/config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def guest(alice: User, script: str) -> str:
    return alice.ok("vm", "exec", NAME, "--", "sh", "-c", script)


def pending(alice: User) -> bool:
    return "file sync" in alice.ok("vm", "show", NAME)


def test_files_get_there_when_the_vm_is_first_up(alice: User, home: Path) -> None:
    created = alice.banger("vm", "create", "--name", NAME)
    assert created.status == 0, created
    assert "640 MiB memory (your config)" in created.err
    try:
        assert pending(alice)
        started = alice.banger("vm", "start", NAME)
        assert started.status == 0, started
        assert [
            line.removeprefix(f"{home}/") for line in started.err.splitlines() if "left out" in line
        ] == [
            ".aws/link is left out: it is a symbolic link, and could lead out of the folder",
            ".aws/pipe is left out: it is neither a file nor a folder",
            ".ssh/authorized_keys is left out: banger keeps the guest's authorized_keys itself",
            "not-here is left out: there is no such file",
        ]
        assert not pending(alice)
        _as_sent(alice, home)
        _only_once(alice, home)
        _told_without_tar(alice)
        _told_without_room(alice, home)
    finally:
        alice.ok("vm", "delete", NAME)


def _as_sent(alice: User, home: Path) -> None:
    found = guest(
        alice,
        "cd /root; find .aws bin .ssh ! -name authorized_keys -printf '%p %m %u:%g %y\\n' | LC_ALL=C sort",
    )
    assert found.splitlines() == [
        ".aws 700 root:root d",
        ".aws/credentials 600 root:root f",
        ".aws/sso 700 root:root d",
        ".aws/sso/cache 700 root:root d",
        ".aws/sso/cache/token 600 root:root f",
        ".ssh 700 root:root d",
        ".ssh/id_ed25519 600 root:root f",
        "bin 700 root:root d",
        "bin/my-script 755 root:root f",
    ]
    assert guest(alice, "bin/my-script") == "it runs\n"
    token = (home / ".aws/sso/cache/token").read_bytes()
    copied = alice.run(
        "banger", "vm", "exec", NAME, "--", "cmp", "-", "/root/.aws/sso/cache/token", stdin=token
    )
    assert copied.status == 0, copied
    assert guest(alice, "stat -c '%a %U' / /root") == "755 root\n700 root\n"


def _only_once(alice: User, home: Path) -> None:
    (home / ".aws/credentials").write_bytes(b"another\n")
    assert alice.banger("vm", "start", NAME).status == 0  # it runs already
    assert guest(alice, "cat .aws/credentials") == "key\n"


def _told_without_tar(alice: User) -> None:
    label(alice)
    guest(alice, "mv /usr/bin/tar /usr/bin/away")
    done = alice.banger("vm", "start", NAME)
    assert done.status == 0, done
    assert f"the files of file_sync did not get into {NAME}: the guest has no sh or tar" in done.err
    assert pending(alice)
    guest(alice, "mv /usr/bin/away /usr/bin/tar")
    assert alice.banger("vm", "start", NAME).status == 0
    assert not pending(alice)
    assert guest(alice, "cat .aws/credentials") == "another\n"


def _told_without_room(alice: User, home: Path) -> None:
    guest(alice, "mkdir full && mount -t tmpfs -o size=1M none full")
    (home / ".aws/large").write_bytes(bytes(3_000_000))
    (home / ".aws/large").chmod(0o644)
    configure(alice, '[[file_sync]]\nhost = "~/.aws/large"\nguest = "~/full/large"\n')
    label(alice)
    done = alice.banger("vm", "start", NAME)
    assert done.status == 0, done
    assert f"did not get into {NAME}: there is no room for them in the guest: tar: " in done.err
    assert pending(alice)


def label(alice: User) -> None:
    """As `vm create` does."""
    done = alice.run(sys.executable, "-c", LABEL)
    assert done.status == 0, done
