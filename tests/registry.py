"""A real registry on loopback, for tests; Debian's docker-registry."""

import socket
import subprocess
import time
from pathlib import Path


class LocalRegistry:
    """`within`: a command that enters the network namespace where it shall listen."""

    def __init__(self, folder: Path, port: int = 0, within: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.within = within
        if not port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{port}"
        folder.mkdir()
        config = folder / "config.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
            f"http: {{addr: '{self.host}'}}\n"
        )
        self._log = (folder / "log").open("wb")
        # It ends with us, also where a test run is killed.
        self._process = subprocess.Popen(
            [*within, "setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", str(config)],
            stdout=self._log,
            stderr=self._log,
        )
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "the registry does not answer"
            time.sleep(0.05)

    def _answers(self) -> bool:
        done = subprocess.run(
            [*self.within, "bash", "-c", f"exec 3<>/dev/tcp/{self.host.replace(':', '/')}"],
            stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        return done.returncode == 0

    def push(self, source: str, name: str) -> None:
        """`source` as skopeo has it: oci:DIR:TAG, docker-archive:FILE."""
        self._skopeo(
            "copy", "-q", "--all", "--dest-tls-verify=false", source, f"docker://{self.host}/{name}"
        )

    def pull(self, name: str, target: str) -> None:
        """What the peer gets."""
        self._skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{self.host}/{name}", target)

    def digest(self, name: str) -> str:
        said = self._skopeo(
            "inspect", "--tls-verify=false", "-f", "{{.Digest}}", f"docker://{self.host}/{name}"
        )
        return said.strip()

    def _skopeo(self, *arguments: str) -> str:
        return subprocess.run(
            [*self.within, "skopeo", *arguments], stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        self._log.close()
