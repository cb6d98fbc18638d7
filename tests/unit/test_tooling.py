"""The scripts of a guest's tooling bootstrap, run by a shell here with a mise of the test's own; what is handed on."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger import tooling

pytestmark = pytest.mark.needs("setsid", "flock")


class Guest:
    """A repository and a state folder, as in a guest."""

    def __init__(self, folder: Path, shell: str) -> None:
        self.repo = folder / "repo"
        self.repo.mkdir()
        self.state = folder / "state"
        self.base = self.state / "vm-run-tooling-repo"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.shell = shell

    def mise(self, script: str) -> None:
        path = self.bin / "mise"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def start(self, folder: str = "") -> int:
        done = subprocess.run(
            [self.shell, "-c", tooling._LAUNCH, "sh", self.repo / folder, self.repo, self.base, tooling._WORKER],
            env={"PATH": f"{self.bin}:/usr/bin:/bin"}, stdin=subprocess.DEVNULL,
            capture_output=True, check=False, timeout=10,
        )  # fmt: skip
        assert not done.stdout
        assert not done.stderr
        return done.returncode

    def status(self) -> tuple[tooling.Bootstrap, ...]:
        done = subprocess.run(
            [self.shell, "-c", tooling._STATUS, "sh", self.state],
            capture_output=True,
            check=True,
            timeout=10,
        )
        return tuple(tooling.parse(done.stdout))

    def wait_for(self, *states: str) -> tooling.Bootstrap:
        deadline = time.monotonic() + 10
        while not (found := self.status()) or found[0].state not in states:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        return found[0]

    @property
    def log(self) -> str:
        return Path(f"{self.base}.log").read_text()

    def pid(self) -> int:
        return int(Path(f"{self.base}.status").read_text().partition("pid=")[2].split()[0])


@pytest.fixture(params=["dash", "bash"])
def guest(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Guest]:
    made = Guest(tmp_path, request.param)
    yield made
    for path in tmp_path.glob("stop*"):
        path.unlink()


@pytest.mark.parametrize("file", tooling.FILES)
def test_files_that_name_tools(tmp_path: Path, file: str) -> None:
    guest = Guest(tmp_path, "sh")
    guest.mise("echo mise $1")
    (guest.repo / file).parent.mkdir(parents=True, exist_ok=True)
    (guest.repo / file).touch()
    assert tooling.wanted([os.fsencode(file)])
    assert guest.start() == 0
    assert guest.wait_for("done").status == 0


@pytest.mark.parametrize(
    "file", ["mise.lock", "tool-versions", "docs/.tool-versions", "mise/mise.toml", "Makefile", ".nvmrc"]
)
def test_files_that_do_not(tmp_path: Path, file: str) -> None:
    guest = Guest(tmp_path, "sh")
    (guest.repo / file).parent.mkdir(parents=True, exist_ok=True)
    (guest.repo / file).touch()
    (tmp_path / "mise.toml").touch()  # above the repository: not its own
    assert guest.start() == 3
    assert not guest.state.exists()


def test_what_the_host_looks_at() -> None:
    assert tooling.wanted([b"README", b"services/api/.mise.toml"])
    assert not tooling.wanted([])
    assert not tooling.wanted([b"mise", b"tomise.toml", b"mise.toml.orig", b"\xff"])


def test_it_installs(guest: Guest) -> None:
    (guest.repo / "sub").mkdir()
    (guest.repo / ".tool-versions").touch()
    guest.mise('echo "$PWD: $*, yes=$MISE_YES"; [ ! -e /proc/self/fd/8 ] || exit 9')
    begun = int(time.time())
    assert guest.start("sub") == 0
    ended = guest.wait_for("done", "failed")
    assert (ended.repo, ended.state, ended.status) == ("repo", "done", 0)
    assert begun <= ended.began <= ended.ended <= time.time()
    assert f"{guest.repo}/sub: trust --all, yes=1\n{guest.repo}/sub: install, yes=1\n" in guest.log
    assert "ended with status 0 after" in guest.log


def test_a_failure_is_told(guest: Guest) -> None:
    (guest.repo / "mise.toml").touch()
    guest.mise('[ $1 != install ] || { echo "no such tool" >&2; exit 5; }')
    assert guest.start() == 0
    ended = guest.wait_for("failed")
    assert (ended.status, ended.ended > 0) == (5, True)
    assert "no such tool\n" in guest.log
    assert "ended with status 5" in guest.log


def test_no_mise(tmp_path: Path) -> None:
    guest = Guest(tmp_path, "sh")
    (guest.repo / "mise.toml").touch()
    assert guest.start() == 4
    (found,) = guest.status()
    assert (found.state, found.status) == ("skipped", None)
    assert guest.log == "this image has no mise, so the tools that the repository names are not installed\n"


def test_it_is_of_no_session(guest: Guest) -> None:
    """Neither the hang-up of the session that started it nor a signal to its process group reaches it."""
    (guest.repo / "mise.toml").touch()
    stop = guest.repo.parent / "stop"
    stop.touch()
    guest.mise(f"while [ -e {stop} ]; do sleep 0.02; done")
    assert guest.start() == 0
    running = guest.wait_for("running")
    assert (running.status, running.ended) == (None, 0)
    pid = guest.pid()
    assert os.getsid(pid) == os.getpgid(pid) == pid
    os.kill(pid, signal.SIGHUP)
    assert guest.wait_for("running", "failed").state == "running"
    stop.unlink()
    assert guest.wait_for("done", "failed").state == "done"


def test_one_that_was_killed(guest: Guest) -> None:
    (guest.repo / "mise.toml").touch()
    stop = guest.repo.parent / "stop"
    stop.touch()
    guest.mise(f"while [ -e {stop} ]; do sleep 0.02; done")
    assert guest.start() == 0
    guest.wait_for("running")
    os.kill(guest.pid(), signal.SIGKILL)
    assert guest.wait_for("failed").status is None


@pytest.mark.parametrize("changed", ["boot=1", "birth=1"])
def test_a_pid_that_is_another_process(tmp_path: Path, changed: str) -> None:
    """After a reboot, or when the number was used again."""
    guest = Guest(tmp_path, "sh")
    guest.state.mkdir()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    birth = Path("/proc/self/stat").read_text().rpartition(") ")[2].split()[19]
    facts = f"state=running\npid={os.getpid()}\nbirth={birth}\nboot={boot}\nbegan=1795558303\n"
    Path(f"{guest.base}.status").write_text(facts)
    assert [found.state for found in guest.status()] == ["running"]
    Path(f"{guest.base}.status").write_text(f"{facts}{changed}\n")
    assert [found.state for found in guest.status()] == ["failed"]


def test_two_take_turns(guest: Guest) -> None:
    (guest.repo / "mise.toml").touch()
    stop = guest.repo.parent / "stop"
    stop.touch()
    count = guest.repo.parent / "count"
    guest.mise(f"[ $1 = install ] || exit 0; echo x >>{count}; while [ -e {stop} ]; do sleep 0.02; done")
    assert guest.start() == 0
    guest.wait_for("running")
    assert guest.start() == 0
    time.sleep(0.2)  # so that a second one that does not wait is seen
    assert count.read_text() == "x\n"
    stop.unlink()
    deadline = time.monotonic() + 10
    while count.read_text() != "x\nx\n":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    guest.wait_for("done")


def test_what_a_guest_may_say() -> None:
    answer = b"".join(
        name + b"\0" + text + b"\0"
        for name, text in (
            (b"vm-run-tooling-a.status", b"state=done\nstatus=999999999999999999999\nbegan=-1\nended=x\n"),
            (b"vm-run-tooling-b.status", b"state=owned\n"),
            (b"vm-run-tooling-\x1b[2J\xff.status", b"state=failed\n\xff\n=\n\n"),
            (b"", b""),
        )
    )
    found = tuple(tooling.parse(answer + b"cut off"))
    assert [(one.state, one.status, one.began, one.ended) for one in found] == [
        ("done", 0, 0, 0), ("failed", None, 0, 0)
    ]  # fmt: skip


def test_a_guest_does_not_fill_the_screen() -> None:
    answer = b"".join(b"vm-run-tooling-%d.status\0state=done\n\0" % number for number in range(5000))
    assert len(tuple(tooling.parse(answer))) == 20


def test_mirrors() -> None:
    good = {
        "npm_config_registry": "https://npm.example.org/", "PIP_INDEX_URL": "https://pypi.example.org/simple",
        "GOPROXY": "https://go.example.org,direct", "MISE_NODE_MIRROR_URL": "https://node.example.org/",
        "MISE_URL_REPLACEMENTS": '{"github.com": "github.example.org"}', "UV_DEFAULT_INDEX": "https://x.example.org/",
        "CARGO_REGISTRIES_OWN_INDEX": "sparse+https://cargo.example.org/", "GOPRIVATE": "example.org",
    }  # fmt: skip
    bad = {
        "MISE_GITHUB_TOKEN": "secret", "NPM_CONFIG_REGISTRY": "https://me:secret@npm.example.org/",
        "PIP_EXTRA_INDEX_URL": "",
        "MISE_DATA_DIR": "/home/me/x", "UV_INDEX": "http://127.0.0.1:3141/", "RUSTUP_DIST_SERVER": "http://localhost:1/",
        "npm_config__authToken": "secret", "PATH": "/bin", "GOFLAGS": "-mod=mod",
        "CARGO_REGISTRIES_OWN_TOKEN": "secret",
    }  # fmt: skip
    assert tooling.mirrors(good | bad) == tuple(f"{name}={value}" for name, value in good.items())


def test_names_of_files_have_an_end() -> None:
    log = tooling.Bootstrap("é" * 127, "done").log
    assert len(os.fsencode(log.rpartition("/")[2])) < 240
