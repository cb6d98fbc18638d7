"""Debian's archive as a worker sees it: apt with a state of its own below the job's folder.

Nothing of the machine's apt is read or written; what to fetch from, the keyring and the proxy come by
arguments. apt verifies: no package is used whose hash does not lead to a signature of that keyring.
"""

import argparse
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from bangerd.workers.reports import Reports, WorkerError

# What apt says, what it means. The first that matches is told; apt's own last error line goes with it.
_MEANINGS = {
    "space": r"No space left on device|not have enough free space|Disk quota exceeded",
    "signature": (
        r"NO_PUBKEY|BADSIG|EXPKEYSIG|REVKEYSIG|is not signed|invalid signature|Clearsigned file isn't valid"
        r"|signatures couldn't be verified|Hash Sum mismatch|unexpected size"
    ),
    "date": r"is not valid yet|is expired|no longer valid",
    "network": (
        r"Temporary failure resolving|Could not resolve|Could not connect|Cannot initiate the connection"
        r"|Connection (refused|timed out|failed|reset)|Network is unreachable|Unable to connect"
        r"|certificate|handshake|\b(40[0-35-9]|50[0-9])  "
    ),
    "missing": r"does not have a Release file|\b404  |Unable to locate package",
}
_HELP = {
    "space": "the disk is full; free some room and pull again",
    "signature": "what the mirror sent is not signed by Debian's keys; try another `mirror`, or upgrade the "
    "package debian-archive-keyring",
    "date": "the mirror's index is out of date, or this machine's clock is wrong",
    "network": "the mirror cannot be reached; check the network, the proxy, or `mirror` in the configuration",
    "missing": "the mirror does not have what is needed; check `mirror` in the configuration",
    "failed": "apt failed",
}
_ELSEWHERE = "set `npm_mirror` in the configuration, or `mise = false` for an image without mise"
_FILE_HELP = {
    **_HELP,
    "signature": "{uri} is not what it should be, and was not used; try another `npm_mirror`",
    "network": f"{{uri}} cannot be reached; check the network and the proxy, {_ELSEWHERE}",
    "missing": f"{{uri}} is not there; {_ELSEWHERE}",
    "failed": f"{{uri}} could not be fetched; {_ELSEWHERE}",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where packages come from. `options`: lines of apt.conf, like `Acquire::http::Proxy "…";`."""

    suite: str
    mirror: str
    security_mirror: str
    keyring: Path
    options: str
    architecture: str = "amd64"

    def lines(self) -> list[str]:
        """Of sources.list: the release, its updates, its security updates."""
        return [
            f"deb [signed-by={self.keyring}] {mirror} {suite} main"
            for mirror, suite in (
                (self.mirror, self.suite),
                (self.mirror, f"{self.suite}-updates"),
                (self.security_mirror, f"{self.suite}-security"),
            )
        ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", required=True, help="bookworm, trixie")
    parser.add_argument("--mirror", required=True, help="URI of Debian's archive")
    parser.add_argument("--security-mirror", required=True, help="URI of Debian's security archive")
    parser.add_argument("--keyring", type=Path, required=True, help="Debian's archive keyring")
    parser.add_argument("--apt-options", type=Path, help="a file of further lines for apt.conf")
    parser.add_argument("--architecture", default="amd64")
    parser.add_argument("--dir", type=Path, required=True, help="the job's folder")


def source_of(options: argparse.Namespace) -> Source:
    return Source(
        options.suite,
        options.mirror,
        options.security_mirror,
        options.keyring,
        options.apt_options.read_text() if options.apt_options else "",
        options.architecture,
    )


class Apt:
    """apt-get and apt-cache with everything below `folder`."""

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder = folder
        self.archives = folder / "cache/archives"
        self.lists = folder / "state/lists"
        self.conf = folder / "apt.conf"
        for path in (self.lists / "partial", self.archives / "partial", folder / "etc", folder / "log"):
            path.mkdir(parents=True)
        (folder / "status").touch()
        (folder / "etc/sources.list").write_text("".join(f"{line}\n" for line in source.lines()))
        self.conf.write_text(
            f'Dir "{folder}";\n'
            # Sources, settings and keys of the host are all named relative to this.
            'Dir::Etc "etc";\n'
            f'Dir::State "state"; Dir::State::Status "{folder}/status"; Dir::Cache "cache"; Dir::Log "log";\n'
            f'APT::Architecture "{source.architecture}"; APT::Architectures {{ "{source.architecture}"; }};\n'
            # The whole worker is nobody already, and in its user namespace _apt owns no file.
            'APT::Sandbox::User "root";\n'
            'APT::Install-Recommends "false"; Acquire::Languages "none"; APT::Update::Error-Mode "any";\n'
            'Acquire::Retries "2"; Acquire::http::Timeout "20"; Acquire::https::Timeout "20";\n'
            + source.options
        )

    def update(self, reports: Reports) -> None:
        reports.progress("index")
        self._get(["update"], lambda _percent: reports.progress("index"))

    def date(self) -> int:
        """Of the newest index, unix time: that of everything made from it."""
        texts = [path.read_text(errors="replace") for path in self.lists.glob("*InRelease")]
        dates = [found[1] for text in texts if (found := re.search(r"^Date: (.+)$", text, re.MULTILINE))]
        return max((int(parsedate_to_datetime(date).timestamp()) for date in dates), default=0)

    def fetch(self, verb: Sequence[str], reports: Reports) -> int:
        """Download what `verb` (`install …`, `dist-upgrade`) would install into `archives`. Returns how many
        packages that is."""
        uris = self._run(["apt-get", "--print-uris", "-qq", "--yes", *verb])
        sizes = [int(line.split()[2]) for line in uris.splitlines() if line.startswith("'")]
        total = sum(sizes)

        def tell(percent: float) -> None:
            reports.progress("download", int(total * percent / 100), total)

        if sizes:
            tell(0)
            self._get(["--download-only", "--yes", *verb], tell)
            tell(100)
        return len(sizes)

    def depends(self, package: str) -> list[str]:
        """Names that `package` depends on, first alternatives only."""
        said = self._run(["apt-cache", "depends", "--important", package])
        return re.findall(r"^\s+Depends: (\S+)$", said, re.MULTILINE)

    def download(self, package: str, reports: Reports) -> Path:
        """Download one package alone, without what it depends on."""
        said = self._run(["apt-get", "--print-uris", "-qq", "download", package])
        fields = next((line.split() for line in said.splitlines() if line.startswith("'")), None)
        if fields is None:
            raise WorkerError("missing", f"no package {package}: {_HELP['missing']}")
        total = int(fields[2])

        def tell(percent: float) -> None:
            reports.progress("download", int(total * percent / 100), total)

        tell(0)
        self._get(["download", package], tell)
        tell(100)
        return self.archives / fields[1]

    def fetch_file(self, uri: str, target: Path, *, sha512: str, size: int, reports: Reports) -> None:
        """Download a file that no index names, with apt's proxies and certificates. Raises WorkerError."""
        methods = self._run(["apt-config", "shell", "METHODS", "Dir::Bin::methods/f"]).split("'")[1]
        # No more is written, whatever the server sends; what apt logs has room too.
        helper = ("prlimit", f"--fsize={max(size, 1 << 20)}", str(Path(methods).parent / "apt-helper"))
        meanings = {kind: text.format(uri=uri) for kind, text in _FILE_HELP.items()}

        def tell(percent: float) -> None:
            reports.progress("download", int(size * percent / 100), size)

        tell(0)
        self._get(
            ["download-file", uri, str(target), f"SHA512:{sha512}"], tell, program=helper, meanings=meanings
        )
        tell(100)

    def _get(
        self,
        arguments: Sequence[str],
        percent: Callable[[float], None],
        *,
        program: Sequence[str] = ("apt-get",),
        meanings: Mapping[str, str] = _HELP,
    ) -> None:
        """apt-get with its progress: lines `dlstatus:<file>:<percent>:<text>` on a descriptor."""
        read, write = os.pipe()
        log = self.folder / "log/apt-get"
        with log.open("w+b") as output:
            process = subprocess.Popen(
                [*program, "-q", "-o", f"APT::Status-Fd={write}", *arguments],
                env=self._environment(),
                cwd=self.archives,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(write,),
            )
            os.close(write)
            with os.fdopen(read, errors="replace") as lines:
                for line in lines:
                    fields = line.split(":", 3)
                    if fields[0] == "dlstatus" and len(fields) == 4:
                        percent(float(fields[2]))
            if process.wait() != 0:
                raise _failure(log.read_text(errors="replace"), meanings)

    def _run(self, argv: Sequence[str]) -> str:
        done = subprocess.run(
            argv, env=self._environment(), cwd=self.archives, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise _failure(done.stdout + done.stderr)
        return done.stdout

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "APT_CONFIG": str(self.conf)}


def _failure(said: str, meanings: Mapping[str, str] = _HELP) -> WorkerError:
    said = re.sub(
        r"^(Err:.*)\n  (?=\S)", r"\1: ", said, flags=re.MULTILINE
    )  # what is wrong is on the next line
    errors = [line.strip() for line in said.splitlines() if line.startswith(("E:", "W:", "Err:"))]
    text = "\n".join(errors)
    kind = next((kind for kind, pattern in _MEANINGS.items() if re.search(pattern, text)), "failed")
    telling = [line for line in errors if re.search(_MEANINGS.get(kind, "^E:"), line)]
    shown = (telling or errors or said.strip().splitlines() or ["it gave no reason"])[-1]
    return WorkerError(kind, f"{meanings[kind]} (apt: {re.sub('^[EW]: ', '', shown)[:300]})")


def needed(*tools: str) -> None:
    """Raise WorkerError when a tool is missing."""
    for tool in tools:
        if shutil.which(tool) is None:
            raise WorkerError(
                "tool", f"{tool} is not installed; install it with your package manager and pull again"
            )
