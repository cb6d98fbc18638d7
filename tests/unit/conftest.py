"""Fixtures of the native programs' tests: built with AddressSanitizer and UBSan, and ended cleanly."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.unit.library_bench import Bench
from tests.unit.native_protocol import NATIVE, Shim
from tests.unit.user_images import layout, pull, registry  # noqa: F401 - fixtures
from tests.unit.workspace_guest import Guest
from tests.unit.workspace_repos import Repos

SANITIZED = NATIVE / "build/asan"


@pytest.fixture(scope="session")
def native() -> Path:
    """The folder with the sanitized banger-shim and banger-guest."""
    subprocess.run(["make", "-s", "-C", NATIVE, "asan"], check=True, timeout=300)
    return SANITIZED


@pytest.fixture
def folder() -> Iterator[Path]:
    """A run folder whose path is short enough for Unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="bgr-"))
    path.chmod(0o770)
    yield path
    shutil.rmtree(path)


StartShim = Callable[..., Shim]


@pytest.fixture
def start_shim(native: Path, folder: Path) -> Iterator[StartShim]:
    """Starts a shim; by default its VMM is the guest program. At the end each must have found no memory error."""
    shims: list[Shim] = []

    def start(*options: str, vmm: Sequence[str | Path] = (), channel: str = "fd", **popen: object) -> Shim:
        guest = [native / "banger-guest", "--agent-fd", "3"]
        environment = {
            "ASAN_OPTIONS": "log_path=stderr:abort_on_error=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
        }
        with (folder / "shim.err").open("wb") as errors:
            popen.setdefault("stdin", subprocess.DEVNULL)
            shim = Shim(
                native / "banger-shim", folder, vmm or guest, *options,
                channel=channel, stderr=errors, env=environment, **popen,
            )  # fmt: skip
        shims.append(shim)
        return shim

    yield start
    for shim in shims:
        if shim.process.poll() is None and shim.path("control.sock").exists():
            shim.control("STOP 5")
            shim.wait()
        shim.close()
    for name in ("shim.err", "vmm.log"):
        if (folder / name).exists():
            text = (folder / name).read_text(errors="replace")
            assert "Sanitizer" not in text, text
            assert "runtime error" not in text, text


@pytest.fixture
def chain(start_shim: StartShim) -> Shim:
    """Shim and guest program, ready for sessions."""
    shim = start_shim()
    shim.wait_state("ready")
    return shim


@pytest.fixture
async def bench(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    # pytest's own folders are closed to other users, and below /tmp, which workers see empty.
    folder = tmp_path_factory.mktemp("bench")
    yield (made := Bench(folder, monkeypatch))
    assert made.leftovers() == []
    assert list((made.state / "images").glob(".*")) == []


@pytest.fixture
def repos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repos:
    """Makes git repositories; whatever this machine's git is set to does not count."""
    folder = tmp_path / "repos"
    folder.mkdir()
    settings = tmp_path / "gitconfig"
    settings.write_text("[user]\nname = Alice\nemail = alice@example.org\n[init]\ndefaultBranch = main\n")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return Repos(folder)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    """A guest whose /root is a folder here."""
    home = tmp_path / "guest"
    home.mkdir()
    made = Guest(home)
    yield made
    made.close()


@pytest.fixture
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither a file in the temporary folder nor a descriptor, however it went."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    before = list(Path("/proc/self/fd").iterdir())
    yield
    assert list(scratch.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)
