"""What the workers make of apt's answers: real apt, a mirror on loopback that misbehaves."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bangerd.workers import archive, build_image, customize
from bangerd.workers.archive import Apt, Source
from bangerd.workers.reports import Reports, WorkerError

pytestmark = pytest.mark.needs("apt-get")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass


class Silent(Reports):
    """Takes the reports of a worker without its standard output."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int, str]] = []

    def progress(self, stage: str, done: int = 0, total: int = 0, unit: str = "bytes") -> None:
        self.seen.append((stage, done, total, unit))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the URI under which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: Quiet(*args, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def apt(tmp_path: Path, uri: str, options: str = "") -> Apt:
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    return Apt(tmp_path / "apt", Source("bookworm", uri, uri, keyring, options + 'Acquire::Retries "0";\n'))


def failure(tmp_path: Path, uri: str, options: str = "") -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        apt(tmp_path, uri, options).update(Silent())
    return caught.value


def test_no_network(tmp_path: Path) -> None:
    error = failure(tmp_path, "http://127.0.0.1:1/debian")
    assert error.kind == "network"
    assert "the mirror cannot be reached; check the network, the proxy, or `mirror`" in str(error)
    assert "127.0.0.1:1" in str(error)


def test_no_such_host(tmp_path: Path) -> None:
    assert failure(tmp_path, "http://mirror.invalid/debian").kind == "network"


def test_the_hosts_proxy_is_used(tmp_path: Path) -> None:
    error = failure(tmp_path, "http://mirror.invalid/debian", 'Acquire::http::Proxy "http://127.0.0.1:1";\n')
    assert error.kind == "network"
    assert "127.0.0.1" in str(error)


def test_a_mirror_without_the_release(tmp_path: Path, served: tuple[Path, str]) -> None:
    error = failure(tmp_path, served[1])
    assert error.kind == "missing"
    assert "the mirror does not have what is needed; check `mirror`" in str(error)


@pytest.mark.needs("gpg")
def test_a_mirror_that_another_signed(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, uri = served
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    gpg = [
        "gpg",
        "--homedir",
        str(home),
        "--batch",
        "--quiet",
        "--pinentry-mode",
        "loopback",
        "--passphrase",
        "",
    ]
    subprocess.run([*gpg, "--quick-generate-key", "mallory", "rsa2048"], check=True, capture_output=True)
    for suite in ("bookworm", "bookworm-updates", "bookworm-security"):
        release = folder / f"dists/{suite}/InRelease"
        release.parent.mkdir(parents=True)
        text = f"Origin: Debian\nSuite: {suite}\nCodename: {suite}\nDate: Sat, 01 Nov 2025 00:00:00 UTC\nSHA256:\n"
        subprocess.run(
            [*gpg, "--clearsign", "-o", release], input=text.encode(), check=True, capture_output=True
        )
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
    error = failure(tmp_path, uri)
    assert error.kind == "signature"
    assert "not signed by Debian's keys; try another `mirror`" in str(error)


def test_an_unsigned_mirror(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, uri = served
    for suite in ("bookworm", "bookworm-updates", "bookworm-security"):
        (folder / f"dists/{suite}").mkdir(parents=True)
        (folder / f"dists/{suite}/Release").write_text(f"Origin: Debian\nCodename: {suite}\n")
    assert failure(tmp_path, uri).kind == "signature"


def test_apt_keeps_to_its_folder(tmp_path: Path) -> None:
    made = apt(tmp_path, "http://127.0.0.1:1/debian")
    said = subprocess.run(
        ["apt-config", "shell", "A", "Dir::State::lists/d", "B", "Dir::Etc::sourcelist/f", "C",
         "Dir::Cache::archives/d", "D", "Dir::State::status/f", "E", "Dir::Etc::parts/d"],
        env=made._environment(), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    values = dict(line.replace("'", "").split("=", 1) for line in said.splitlines())
    assert Path(values["A"]) == made.lists
    assert Path(values["B"]) == made.folder / "etc/sources.list"
    assert Path(values["C"]) == made.archives
    assert Path(values["D"]) == made.folder / "status"
    for value in values.values():
        assert value == "" or value.startswith(str(made.folder)), values


def test_a_missing_tool() -> None:
    with pytest.raises(WorkerError, match="banger-no-such-tool is not installed; install it"):
        archive.needed("sh", "banger-no-such-tool")


@pytest.mark.needs("sqfstar", "mksquashfs", "unsquashfs")
@pytest.mark.parametrize(
    ("links", "init"),
    [
        ({"sbin": "usr/sbin", "usr/sbin/init": "../lib/systemd/systemd"}, "/sbin/init"),
        ({"sbin/init": "/lib/systemd/systemd"}, "/sbin/init"),
        ({"usr/sbin/initramfs": "x", "etc/init": "y"}, ""),
    ],
)
def test_the_images_init(tmp_path: Path, links: dict[str, str], init: str) -> None:
    for name, target in links.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).symlink_to(target)
    squashfs = tmp_path / "rootfs.squashfs"
    subprocess.run(["mksquashfs", tmp_path / "tree", squashfs, "-quiet", "-no-progress"], check=True)
    assert build_image.find_init(squashfs) == init


@pytest.mark.needs("sqfstar", "tar")
def test_a_bootstrap_that_fails_is_named(tmp_path: Path) -> None:
    """Not sqfstar, which then only sees half a tar."""
    command = ["sh", "-c", "head -c 2000 /dev/zero; echo 'E: maintainer script of foo' >&2; exit 3"]
    with pytest.raises(WorkerError, match="mmdebstrap failed with status 3: E: maintainer script of foo"):
        build_image._make(command, tmp_path / "a.squashfs", "lz4", 1, Silent())


@pytest.mark.needs("sqfstar", "tar")
def test_a_bootstrap_that_succeeds(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(b"x" * 3_000_000)
    script = f"echo 'Unpacking a' >&2; echo 'Setting up a' >&2; tar -C {tmp_path}/tree -c ."
    reports = Silent()
    build_image._make(["sh", "-c", script], tmp_path / "a.squashfs", "lz4", 1, reports)
    assert ("install", 1, 1, "items") in reports.seen
    assert max(done for stage, done, *_ in reports.seen if stage == "compress") > 3_000_000
    assert (tmp_path / "a.squashfs").read_bytes()[:4] == b"hsqs"


def test_what_an_image_promises(tmp_path: Path) -> None:
    """The README's five lines, no secrets, nothing of the build."""
    for name in ("etc/ssh/ssh_host_rsa_key", "var/lib/dbus/machine-id", "var/log/apt/term.log", "tmp/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("secret")
    for folder in ("var/lib/apt/lists", "var/cache/apt", "var/tmp", "var/lib/systemd", "root"):
        (tmp_path / folder).mkdir(parents=True)
    customize.finish(tmp_path)
    settings = (tmp_path / "etc/ssh/sshd_config.d/50-banger.conf").read_text()
    assert (
        """\
PermitRootLogin prohibit-password
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile /root/.ssh/authorized_keys
"""
        in settings
    )
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"secret"] == []
    assert (tmp_path / "etc/machine-id").read_bytes() == b""
    assert (tmp_path / "var/log/apt").is_dir()
    assert str((tmp_path / "etc/systemd/system/getty@.service").readlink()) == "/dev/null"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("deb [signed-by=/k] http://deb.debian.org/debian bookworm main\n", None),
        ("deb [signed-by=/k] https://mirror.lan/debian bookworm main\n", None),
        (
            "deb [signed-by=/k] http://127.0.0.1:3142/ftp.debian.org/debian bookworm main\n",
            "deb [signed-by=/k] http://deb.debian.org/debian bookworm main\n",
        ),
        (
            "deb [signed-by=/k] http://localhost:3142/debian-security bookworm-security main\n",
            "deb [signed-by=/k] http://deb.debian.org/debian-security bookworm-security main\n",
        ),
    ],
)
def test_a_mirror_that_only_the_host_has(tmp_path: Path, line: str, kept: str | None) -> None:
    sources = tmp_path / "sources.list"
    sources.write_text(line)
    customize._reachable_mirror(sources)
    assert sources.read_text() == (kept or line)


def test_reports_of_a_real_worker(tmp_path: Path) -> None:
    """Standard output carries reports alone, whatever tools print."""
    code = (
        "import subprocess\nfrom bangerd.workers import reports\n"
        "def job(report):\n    print('noise', flush=True); subprocess.run(['echo', 'more'])\n"
        "    report.progress('a', 0, 9); report.progress('a', 1, 9); report.progress('a', 9, 9)\n"
        "    raise OSError(28, 'No space left on device')\n"
        "raise SystemExit(reports.run(job))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == (
        '{"progress": {"stage": "a", "done": 0, "total": 9, "unit": "bytes"}}\n'
        '{"progress": {"stage": "a", "done": 9, "total": 9, "unit": "bytes"}}\n'
        '{"error": {"kind": "space", "text": "[Errno 28] No space left on device"}}\n'
    )
    assert "noise\nmore\n" in done.stderr
