"""mise in the image: only the archive that model/mise.py pins, whatever a mirror sends; and where it goes."""

import hashlib
import io
import json
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.unit.library_bench import GOOD_IMAGE, Bench
from tests.unit.test_worker_apt import Silent, apt, served

from bangerd.host.mirror import npm_registry
from bangerd.model import mise
from bangerd.model.errors import InvalidSpec
from bangerd.workers import customize
from bangerd.workers.reports import WorkerError

__all__ = ["served"]  # a fixture
NAME = "mise.tgz"


def archive(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


GOOD = archive(
    {"package/LICENSE": b"MIT\n", "package/bin/mise": b"#!/bin/sh\necho mise\n", "package/evil": b"x"}
)


def fetch(
    tmp_path: Path, uri: str, reports: Silent | None = None, options: str = "", size: int = len(GOOD)
) -> Path:
    target = tmp_path / "got.tgz"
    apt(tmp_path, "http://127.0.0.1:1", options).fetch_file(
        uri, target, sha512=hashlib.sha512(GOOD).hexdigest(), size=size, reports=reports or Silent()
    )
    return target


@pytest.mark.needs("apt-get", "prlimit")
def test_what_is_pinned_is_taken(tmp_path: Path, served: tuple[Path, str]) -> None:
    (served[0] / NAME).write_bytes(GOOD)
    reports = Silent()
    assert fetch(tmp_path, f"{served[1]}/{NAME}", reports).read_bytes() == GOOD
    assert reports.seen[-1] == ("download", len(GOOD), len(GOOD), "bytes")


@pytest.mark.needs("apt-get", "prlimit")
def test_a_tampered_archive_is_refused(tmp_path: Path, served: tuple[Path, str]) -> None:
    """One bit, the same length."""
    (served[0] / NAME).write_bytes(bytes([*GOOD[:-1], GOOD[-1] ^ 1]))
    with pytest.raises(
        WorkerError, match=r"is not what it should be, and was not used; try another `npm_mirror`"
    ) as no:
        fetch(tmp_path, f"{served[1]}/{NAME}")
    assert no.value.kind == "signature"
    assert not (tmp_path / "got.tgz").exists()


@pytest.mark.needs("apt-get", "prlimit")
def test_an_endless_archive_fills_no_disk(tmp_path: Path, served: tuple[Path, str]) -> None:
    (served[0] / NAME).write_bytes(GOOD + bytes(5_000_000))
    with pytest.raises(WorkerError, match=f"{NAME} "):
        fetch(tmp_path, f"{served[1]}/{NAME}", size=100_000)
    assert all(path.stat().st_size <= 1 << 20 for path in tmp_path.glob("got.tgz*"))


@pytest.mark.needs("apt-get", "prlimit")
@pytest.mark.parametrize(("uri", "kind", "says"), [
    ("http://127.0.0.1:1/mise.tgz", "network", "cannot be reached; check the network and the proxy, set `npm_mirror`"),
    ("{}/nothing.tgz", "missing", "nothing.tgz is not there; set `npm_mirror`"),
])  # fmt: skip
def test_no_archive(tmp_path: Path, served: tuple[Path, str], uri: str, kind: str, says: str) -> None:
    with pytest.raises(WorkerError, match=says) as no:
        fetch(tmp_path, uri.format(served[1]))
    assert no.value.kind == kind
    assert "or `mise = false` for an image without mise" in str(no.value)


@pytest.mark.needs("apt-get", "prlimit")
def test_apts_proxy_is_used(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"127\.0\.0\.1") as no:
        fetch(
            tmp_path,
            "http://registry.invalid/mise.tgz",
            options='Acquire::http::Proxy "http://127.0.0.1:1";\n',
        )
    assert no.value.kind == "network"


def test_what_of_it_is_installed(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(GOOD)
    root = tmp_path / "root"
    root.mkdir()
    customize.install_mise(root, tmp_path / NAME)
    program = root / "usr/local/bin/mise"
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"mise\n"
    assert (root / "usr/local/share/doc/mise/LICENSE").read_text() == "MIT\n"
    about = (root / "usr/local/share/doc/mise/README.banger").read_text()
    assert mise.VERSION in about
    assert mise.SHA512 in about
    assert not list(root.rglob("evil"))


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_login_shell_finds_the_tools(tmp_path: Path, shell: str) -> None:
    profile = tmp_path / "mise.sh"
    profile.write_text(customize._MISE_PROFILE)
    script = f"id() {{ echo $UID_HERE; }}; . {profile}; . {profile}; echo $PATH"
    for uid, path in (("0", f"{mise.SHIMS}:/usr/bin:/bin"), ("1000", "/usr/bin:/bin")):
        said = subprocess.run(
            [shell, "-c", script],
            env={"PATH": "/usr/bin:/bin", "UID_HERE": uid},
            capture_output=True,
            check=True,
        ).stdout
        assert said.decode().strip() == path


def test_registries() -> None:
    assert npm_registry("") == "https://registry.npmjs.org"
    assert npm_registry("http://mirror.lan/npm/") == "http://mirror.lan/npm"
    for bad in ("ftp://x", "/srv", "http://x y", "https://user:secret@mirror.lan"):
        with pytest.raises(InvalidSpec, match="npm_mirror"):
            npm_registry(bad)
    url = mise.package(npm_registry("")).url
    assert url == f"https://registry.npmjs.org/@jdxcode/mise-linux-x64/-/mise-linux-x64-{mise.VERSION}.tgz"


@pytest.mark.root
@pytest.mark.needs("mksquashfs")
async def test_the_image_names_it(bench: Bench) -> None:
    bench.worker_does(
        GOOD_IMAGE.replace(
            "squash()", "Path('tree').mkdir(); Path('tree/argv').write_text(str(sys.argv)); squash()"
        )
    )
    image = await bench.library.pull_image("debian-bookworm", lambda _p: None)
    (package,) = image.packages
    assert (package.name, package.digest) == ("mise", f"sha512:{mise.SHA512}")
    assert image.env == (f"PATH={mise.PATH}",)
    assert bench.open().images() == (image,)
    said = subprocess.run(
        ["unsquashfs", "-cat", bench.library.image_path(image), "argv"], capture_output=True, check=True
    )
    assert f"--mise={package.url}".encode() in said.stdout
    manifest = bench.state / f"images/{image.id}/manifest.json"
    for packages in ([{"name": "mise"}], ["mise"], {}):
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"packages": packages}))
        assert bench.open().images() == ()
