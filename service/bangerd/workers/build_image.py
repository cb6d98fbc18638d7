"""Makes a Debian image out of its signed archive, in a sandbox: mmdebstrap, its tar stream, sqfstar.

    python3 -m bangerd.workers.build_image --suite bookworm --mirror URI --security-mirror URI \
        --keyring FILE --dir DIR [--apt-options FILE] [--compressor lz4|none] [--mise URI]

Two stages. With the network, and running nothing of any package, apt fetches and verifies. Then, in a
network namespace without any network, mmdebstrap unpacks and runs the maintainer scripts. Leaves
rootfs.squashfs in DIR; its result line says {"init": …, "packages": …}.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from bangerd.model import mise
from bangerd.workers import archive, customize, reports
from bangerd.workers.reports import Reports, WorkerError

# "The usual dev tools", small enough to be fetched and installed within half a minute.
PACKAGES = (
    # A machine: init, the bus, remote login, loading modules, network tools.
    "systemd", "systemd-sysv", "dbus", "openssh-server", "kmod", "udev", "iproute2", "iputils-ping", "netbase",
    "procps", "psmisc", "lsof", "e2fsprogs", "sudo", "ca-certificates", "libnss-myhostname", "tzdata",
    # Tools of the trade.
    "git", "jq", "curl", "wget", "make", "gcc", "g++", "libc6-dev", "patch", "pkg-config", "python3",
    "python3-venv", "rsync", "openssh-client", "tmux", "ncurses-term", "bash-completion", "vim-tiny", "less",
    "file", "tree", "unzip", "zip", "xz-utils", "zstd", "bzip2", "strace", "netcat-openbsd",
)  # fmt: skip
_LINE = re.compile(rb"^(Unpacking|Setting up) ")
_BLOCK = 1024 * 1024
_TAIL = 16 * 1024


def build(
    folder: Path, source: archive.Source, compressor: str, mise_uri: str, report: Reports
) -> dict[str, object]:
    """`mise_uri`: of the archive that model/mise.py names, "" for an image without it."""
    archive.needed("apt-get", "mmdebstrap", "sqfstar", "unsquashfs", "unshare", "tar")
    apt = archive.Apt(folder / "apt", source)
    apt.update(report)
    # The two sets that mmdebstrap asks for: what is essential, and the rest.
    apt.fetch(["install", "?essential", "apt", *PACKAGES], report)
    apt.fetch(["dist-upgrade"], report)
    archives = [folder / "apt/mise.tgz"] if mise_uri else []
    for path in archives:
        apt.fetch_file(mise_uri, path, sha512=mise.SHA512, size=mise.SIZE, reports=report)
    # mmdebstrap and sqfstar use no later time: the same packages make the same image, with the same id.
    os.environ["SOURCE_DATE_EPOCH"] = str(apt.date())
    packages = len(list(apt.archives.glob("*.deb")))
    report.progress("install", 0, packages, "items")
    squashfs = folder / "rootfs.squashfs"
    _make(_bootstrap(source, apt, archives), squashfs, compressor, packages, report)
    init = find_init(squashfs)
    shutil.rmtree(folder / "apt")
    return {"init": init, "packages": packages}


def _bootstrap(source: archive.Source, apt: archive.Apt, archives: list[Path]) -> list[str]:
    """mmdebstrap's command line; its standard output is the tar stream of the finished root."""
    hook = f"{sys.executable} -m bangerd.workers.customize"
    fetched = shlex.join([str(apt.lists), str(apt.archives)])
    return [
        # No network from here on: maintainer scripts run now.
        "unshare", "--net", "--",
        "mmdebstrap", "--verbose", "--mode=root", "--variant=apt", "--format=tar", "--skip=update,cleanup/apt",
        f"--architectures={source.architecture}", f"--include={','.join(PACKAGES)}",
        "--aptopt=APT::Sandbox::User \"root\"",
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt={line}" for line in customize.EXCLUDED),
        f"--setup-hook={hook} prepare \"$1\" {fetched}",
        f"--customize-hook={hook} finish \"$1\" {shlex.join(map(str, archives))}",
        source.suite, "-", *source.lines(),
    ]  # fmt: skip


def _make(command: list[str], squashfs: Path, compressor: str, packages: int, report: Reports) -> None:
    """Run mmdebstrap into sqfstar. Raises WorkerError that names the one that failed first."""
    compress = ["-comp", "lz4"] if compressor == "lz4" else ["-noI", "-noD", "-noF", "-noX"]
    log = _Log(lambda seen: report.progress("install", min(seen // 2, packages), packages, "items"))
    bootstrap = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    squash_log = squashfs.with_suffix(".log")
    with squash_log.open("wb") as output:
        squash = subprocess.Popen(
            [
                "sqfstar",
                *compress,
                "-no-progress",
                "-quiet",
                "-processors",
                "2",
                "-mem",
                "64M",
                str(squashfs),
            ],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
    assert bootstrap.stdout and bootstrap.stderr and squash.stdin  # noqa: S101, PT018
    reader = threading.Thread(target=log.read, args=(bootstrap.stderr,))
    reader.start()
    _pump(bootstrap.stdout, squash.stdin, lambda done: report.progress("compress", done))
    squash_status = squash.wait()
    if squash_status == 0:  # it stops reading at the end mark, some zeros before the end of the stream
        while bootstrap.stdout.read(_BLOCK):
            pass
    bootstrap.stdout.close()
    reader.join()
    status = bootstrap.wait()
    # Each dies of the other's death: mmdebstrap of a closed pipe, sqfstar of half a tar.
    said = squash_log.read_text(errors="replace")
    if squash_status != 0 and "reading tar file" not in said:
        raise _failed("sqfstar", squash_status, said)
    if status != 0 or squash_status != 0:
        raise _failed("mmdebstrap", status, log.text())


class _Log:
    """Reads what mmdebstrap says: counts dpkg's lines, keeps the end of it for an error."""

    def __init__(self, count: Callable[[int], None]) -> None:
        self._count = count
        self._seen = 0
        self._tail = b""

    def read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._line(line)

    def _line(self, line: bytes) -> None:
        self._tail = (self._tail + line)[-_TAIL:]
        sys.stderr.buffer.write(line)
        if _LINE.match(line):
            self._seen += 1
            self._count(self._seen)

    def text(self) -> str:
        return self._tail.decode(errors="replace")


def _pump(source: IO[bytes], sink: IO[bytes], tell: Callable[[int], None]) -> None:
    """Carry the tar stream and count it, until either side is done."""
    done = 0
    try:
        while moved := os.splice(source.fileno(), sink.fileno(), _BLOCK):
            done += moved
            tell(done)
    except BrokenPipeError:
        return
    finally:
        sink.close()


def find_init(squashfs: Path) -> str:
    """Path of the image's init, "" when it has none."""
    listing = subprocess.run(
        ["unsquashfs", "-ls", "-d", "", str(squashfs), "sbin/init", "usr/sbin/init"],
        capture_output=True, text=True, errors="replace", check=True,
    ).stdout  # fmt: skip
    return "/sbin/init" if re.search(r"^(/usr)?/sbin/init$", listing, re.MULTILINE) else ""


def _failed(tool: str, status: int, said: str) -> WorkerError:
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return WorkerError("space", "the disk is full; free some room and pull again")
    if status == -9 or "Cannot allocate memory" in said:
        return WorkerError("failed", f"{tool} was killed; the machine may be out of memory")
    lines = [line for line in said.splitlines() if re.match(r"E: |dpkg: error|FATAL", line)]
    return WorkerError("failed", f"{tool} failed with status {status}: {'; '.join(lines[:3])[:400]}")


def main() -> int:
    parser = argparse.ArgumentParser(description="make a Debian image for VMs")
    archive.add_arguments(parser)
    parser.add_argument("--compressor", choices=("lz4", "none"), default="lz4")
    parser.add_argument(
        "--mise", default="", help="URI of mise's archive; an image without mise if not given"
    )
    options = parser.parse_args()
    return reports.run(
        lambda report: build(
            options.dir, archive.source_of(options), options.compressor, options.mise, report
        )
    )


if __name__ == "__main__":
    sys.exit(main())
