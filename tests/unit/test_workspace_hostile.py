"""Guests that send what no git would: refused with a reason, and nothing in the user's repository has changed."""

import os
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.workspace_guest import Guest, Link, message, take
from tests.unit.workspace_repos import Repos, fingerprint, send

from banger.errors import Failure
from banger.progress import Progress
from banger.workspace.export import Wanted, export

pytestmark = pytest.mark.usefixtures("nothing_left")
ZEROS = "0" * 40


class Evil:
    """Makes objects that git would not make, for a guest that was given `repo`."""

    def __init__(self, repos: Repos, repo: Path, where: Path) -> None:
        self._repos = repos
        self.start = repos.git(repo, "rev-parse", "HEAD").strip()
        repos.git(where, "clone", "-q", "--bare", str(repo), "evil")
        self.repo = where / "evil"
        self.blob = self.add("blob", b"payload\n")

    def add(self, kind: str, data: bytes) -> str:
        done = subprocess.run(
            ["git", "-C", self.repo, "hash-object", "--literally", "-w", "-t", kind, "--stdin"],
            input=data, capture_output=True, check=True,
        )  # fmt: skip
        return done.stdout.decode().strip()

    def tree(self, *entries: tuple[str, bytes, str]) -> str:
        return self.add(
            "tree",
            b"".join(f"{mode} ".encode() + name + b"\0" + bytes.fromhex(oid) for mode, name, oid in entries),
        )

    def commit(self, tree: str) -> str:
        who = "G <g@example.org> 1700000000 +0000"
        return self.add(
            "commit", f"tree {tree}\nparent {self.start}\nauthor {who}\ncommitter {who}\n\nhi\n".encode()
        )

    def pack(self, *oids: str) -> bytes:
        return subprocess.run(
            ["git", "-C", self.repo, "pack-objects", "-q", "--stdout"],
            input="".join(f"{oid}\n" for oid in oids).encode(), capture_output=True, check=True,
        ).stdout  # fmt: skip

    def answer(self, tree: str, *more: str) -> bytes:
        """What a guest sends whose new commit has `tree`."""
        tip = self.commit(tree)
        return header(self.start, tip) + self.pack(tip, tree, *more)


def header(start: str, tip: str, *, form: str = "sha1", base: str = "") -> bytes:
    return f"banger-export 1 {form} {start} {base or tip} {tip}\n".encode()


def plays(data: bytes, status: int = 0, err: bytes = b"") -> Callable[[Link], None]:
    def play(link: Link) -> None:
        link.sendall(message(16, struct.pack("<I", 1)))
        for at in range(0, len(data), 10_000):
            link.sendall(message(17, data[at : at + 10_000]))
        link.sendall(message(18, err) + message(19, struct.pack("<II", 0, status)))
        while take(link)[0]:
            pass

    return play


@pytest.fixture
def repo(repos: Repos) -> Path:
    return repos.make({"a": "1", "d/b": "2"})


@pytest.fixture
def evil(repos: Repos, repo: Path, tmp_path: Path) -> Evil:
    return Evil(repos, repo, tmp_path)


def refused(repo: Path, guest: Guest, wanted: Wanted | None = None) -> Failure:
    """Both ways out are refused alike; not a byte of the repository is another."""
    before = fingerprint(repo)
    failure = None
    for each in [wanted] if wanted else [Wanted(), Wanted(patch="-")]:
        with pytest.raises(Failure) as caught:
            export(repo, "web", each).run(guest.open_session, Progress("x", quiet=True))
        failure = caught.value
    assert fingerprint(repo) == before
    assert failure is not None
    return failure


@pytest.mark.parametrize(
    "name",
    [
        b"..",
        b".",
        b".git",
        b".GIT",
        b".git ",
        b"git~1",
        b".g\xe2\x80\x8cit",
        b"../x",
        b"a/b",
        b"/etc/passwd",
        b"",
    ],
)
def test_names_in_trees(repo: Path, guest: Guest, evil: Evil, name: bytes):
    bad = evil.tree(("100644", name, evil.blob))
    guest.play = plays(evil.answer(evil.tree(("40000", b"d", bad)), bad, evil.blob))
    assert refused(repo, guest).code == "Refused"


def test_hooks_and_two_of_a_name(repo: Path, guest: Guest, evil: Evil):
    hook = evil.tree(("100755", b"post-checkout", evil.blob))
    hooks = evil.tree(("40000", b"hooks", hook))
    guest.play = plays(evil.answer(evil.tree(("40000", b".git", hooks)), hooks, hook, evil.blob))
    assert refused(repo, guest).code == "Refused"
    link = evil.add("blob", b"/etc")
    twice = evil.tree(("120000", b"x", link), ("40000", b"x", hook))
    guest.play = plays(evil.answer(twice, link, hook, evil.blob))
    assert refused(repo, guest).code == "Refused"


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("100644", b'[submodule "x"]\n\tpath = x\n\turl = -u./payload\n'),
        ("100644", b'[submodule "../../x"]\n\tpath = x\n\turl = https://example.org/x\n'),
        ("120000", b"elsewhere"),
    ],
)
def test_submodules_that_run_programs(repo: Path, guest: Guest, evil: Evil, mode: str, text: bytes):
    modules = evil.add("blob", text)
    guest.play = plays(evil.answer(evil.tree((mode, b".gitmodules", modules)), modules))
    assert refused(repo, guest).code == "Refused"


def test_what_is_missing(repo: Path, guest: Guest, evil: Evil):
    tree = evil.tree(("100644", b"new", evil.blob))
    guest.play = plays(evil.answer(tree))  # the blob is not sent
    assert refused(repo, guest).code == "Refused"
    commit = evil.commit(tree)
    guest.play = plays(header(evil.start, commit) + evil.pack(tree, evil.blob))  # nor the commit
    assert refused(repo, guest).code == "Refused"
    orphan = evil.add(
        "commit",
        f"tree {tree}\nparent {'1' * 40}\nauthor G <g> 1 +0000\ncommitter G <g> 1 +0000\n\nx".encode(),
    )
    guest.play = plays(header(evil.start, orphan) + evil.pack(orphan, tree, evil.blob))
    assert refused(repo, guest).code == "Refused"


def test_a_commit_that_is_none(repo: Path, guest: Guest, evil: Evil):
    for oid in (evil.blob, evil.tree(("100644", b"x", evil.blob)), evil.add("tag", b"object x\n")):
        guest.play = plays(header(evil.start, oid) + evil.pack(evil.blob, oid))
        assert refused(repo, guest).code == "Refused"
    tree = evil.tree(("100644", b"x", evil.blob))
    tip = evil.commit(tree)
    guest.play = plays(header(evil.start, tip, base=evil.blob) + evil.pack(tip, tree, evil.blob))
    assert refused(repo, guest, Wanted(patch="-")).code in ("Refused", "GitFailed")


def test_a_few_trees_that_stand_for_a_billion_files(repo: Path, guest: Guest, evil: Evil):
    trees = [evil.tree(*[("100644", f"{number:02}".encode(), evil.blob) for number in range(50)])]
    for _ in range(8):
        trees.append(evil.tree(*[("40000", f"{number:02}".encode(), trees[-1]) for number in range(50)]))
    guest.play = plays(evil.answer(trees[-1], *trees[:-1], evil.blob))
    begun = time.monotonic()
    assert "more than 2,000,000 files" in str(refused(repo, guest))
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it sent nothing"),
        (b"\n", "its first line"),
        (b"x" * 100_000, "its first line"),
        (b"banger-export 1 sha1 - --upload-pack=x HEAD\n", "its first line"),
        (header("-", "HEAD"), "its first line"),
        (header("../../x", ZEROS), "its first line"),
        (header("A" * 40, ZEROS), "its first line"),
        (header("-", ZEROS, form="md5"), "its first line"),
        (header("-", ZEROS, form="sha256"), "speaks of sha256 objects"),
        (header("1" * 40, "2" * 40), "did not come from"),
        (header("-", ZEROS), "refused"),
        (header("-", ZEROS) + b"PACK" + bytes(100), "refused"),
        (header("-", ZEROS) + os.urandom(100_000), "refused"),
    ],
)
def test_answers_that_are_none(repo: Path, guest: Guest, data: bytes, said: str):
    guest.play = plays(data)
    assert said in str(refused(repo, guest))


def test_an_old_commit_of_ours_is_nothing_new_but_no_harm(
    repos: Repos, repo: Path, guest: Guest, evil: Evil
):
    """A branch of the user's that only they have cannot be had under another name: it must be sent to be shown."""
    guest.play = plays(header("-", evil.start) + evil.pack(evil.blob))
    found = export(repo, "web", Wanted()).run(guest.open_session, Progress("x", quiet=True))
    assert (found.commit, found.commits) == (evil.start, 0)


def test_streams_without_an_end(repo: Path, guest: Guest, evil: Evil):
    def endless(first: bytes) -> Callable[[Link], None]:
        def play(link: Link) -> None:
            link.sendall(message(17, first) if first else b"")
            while True:
                link.sendall(message(17, b"y" * 60_000))

        return play

    guest.play = endless(b"")
    assert "its first line" in str(refused(repo, guest))
    guest.play = endless(header(evil.start, ZEROS))
    assert "it is more than 1 MiB" in str(refused(repo, guest, Wanted(max_size=1024**2)))


def test_a_status_and_words_that_would_act_on_the_terminal(repo: Path, guest: Guest):
    guest.play = plays(b"", 45, b"\x1b]0;title\x07 no room\n")
    assert "the guest cannot collect its changes" in str(refused(repo, guest))


@pytest.mark.parametrize(
    "script",
    [
        "echo x",
        "echo ../../../etc",
        'for w; do case $w in pack-objects) exec yes ;; esac; done; exec /usr/bin/git "$@"',
        "echo --upload-pack=touch",
        'for w; do case $w in pack-objects) exec /usr/bin/git "$@" | tr a b ;; esac; done; exec /usr/bin/git "$@"',
        'for w; do case $w in commit-tree) exec echo refs/heads/main ;; esac; done; exec /usr/bin/git "$@"',
    ],
)
def test_a_git_that_is_none(repos: Repos, repo: Path, guest: Guest, tmp_path: Path, script: str):
    send(repo, guest)
    (guest.home / "app/a").write_text("changed")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "git").write_text(f"#!/bin/sh\n{script}\n")
    (tools / "git").chmod(0o755)
    guest.path = f"{tools}:{guest.path}"
    refused(repo, guest, Wanted(max_size=1024**2))
