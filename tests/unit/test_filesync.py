"""file_sync's tar stream, unpacked by the real tar; what is swapped while it is read is not followed."""

import ctypes
import os
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from banger import filesync
from banger.config import FileSync

SECRET = b"nobody else may read this"
_EXCHANGE = 2  # renameat2's flag


class Home:
    """A user's files, and what a guest makes of the stream of some of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "home"
        self.guest = folder / "guest"
        self.warnings: list[str] = []
        self.folder.mkdir()
        (self.guest / "root").mkdir(parents=True)

    def file(self, name: str, content: bytes = b"x", mode: int = 0o644) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def send(self, name: str, guest: str = "", mode: int | None = None) -> None:
        entry = FileSync(self.folder / name, f"/root/{guest or name}", mode)
        stream = b"".join(filesync.archive([entry], self.warnings.append))
        argv = [*filesync.UNPACK[:2], filesync.UNPACK[2].replace("-C /", f"-C {self.guest}")]
        subprocess.run(argv, input=stream, check=True)

    def got(self) -> dict[str, int]:
        """Each path below /root in the guest, with its mode."""
        top = self.guest / "root"
        return {
            str(path.relative_to(top)): stat.S_IMODE(path.lstat().st_mode) for path in sorted(top.rglob("*"))
        }

    def read(self, name: str) -> bytes:
        return (self.guest / "root" / name).read_bytes()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def before_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Callable[[], object]], None]]:
    """Have something done between the look at a file and its opening."""
    plans: dict[str, Callable[[], object]] = {}
    real = os.open

    def opened(path: str, *args: int, **how: int) -> int:
        if plan := plans.pop(Path(path).name, None):
            plan()
        return real(path, *args, **how)

    monkeypatch.setattr(os, "open", opened)

    def arrange(name: str, plan: Callable[[], object]) -> None:
        plans[name] = plan

    yield arrange
    assert not plans, "never opened"


def test_a_folder_comes_whole_with_private_modes(home: Home) -> None:
    home.file(".aws/credentials", b"key", 0o644)
    home.file(".aws/sso/cache/a b\n", b"token", 0o777)
    (home.folder / ".aws/empty").mkdir(mode=0o755)
    home.send(".aws")
    assert home.got() == {
        ".aws": 0o700,
        ".aws/credentials": 0o600,
        ".aws/empty": 0o700,
        ".aws/sso": 0o700,
        ".aws/sso/cache": 0o700,
        ".aws/sso/cache/a b\n": 0o600,
    }
    assert home.read(".aws/sso/cache/a b\n") == b"token"
    assert home.warnings == []


def test_a_file_with_a_mode_at_another_place(home: Home) -> None:
    home.file("bin/tool", b"#!/bin/sh\n", 0o600)
    home.send("bin/tool", "opt/bin/my-tool", 0o755)
    assert home.got() == {"opt": 0o700, "opt/bin": 0o700, "opt/bin/my-tool": 0o755}


def test_a_mode_is_for_files_alone(home: Home) -> None:
    home.file("bin/tool")
    (home.folder / "bin/empty").mkdir()
    home.send("bin", mode=0o755)
    assert home.got() == {"bin": 0o700, "bin/empty": 0o700, "bin/tool": 0o755}


def test_folders_that_are_there_keep_their_modes(home: Home) -> None:
    (home.guest / "root/.config").mkdir(mode=0o755)
    (home.guest / "root").chmod(0o711)
    home.file(".config/gh/hosts.yml")
    home.send(".config")
    assert home.got()[".config"] == 0o755
    assert stat.S_IMODE((home.guest / "root").stat().st_mode) == 0o711


def test_what_was_there_is_replaced_a_link_is_not_written_through(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"as it was")
    (home.guest / "root/a").symlink_to(other)
    home.file("a", b"new")
    home.send("a")
    assert home.read("a") == b"new"
    assert other.read_bytes() == b"as it was"


def test_names_of_any_bytes_and_length(home: Home) -> None:
    deep = "d/" + "/".join(["n" * 200] * 5)
    home.file(f"{deep}/long", b"1")
    home.file("d/" + os.fsdecode(b"\xff\xfe"), b"2")
    home.send("d")
    assert home.read(f"{deep}/long") == b"1"
    assert home.read("d/" + os.fsdecode(b"\xff\xfe")) == b"2"


def test_large_and_empty_files(home: Home) -> None:
    content = os.urandom(3 * 1024 * 1024 + 17)
    home.file("d/large", content)
    home.file("d/none", b"")
    home.send("d")
    assert home.read("d/large") == content
    assert home.read("d/none") == b""


def test_links_and_what_is_no_file_are_left_out_with_a_word(home: Home, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    home.file("d/file")
    (home.folder / "d/link").symlink_to(tmp_path / "secret")
    (home.folder / "d/folder-link").symlink_to(tmp_path)
    (home.folder / "d/dangling").symlink_to("nowhere")
    os.mkfifo(home.folder / "d/pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(home.folder / "d/socket"))
        home.send("d")
    assert home.got() == {"d": 0o700, "d/file": 0o600}
    assert [warning.removeprefix(f"{home.folder}/d/") for warning in home.warnings] == [
        "dangling is left out: it is a symbolic link, and could lead out of the folder",
        "folder-link is left out: it is a symbolic link, and could lead out of the folder",
        "link is left out: it is a symbolic link, and could lead out of the folder",
        "pipe is left out: it is neither a file nor a folder",
        "socket is left out: it is neither a file nor a folder",
    ]


def test_the_named_path_itself_may_be_a_link(home: Home) -> None:
    home.file("dotfiles/aws/credentials", b"key")
    (home.folder / ".aws").symlink_to("dotfiles/aws")
    home.send(".aws")
    assert home.read(".aws/credentials") == b"key"


def test_what_is_not_there_is_told_and_the_rest_sent(home: Home) -> None:
    home.file("b")
    entries = [FileSync(home.folder / name, f"/root/{name}") for name in ("a", "b")]
    stream = b"".join(filesync.archive(entries, home.warnings.append))
    names = subprocess.run(["tar", "-t"], input=stream, check=True, capture_output=True).stdout
    assert names == b"root/b\n"
    assert home.warnings == [f"{home.folder}/a is left out: there is no such file"]


def test_devices_are_not_even_opened(home: Home) -> None:
    (home.folder / "null").symlink_to("/dev/null")
    home.send("null")
    assert home.got() == {}
    assert home.warnings == [f"{home.folder}/null is left out: it is neither a file nor a folder"]


def test_authorized_keys_stay_bangers(home: Home) -> None:
    home.file(".ssh/authorized_keys")
    home.file(".ssh/id_ed25519", mode=0o600)
    home.send(".ssh")
    assert home.got() == {".ssh": 0o700, ".ssh/id_ed25519": 0o600}
    assert home.warnings == [
        f"{home.folder}/.ssh/authorized_keys is left out: banger keeps the guest's authorized_keys itself"
    ]


def test_too_deep(home: Home) -> None:
    home.file("/".join(["d"] * 140) + "/file")
    home.send("d")
    assert home.got() == {}
    assert len(home.warnings) == 1
    assert "128 folders deep" in home.warnings[0]


Arrange = Callable[[str, Callable[[], object]], None]


def test_a_file_swapped_for_a_link_is_not_followed(home: Home, tmp_path: Path, before_open: Arrange) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    victim = home.file("d/victim", b"harmless")
    home.file("d/zebra")

    def swap() -> None:
        victim.unlink()
        victim.symlink_to(tmp_path / "secret")

    before_open("victim", swap)
    home.send("d")
    assert home.got() == {"d": 0o700, "d/zebra": 0o600}
    assert home.warnings == [f"{victim} is left out: it was replaced by a symbolic link while it was copied"]


def test_a_folder_swapped_for_a_link_is_not_followed(
    home: Home, tmp_path: Path, before_open: Arrange
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/inner").write_bytes(SECRET)
    home.file("d/sub/inner", b"harmless")

    def swap() -> None:
        (home.folder / "d/sub").rename(home.folder / "moved")
        (home.folder / "d/sub").symlink_to(tmp_path / "outside")

    before_open("sub", swap)
    home.send("d")
    assert home.got() == {}
    assert "d/sub is left out" in home.warnings[0]


def test_a_folder_swapped_while_its_files_are_read(home: Home, tmp_path: Path, before_open: Arrange) -> None:
    """The files of the folder that was opened are sent, wherever it is now."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/inner").write_bytes(SECRET)
    home.file("d/sub/inner", b"harmless")

    def swap() -> None:
        (home.folder / "d/sub").rename(home.folder / "moved")
        (home.folder / "d/sub").symlink_to(tmp_path / "outside")

    before_open("inner", swap)
    home.send("d")
    assert home.read("d/sub/inner") == b"harmless"


def test_a_file_swapped_for_a_pipe_holds_nothing_up(home: Home, before_open: Arrange) -> None:
    victim = home.file("d/victim")

    def swap() -> None:
        victim.unlink()
        os.mkfifo(victim)

    before_open("victim", swap)
    home.send("d")
    assert home.got() == {}
    assert home.warnings == [f"{victim} is left out: it was replaced while it was copied"]


@pytest.mark.parametrize("size", [3, 5_000_000])
def test_a_file_that_changes_is_told_of_and_the_stream_stays_whole(
    home: Home, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    victim = home.file("d/a", b"1" * 1_000_000)
    home.file("d/b", b"after")
    real, changed = os.read, []

    def read(fd: int, count: int) -> bytes:
        if not changed:
            changed.append(True)
            os.truncate(victim, size)
        return real(fd, count)

    monkeypatch.setattr(os, "read", read)
    home.send("d")
    monkeypatch.undo()
    assert home.read("d/b") == b"after"
    assert len(home.read("d/a")) == 1_000_000
    assert home.warnings == [f"{victim} is not whole in the guest: it changed while it was copied"]


def test_no_secret_gets_out_while_another_process_swaps_all_the_time(home: Home, tmp_path: Path) -> None:
    """A file and a link to a secret change places as fast as they can, and so do a folder and a link."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/inner").write_bytes(SECRET)
    home.file("d/file", b"harmless")
    home.file("d/sub/inner", b"harmless")
    (home.folder / "file-link").symlink_to(tmp_path / "outside/inner")
    (home.folder / "sub-link").symlink_to(tmp_path / "outside")
    libc = ctypes.CDLL(None, use_errno=True)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for one, other in (("d/file", "file-link"), ("d/sub", "sub-link")):
                names = [os.fsencode(home.folder / name) for name in (one, other)]
                assert libc.renameat2(-100, names[0], -100, names[1], _EXCHANGE) == 0

    swapper = threading.Thread(target=swap)
    swapper.start()
    entry = FileSync(home.folder / "d", "/root/d")
    try:
        streams = [b"".join(filesync.archive([entry], home.warnings.append)) for _ in range(2000)]
    finally:
        stop.set()
        swapper.join()
    assert not any(SECRET in stream for stream in streams)
    assert any(b"harmless" in stream for stream in streams)  # it was no idle test
    assert any("symbolic link" in warning for warning in home.warnings)


def test_no_descriptor_stays_open_when_the_stream_is_given_up(home: Home) -> None:
    home.file("d/e/f/file", b"x" * 1_000_000)
    before = len(list(Path("/proc/self/fd").iterdir()))
    stream = filesync.archive([FileSync(home.folder / "d", "/root/d")], home.warnings.append)
    next(stream)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
