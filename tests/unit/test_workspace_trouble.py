"""Workspaces that change, break off or find no room on their way into a guest: told, and nothing half done."""

import errno
import os
import signal
import tempfile
import threading
from pathlib import Path

import pytest
from tests.unit.workspace_guest import Guest, message
from tests.unit.workspace_repos import Repos, send

from banger.errors import Failure
from banger.interrupt import Interrupted
from banger.progress import Progress
from banger.workspace.options import Options
from banger.workspace.plan import plan

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize(
    ("change", "said", "left"),
    [
        (lambda path: path.unlink(), "left out: No such file", None),
        (
            lambda path: path.write_text("longer than before"),
            "it had 4 bytes and has 18",
            "longer than before",
        ),
        (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "left out: Too many levels", None),
        (lambda path: (path.unlink(), os.mkfifo(path)), "no file any more", None),
        (lambda path: (path.unlink(), path.mkdir()), "no file any more", None),
    ],
)
def test_a_file_that_changes_before_its_turn(
    repos: Repos, guest: Guest, change, said: str, left: str | None
):
    """It is never followed when it became a link, and the rest arrives."""
    repo = repos.make({"a": "before", "large": "x" * 2_000_000, "z": "late"})
    guest.after_bytes = (500_000, lambda: change(repo / "z"))
    changed = plan(repo, Options()).send(guest.open_session, Progress("x", quiet=True))
    assert [said in text and text.startswith("z changed meanwhile") for text in changed] == [True], changed
    there = guest.home / "app"
    assert (there / "a").read_text() == "before"
    assert ((there / "z").read_text() if (there / "z").exists() else None) == left


def test_a_large_file_that_shrinks_ends_it(repos: Repos, guest: Guest):
    repo = repos.make({})
    (repo / "large").write_bytes(os.urandom(20_000_000))
    repos.git(repo, "add", "--all")
    guest.after_bytes = (1_000_000, lambda: os.truncate(repo / "large", 2_000_000))
    with pytest.raises(Failure, match="could not be copied to its end: it became shorter"):
        plan(repo, Options()).send(guest.open_session, Progress("x", quiet=True))
    guest.close()
    assert list(guest.home.iterdir()) == []


def test_a_repository_that_is_moved_away(repos: Repos, guest: Guest):
    repo = repos.make({"a": "1"})
    found = plan(repo, Options())
    repo.rename(repos.folder / "elsewhere")
    with pytest.raises(Failure):
        found.send(guest.open_session, Progress("x", quiet=True))
    folder = repos.folder / "plain"
    folder.mkdir()
    found = plan(folder, Options(all_files=True))
    folder.rmdir()
    with pytest.raises(Failure, match="cannot be read any more"):
        found.send(guest.open_session, Progress("x", quiet=True))
    guest.close()
    assert list(guest.home.iterdir()) == []


def test_ctrl_c_while_it_is_copied(repos: Repos, guest: Guest):
    repo = repos.make({})
    (repo / "large").write_bytes(os.urandom(20_000_000))
    repos.git(repo, "add", "--all")
    main = threading.main_thread().ident
    guest.after_bytes = (1_000_000, lambda: signal.pthread_kill(main, signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        send(repo, guest)
    assert caught.value.failure.status == 130
    assert signal.getsignal(signal.SIGINT) == before
    guest.close()
    assert list(guest.home.iterdir()) == []


def _tools(folder: Path, **scripts: str) -> str:
    """A PATH with sh and a few tools, and `scripts` in place of others."""
    folder.mkdir()
    for name in ("sh", "mkdir", "rmdir", "mv", "rm", "find", "head", "cat", "tar"):
        place = folder / name
        if name not in scripts:
            place.symlink_to(f"/usr/bin/{name}")
        elif scripts[name]:
            place.write_text(f"#!/bin/sh\n{scripts[name]}\n")
            place.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("scripts", "said", "hint"),
    [
        ({"tar": ""}, "the image has no tar", "use an image with tar"),
        ({"sh": ""}, "the image has no sh", "use an image with sh"),
        (
            {"tar": "echo 'tar: f: Cannot write: No space left on device\ntar: Exiting' >&2; exit 2"},
            "does not fit into the guest: tar: f: Cannot write: No space left",
            "--disk",
        ),
        (
            {"tar": "echo 'tar: something else' >&2; exit 2"},
            "could not be unpacked in the guest: tar: some",
            "nothing",
        ),
        ({"tar": "kill -9 $$"}, "could not be unpacked", "nothing"),
        ({"mv": "echo no such move >&2; exit 1"}, "could not be put in place: no such move", ""),
        (
            {"mkdir": "echo read-only >&2; exit 1"},
            "could not be unpacked in the guest: read-only",
            "nothing",
        ),
    ],
)
def test_guests_that_cannot(
    repos: Repos, guest: Guest, tmp_path: Path, scripts: dict[str, str], *, said: str, hint: str
):
    repo = repos.make({"a": "1" * 1_000_000})
    guest.path = _tools(tmp_path / "bin", **scripts)
    with pytest.raises(Failure) as caught:
        send(repo, guest)
    assert said in str(caught.value)
    assert hint in caught.value.hint
    assert caught.value.status == 1
    guest.close()
    assert list(guest.home.iterdir()) == []


def test_a_guest_that_goes_away(repos: Repos, guest: Guest):
    repo = repos.make({"a": "1"})
    guest.play = lambda link: link.sendall(message(21, b"\xff\xff\xff\x00"))
    with pytest.raises(Failure, match="app was not copied: the guest went away") as caught:
        send(repo, guest)
    assert (caught.value.code, caught.value.status) == ("GuestGone", 1)


def test_no_session_nothing_made(repos: Repos):
    repo = repos.make({"a": "1"})

    def refuse() -> int:
        raise Failure("WrongState", "the VM is stopped")

    with pytest.raises(Failure, match="the VM is stopped"):
        plan(repo, Options()).send(refuse, Progress("x", quiet=True))


def test_no_room_on_this_side(repos: Repos, guest: Guest, monkeypatch: pytest.MonkeyPatch):
    repo = repos.make({"a": "1"})

    def full(**_more: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(Failure, match="No space left") as caught:
        send(repo, guest)
    assert "TMPDIR" in caught.value.hint
