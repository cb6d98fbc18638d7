"""`vm cp`, with a real guest program behind a real shim: the guest's files are this machine's, below another folder."""

import json
import os
import signal
import stat
import subprocess
import tarfile
import time
from io import BytesIO
from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path):
    """A folder of ours, with something to copy."""
    folder = tmp_path / "here"
    (folder / "site/css").mkdir(parents=True)
    (folder / "site/index.html").write_text("<p>")
    (folder / "site/css/a b.css").write_text("p {}")
    (folder / "site/current").symlink_to("css")
    (folder / "notes").write_bytes(bytes(range(256)) * 1000)
    (folder / "notes").chmod(0o750)
    os.utime(folder / "notes", ns=(10**18 + 5, 10**18 + 5))
    return folder


@pytest.fixture
def there(tmp_path):
    """A folder of the guest's."""
    folder = tmp_path / "there"
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


SITE = ["css", "css/a b.css", "current", "index.html"]


def test_a_file_to_a_guest(lab, here, there):
    done = lab.run("vm", "cp", str(here / "notes"), f"web:{there}")
    assert (done.status, done.text) == (0, ""), done
    assert f"1 file, 250 KiB, to web:{there}/notes" in done.err
    copy = there / "notes"
    assert copy.read_bytes() == (here / "notes").read_bytes()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o750
    assert copy.stat().st_mtime_ns == 10**18 + 5
    assert lab.run("vm", "cp", str(here / "notes"), f"web:{there}/other name", "-q").err == ""
    assert names(there) == ["notes", "other name"]


def test_a_file_over_a_file(lab, here, there):
    (there / "notes").write_text("old")
    assert lab.run("vm", "cp", str(here / "notes"), f"web:{there}/notes").status == 0
    assert (there / "notes").read_bytes() == (here / "notes").read_bytes()


def test_a_folder_to_a_guest(lab, here, there):
    """Under its own name in a folder that is there, under a new name else, and what is in it with /. at its end."""
    assert lab.run("vm", "cp", str(here / "site"), f"web:{there}").status == 0
    assert names(there / "site") == SITE
    assert lab.run("vm", "cp", str(here / "site"), f"web:{there}/new").status == 0
    assert names(there / "new") == SITE
    (there / "www").mkdir()
    (there / "www/old").touch()
    assert lab.run("vm", "cp", f"{here}/site/.", f"web:{there}/www").status == 0
    assert names(there / "www") == [*SITE, "old"]
    assert (there / "www/current").readlink() == Path("css")


def test_a_folder_from_a_guest(lab, here, there):
    """The same the other way round; and once more over what is there."""
    assert lab.run("vm", "cp", f"web:{here}/site", str(there)).status == 0
    assert names(there / "site") == SITE
    assert lab.run("vm", "cp", f"web:{here}/site", f"{there}/new").status == 0
    assert names(there / "new") == SITE
    (there / "site/index.html").write_text("old")
    (there / "site/mine").touch()
    done = lab.run("vm", "cp", f"web:{here}/site", str(there), "--json")
    assert done.json == {
        "from": f"web:{here}/site", "to": f"{there}/site", "files": 2, "bytes": 7, "skipped": [],
    }  # fmt: skip
    assert names(there / "site") == sorted([*SITE, "mine"])
    assert (there / "site/index.html").read_text() == "<p>"
    assert lab.run("vm", "cp", f"web:{here}/site/.", f"{there}/new").status == 0
    assert names(there) == sorted(
        ["new", "site", *(f"new/{n}" for n in SITE), *(f"site/{n}" for n in [*SITE, "mine"])]
    )


def test_a_file_from_a_guest(lab, here, there):
    (here / "link").symlink_to("notes")
    os.chown(here / "notes", 1234, 1234)
    for target in (str(there), f"{there}/named", f"{there}/named"):
        assert lab.run("vm", "cp", f"web:{here}/notes", target).status == 0
    assert lab.run("vm", "cp", f"web:{here}/link", str(there)).status == 0
    assert names(there) == ["link", "named", "notes"]
    for name in names(there):
        info = (there / name).lstat()
        assert (there / name).read_bytes() == (here / "notes").read_bytes()
        assert (info.st_mode, info.st_uid, info.st_mtime_ns) == (
            stat.S_IFREG | 0o750,
            os.getuid(),
            10**18 + 5,
        )


def test_relative_paths(lab, here, there):
    """Of a guest they are below /root: its home, not ours."""
    done = lab.run("vm", "cp", "web:no/such", str(there))
    assert "cannot copy web:/root/no/such" in done.err
    done = subprocess.run(
        lab.argv("vm", "cp", "notes", f"web:{there}"),
        env=lab.env,
        cwd=here,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done
    done = subprocess.run(
        lab.argv("vm", "cp", f"web:{here}/site", "."),
        env=lab.env,
        cwd=there,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done
    assert names(there) == ["notes", "site", *(f"site/{name}" for name in SITE)]


def test_streams(lab, here, there):
    done = lab.run("vm", "cp", f"web:{here}/site", "-")
    assert done.status == 0
    with tarfile.open(fileobj=BytesIO(done.out)) as archive:
        assert {name.removeprefix("./") for name in archive.getnames()} == {
            "site",
            *(f"site/{n}" for n in SITE),
        }
    back = lab.run("vm", "cp", "-", f"web:{there}", "--json", stdin=done.out)
    assert back.json == {"from": "-", "to": f"web:{there}", "bytes": len(done.out)}
    assert names(there / "site") == SITE
    done = lab.run("vm", "cp", f"web:{here}/site/.", "-")
    with tarfile.open(fileobj=BytesIO(done.out)) as archive:
        assert {name.removeprefix("./") for name in archive.getnames()} == {".", *SITE} | set() - {""}
    assert lab.run("vm", "cp", "-", f"web:{there}/none", stdin=b"").status == 1
    done = lab.run("vm", "cp", "-", f"web:{there}", stdin=b"no tar at all" * 100)
    assert (done.status, "cannot unpack in web:" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("a", "b", "one of the two must be in a VM"),
        ("web:a", "web:b", "one of the two must be in a VM"),
        ("./web:a", "b", "one of the two must be in a VM"),
        ("Web:a", "b", "no valid VM name"),
        ("", "web:/", "an empty path"),
    ],
)
def test_refused_at_once(lab, source, target, said):
    done = lab.run("vm", "cp", source, target)
    assert (done.status, said in done.err) == (2, True), done
    assert lab.members() == []


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("web:{here}/none", "{there}", "there is no such file or folder"),
        ("web:{here}/notes/", "{there}", "is no folder"),
        ("web:/dev/null", "{there}", "neither a file nor a folder"),
        ("web:{here}/notes", "{there}/no/such", "there is no folder {there}/no"),
        ("web:{here}/notes", "{there}/no/", "there is no folder {there}/no"),
        ("web:{here}/site", "{there}/file", "over {there}/file, which is none"),
        ("web:{here}/notes", "{there}/holds", "a file over the folder {there}/holds/notes"),
        ("web:{here}/site", "{there}/clash", "is a folder on one side and none on the other"),
        ("{here}/none", "web:{there}", "there is no such file or folder"),
        ("{here}/notes/", "web:{there}", "is no folder"),
        ("{here}/notes", "web:{there}/no/such", "there is no folder that it would be in"),
        ("{here}/notes", "web:{there}/no/", "there is no such folder"),
        ("{here}/site", "web:{there}/file", "it is a file, and no folder can take its place"),
    ],
)
def test_copies_that_cannot_be_change_nothing(lab, here, there, *, source, target, said):
    (there / "file").touch()
    (there / "holds/notes").mkdir(parents=True)
    (there / "clash/site").mkdir(parents=True)
    (there / "clash/site/css").write_text("in the way")
    before = names(there)
    paths = {"here": here, "there": there}
    done = lab.run("vm", "cp", source.format(**paths), target.format(**paths))
    assert done.status == 1
    assert said.format(**paths) in done.err
    assert names(there) == before


def test_what_leads_out_is_refused_whole_or_left_out(lab, here, there):
    (here / "site/out").symlink_to("/etc/passwd")
    os.mkfifo(here / "site/pipe")
    done = lab.run("vm", "cp", f"web:{here}/site", str(there))
    assert done.status == 1
    assert "what the guest sent is not taken" in done.err
    assert "`--skip-unsafe` leaves such members out" in done.err
    assert names(there) == []
    done = lab.run("vm", "cp", f"web:{here}/site", str(there), "--skip-unsafe")
    assert done.status == 0
    assert "left out: out is a link that leads out, to /etc/passwd" in done.err
    assert "left out: pipe is a device or a FIFO" in done.err
    assert names(there / "site") == SITE
    assert lab.run("vm", "cp", str(here / "notes"), f"web:{there}", "--skip-unsafe").status == 2


def test_a_link_of_ours_at_the_target_is_not_written_through(lab, here, there):
    (there / "site").mkdir()
    (there / "secret").write_text("mine")
    (there / "site/index.html").symlink_to("../secret")
    assert lab.run("vm", "cp", f"web:{here}/site", str(there)).status == 0
    assert (there / "secret").read_text() == "mine"
    assert (there / "site/index.html").read_text() == "<p>"
    (there / "site/sub").symlink_to("/etc")
    (here / "site/by way of yours").symlink_to("sub/passwd")
    assert "leads out" in lab.run("vm", "cp", f"web:{here}/site", str(there)).err


def test_no_room(lab, tmp_path, there):
    """A sparse file of a terabyte is told before anything is sent."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    done = lab.run("vm", "cp", f"web:{large}", str(there))
    assert done.status == 1
    assert "1 TiB are to come" in done.err
    assert names(there) == []


def test_a_write_that_fails_leaves_nothing(lab, here, there):
    argv = " ".join(lab.argv("vm", "cp", f"web:{here}", str(there)))
    done = subprocess.run(
        ["sh", "-c", f"ulimit -f 100; exec {argv}"], env=lab.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"cannot write in {there}: File too large" in done.stderr
    assert names(there) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_midst_leaves_nothing(lab, tmp_path, there, signum):
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 30)
    client = lab.spawn("vm", "cp", f"web:{large}", str(there))
    deadline = time.monotonic() + 15
    while not any(path.is_file() and path.stat().st_size for path in there.rglob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client.send_signal(signum)
    _, err = client.communicate(timeout=15)
    assert client.returncode == 128 + signum, err
    assert f"cannot copy web:{large}: ended by {signum.name}" in err.decode()
    assert names(there) == []


def test_a_signal_while_nobody_reads(lab, tmp_path):
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 30)
    client = lab.spawn("vm", "cp", f"web:{large}", "-")
    assert client.stdout.read(1000)
    time.sleep(0.3)  # until the pipe is full
    client.send_signal(signal.SIGINT)
    assert client.wait(15) == 130
    assert b"cannot copy all of web:" in client.stderr.read()
    for stream in (client.stdin, client.stdout, client.stderr):
        stream.close()


def test_a_signal_while_nothing_comes(lab, there):
    client = lab.spawn("vm", "cp", "-", f"web:{there}")
    lab.wait_for("Exec", count=2)
    time.sleep(0.3)
    client.send_signal(signal.SIGINT)
    assert client.wait(15) == 130
    assert b"cannot copy all of it" in client.stderr.read()
    for stream in (client.stdin, client.stdout, client.stderr):
        stream.close()


def test_a_reader_that_leaves(lab, tmp_path):
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 30)
    client = lab.spawn("vm", "cp", f"web:{large}", "-")
    assert client.stdout.read(1000)
    client.stdout.close()
    assert client.wait(15) == 0  # it has seen enough
    client.stdin.close()
    client.stderr.close()


def test_no_stream_to_or_from_a_terminal(lab, terminal, there):
    shell = terminal("vm", "cp", f"web:{there}", "-")
    shell.expect("a tar stream is not for a terminal")
    assert shell.wait() == 2
    shell = terminal("vm", "cp", "-", f"web:{there}")
    shell.expect("does not come from a terminal")
    assert shell.wait() == 2
    assert json.dumps(lab.members()) == "[]"
