"""The demo's host where systemd is PID 1: banger installed as `make install` does it, on the machine's own bus.

The same interface as PrivateHost, for demohost.py. What is installed stays; what the demo adds (polkit's rule,
running VMs, the running service) goes with stop(). Only the standard library: it runs by the distribution's Python.
"""

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from privatehost import NAME, RULE, TOP, HostError, as_user, user_environment

RULES = Path("/etc/polkit-1/rules.d")
SOURCES = ("service", "client", "packaging", "polkit", "Makefile", "pyproject.toml")


class InstalledHost:
    """banger below `prefix`, for one user."""

    def __init__(self, prefix: Path, user: str) -> None:
        self.prefix = prefix
        self.user = user
        self.rule = RULES / f"50-{user}.rules"
        self._stamp = prefix / "lib/banger/.installed-from"

    def is_current(self) -> bool:
        """Whether what is installed was made from this checkout as it is."""
        return self._stamp.exists() and self._stamp.read_text() == sources_digest()

    def build(self) -> None:
        self._make("all")

    def install(self) -> None:
        self._make("install")
        self._stamp.write_text(sources_digest())

    def _make(self, target: str) -> None:
        _must("make", "-C", str(TOP), target, f"PREFIX={self.prefix}")

    def start(self) -> None:
        """polkitd has the rule, the service has not been called yet."""
        RULES.mkdir(parents=True, exist_ok=True)
        self.rule.write_text(RULE.format(user=self.user))
        self.rule.chmod(0o644)

    def activate(self) -> None:
        """Have the bus start bangerd, as a first call would. Raises HostError."""
        done = _call("busctl", "call", NAME, "/com/thaloco/Banger1", "org.freedesktop.DBus.Peer", "Ping")
        if done.returncode != 0:
            journal = _call("journalctl", "-u", "banger.service", "-n", "12", "-o", "cat").stdout
            raise HostError(f"bangerd does not start: {done.stderr.strip()}\n{journal}")

    def command(self, user: str, argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Command line and environment that run `argv` as the unprivileged user."""
        return as_user(user, argv), user_environment(user, self.prefix / "bin")

    def stop(self) -> None:
        """Stop the user's VMs, then the service, and take the rule away. Raises HostError if a VM does not stop."""
        if not self.rule.exists():
            return  # start() was not reached
        trouble = []
        try:
            for name in self._running():
                argv, env = self.command(self.user, ["banger", "vm", "stop", "--quiet", name])
                done = subprocess.run(argv, env=env, cwd="/", capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    trouble.append(f"VM {name} does not stop: {done.stderr.strip()}")
        finally:
            self.rule.unlink(missing_ok=True)
            _call("systemctl", "stop", "banger.service")
        if trouble:
            raise HostError("; ".join(trouble))

    def _running(self) -> list[str]:
        argv, env = self.command(self.user, ["banger", "vm", "list", "--json"])
        deadline = time.monotonic() + 60
        while True:
            done = subprocess.run(argv, env=env, cwd="/", capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise HostError(f"the VMs cannot be listed: {done.stderr.strip()}")
            vms = json.loads(done.stdout)
            # One of `vm run --rm` whose client was killed is on its way out.
            if not any(vm["state"] in ("deleting", "stopping") for vm in vms) or time.monotonic() > deadline:
                return [vm["name"] for vm in vms if vm["state"] in ("starting", "running", "paused")]
            time.sleep(0.2)


def sources_digest() -> str:
    """One hash over everything that is installed."""
    digest = hashlib.sha256()
    for name in SOURCES:
        top = TOP / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and not {"build", "__pycache__"} & set(path.parts[len(TOP.parts) :]):
                digest.update(
                    f"{path.relative_to(TOP)}\0".encode() + hashlib.sha256(path.read_bytes()).digest()
                )
    return digest.hexdigest()


def _call(*argv: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"LC_ALL": "C.UTF-8"}
    return subprocess.run(
        argv, capture_output=True, text=True, check=False, env=env, stdin=subprocess.DEVNULL
    )


def _must(*argv: str) -> None:
    done = _call(*argv)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise HostError(f"{' '.join(argv)} ended with status {done.returncode}:\n{tail}")
