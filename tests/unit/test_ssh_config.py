"""Our block in the user's ~/.ssh/config, and what ssh makes of it."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from banger.errors import Failure
from banger.ssh import block, openssh, place, userfile

OWN = b"Host work\n    User me\n\nHost *\n    ServerAliveInterval 30\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(place, "account_home", lambda: folder)
    return folder


def written(home: Path, data: bytes, mode: int = 0o600) -> Path:
    (home / ".ssh").mkdir(mode=0o700)
    file = home / ".ssh/config"
    file.write_bytes(data)
    file.chmod(mode)
    return file


@pytest.mark.parametrize(
    "text",
    [
        b"", OWN, OWN.rstrip(), OWN.replace(b"\n", b"\r\n"), b"\n", b"# only a remark", b"\xff\xfe not text \x00\n",
        b"Include other/ssh_config\n", b"a\r\nb\nc\r\n",
    ],
)  # fmt: skip
def test_uninstall_leaves_every_byte(home: Path, text: bytes) -> None:
    file = written(home, text, 0o640)
    assert userfile.install()
    assert file.read_bytes().endswith(text)
    assert file.read_bytes().startswith(block.BEGIN)
    once = file.read_bytes()
    assert not userfile.install()
    assert file.read_bytes() == once
    assert userfile.uninstall()
    assert file.read_bytes() == text
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert not userfile.uninstall()
    assert not userfile.managed_file().exists()
    assert [entry.name for entry in file.parent.iterdir()] == ["config"]


def test_line_ends_are_those_of_the_file(home: Path) -> None:
    file = written(home, OWN.replace(b"\n", b"\r\n"))
    userfile.install()
    assert b"\n" not in file.read_bytes().replace(b"\r\n", b"")


def test_a_file_that_was_not_there_goes_again(home: Path) -> None:
    assert userfile.install()
    file = home / ".ssh/config"
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o600, 0o700)
    assert not userfile.install()
    userfile.uninstall()
    assert not file.exists()


def test_what_was_added_to_a_file_of_ours_stays(home: Path) -> None:
    userfile.install()
    file = home / ".ssh/config"
    file.write_bytes(file.read_bytes() + OWN)
    userfile.uninstall()
    assert file.read_bytes() == OWN


def test_a_block_further_down_is_moved_up(home: Path) -> None:
    """Below a Host line it would count for that host alone."""
    userfile.install()
    ours = (home / ".ssh/config").read_bytes().replace(block.NEW_FILE + b"\n", b"")
    (home / ".ssh/config").write_bytes(OWN + ours + b"# end\n")
    userfile.install()
    assert (home / ".ssh/config").read_bytes() == ours + OWN + b"# end\n"
    (home / ".ssh/config").write_bytes(ours + OWN + ours)
    userfile.install()
    assert (home / ".ssh/config").read_bytes() == ours + OWN
    (home / ".ssh/config").write_bytes(ours + OWN + ours)
    userfile.uninstall()
    assert (home / ".ssh/config").read_bytes() == OWN


def test_a_block_of_another_version_is_replaced(home: Path) -> None:
    file = written(
        home, b"\n".join([block.BEGIN, b"# older words", b"Include /old/banger/ssh_config", block.END, OWN])
    )
    userfile.install()
    assert block.split(file.read_bytes(), "").rest == OWN
    assert b"older" not in file.read_bytes()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (block.BEGIN + b"\nInclude banger/ssh_config\nHost mine\n" + block.END + b"\n", 3),
        (block.BEGIN + b"\nInclude somewhere/else\n" + block.END + b"\n", 2),
        (b"Host a\n" + block.BEGIN + b"\nInclude banger/ssh_config\n", 2),
        (block.END + b"\n", 1),
        (block.BEGIN + b"\n" + block.BEGIN + b"\n" + block.END + b"\n", 1),
    ],
)
@pytest.mark.parametrize("change", [userfile.install, userfile.uninstall])
def test_a_block_that_was_edited_is_left_alone(home: Path, text: bytes, line: int, change: object) -> None:
    file = written(home, text)
    with pytest.raises(Failure, match=rf"line {line}: "):
        change()  # type: ignore[operator]
    assert file.read_bytes() == text


def test_a_link_stays_a_link(home: Path) -> None:
    (home / ".ssh").mkdir(mode=0o700)
    (home / "dotfiles").mkdir()
    real = home / "dotfiles/sshconfig"
    real.write_bytes(OWN)
    (home / ".ssh/config").symlink_to("../dotfiles/sshconfig")
    userfile.install()
    assert (home / ".ssh/config").readlink() == Path("../dotfiles/sshconfig")
    assert real.read_bytes().startswith(block.BEGIN)
    userfile.uninstall()
    assert real.read_bytes() == OWN
    assert [entry.name for entry in real.parent.iterdir()] == ["sshconfig"]


def test_a_link_to_nothing_makes_its_target(home: Path) -> None:
    (home / ".ssh").mkdir(mode=0o700)
    (home / ".ssh/config").symlink_to(home / "later")
    userfile.install()
    assert (home / ".ssh/config").is_symlink()
    assert (home / "later").read_bytes().startswith(block.BEGIN)


def test_a_link_to_itself(home: Path) -> None:
    (home / ".ssh").mkdir(mode=0o700)
    (home / ".ssh/config").symlink_to("config")
    with pytest.raises(Failure, match="link to itself"):
        userfile.install()


def test_extended_attributes_stay(home: Path) -> None:
    file = written(home, OWN)
    try:
        os.setxattr(file, "user.mine", b"kept")
    except OSError:
        pytest.xfail("this file system has no extended attributes")
    userfile.install()
    assert os.getxattr(file, "user.mine") == b"kept"


def test_a_read_only_file_is_respected(home: Path) -> None:
    file = written(home, OWN, 0o400)
    with pytest.raises(Failure, match="read-only") as caught:
        userfile.install()
    assert userfile.include_line() in caught.value.hint
    assert file.read_bytes() == OWN


@pytest.mark.root
def test_a_file_of_another_user_is_not_touched(home: Path) -> None:
    file = written(home, OWN, 0o644)
    os.chown(file, 60_000, 60_000)
    with pytest.raises(Failure, match="not yours"):
        userfile.install()
    assert file.read_bytes() == OWN
    assert file.stat().st_uid == 60_000


def test_no_file_at_all(home: Path) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh/config").mkdir()
    with pytest.raises(Failure, match="no file"):
        userfile.install()
    (home / ".ssh/config").rmdir()
    os.mkfifo(home / ".ssh/config")
    with pytest.raises(Failure, match="no file"):
        userfile.install()


def test_a_file_that_changes_meanwhile_is_not_overwritten(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(home, OWN)
    write_managed = userfile.write_managed

    def slow() -> bool:
        file.write_bytes(b"Host new\n")
        return write_managed()

    monkeypatch.setattr(userfile, "write_managed", slow)
    with pytest.raises(Failure, match="changed at the same moment"):
        userfile.install()
    assert file.read_bytes() == b"Host new\n"


def test_a_full_disk_leaves_the_old_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(home, OWN)
    userfile.write_managed()

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Failure, match="no space left"):
        userfile.install()
    assert file.read_bytes() == OWN
    assert [entry.name for entry in file.parent.iterdir()] == ["config"]


def test_a_managed_file_that_is_not_ours_stays(home: Path) -> None:
    userfile.managed_file().parent.mkdir(parents=True)
    userfile.managed_file().write_text("Host mine.vm\n")
    userfile.uninstall()
    assert userfile.managed_file().read_text() == "Host mine.vm\n"


# What ssh itself makes of it


def ssh_says(file: Path, host: str) -> dict[str, str]:
    done = subprocess.run(
        ["ssh", "-F", file, "-G", host], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


@pytest.mark.needs("ssh")
@pytest.mark.parametrize(
    "folder", ["plain", "with space", 'quote"s', "100%", "it's", "back\\slash", "ha#sh"]
)
def test_ssh_reads_the_block_whatever_the_paths(tmp_path: Path, folder: str) -> None:
    """The block comes first, so nothing of the user's for all hosts weakens it; paths keep their odd letters."""
    identity = tmp_path / folder / "identity"
    program = tmp_path / folder / "banger"
    program.parent.mkdir()
    file = tmp_path / "config"
    loose = "Host *\n    StrictHostKeyChecking no\n    UserKnownHostsFile /dev/null\n    ProxyJump away\n    User me\n"
    file.write_text(openssh.host_block(identity, (str(program),)) + loose)
    said = ssh_says(file, "web.vm")
    assert said["user"] == "root"
    assert said["stricthostkeychecking"] in ("true", "yes")
    assert said["userknownhostsfile"] == "none"
    assert said["globalknownhostsfile"] == "none"
    assert said["proxyusefdpass"] == "yes"
    assert said["identitiesonly"] == "yes"
    assert said["hostkeyalgorithms"] == "ssh-ed25519"
    assert "proxyjump" not in said
    assert said["identityfile"] == str(identity)
    other = ssh_says(file, "web.example")
    assert other["user"] == "me"
    assert "knownhostscommand" not in other


@pytest.mark.needs("ssh")
@pytest.mark.parametrize("folder", ["plain", "with space", 'quote"s', "100%", "it's", "back\\slash"])
def test_ssh_runs_both_programs_whatever_their_path(tmp_path: Path, folder: str) -> None:
    program = tmp_path / folder / "banger"
    program.parent.mkdir()
    log = tmp_path / "log"
    program.write_text(f'#!/bin/sh\nprintf "%s|" "$@" >>{log}\necho >>{log}\nexit 3\n')
    program.chmod(0o755)
    file = tmp_path / "config"
    file.write_text(openssh.host_block(tmp_path / "identity", (str(program),)))
    done = subprocess.run(
        ["ssh", "-F", file, "web.vm"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert done.returncode == 255
    assert log.read_text() == "ssh-connect|web.vm|22|\n"


def test_flags_of_ssh_are_told_from_a_command() -> None:
    openssh.check_flags(
        ["-A", "-L", "8080:localhost:80", "-N", "-tt", "-o", "ServerAliveInterval=5", "-vvv"]
    )
    for wrong in (["ls"], ["-A", "ls", "-l"], ["-Z=", "x"], ["-L"], ["-!"], ["-N", "-"]):
        with pytest.raises(Failure):
            openssh.check_flags(wrong)


def test_a_service_cannot_slip_anything_in() -> None:
    good = "ssh-ed25519 " + "A" * 68
    bad = [
        'ssh-ed25519 AAAA" -x',
        "ssh-ed25519 AAAA\nweb ssh",
        "@cert-authority * ssh-ed25519 AAAA",
        "",
        "%h AAAA",
    ]
    assert openssh.host_lines("web.vm", [good, *bad]) == [f"web.vm {good}"]


def test_nobody_is_left_to_find_ssh_in_a_relative_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "banger").write_text("#!/bin/sh\n")
    (tmp_path / "banger").chmod(0o755)
    monkeypatch.setattr("sys.argv", ["./banger"])
    assert userfile.program() == (str(tmp_path / "banger"),)
    monkeypatch.setattr("sys.argv", ["banger"])
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/banger")
    assert userfile.program() == ("/usr/bin/banger",)
