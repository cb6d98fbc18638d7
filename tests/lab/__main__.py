"""`tests/lab/run`: the lab is booted, and pytest runs in it as it would here; its report and its logs come out."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.guest.machine import recipe
from tests.lab.machine import Lab
from tests.lab.root import SOURCE
from tests.system.debian_root import REPO

CACHE = "/var/cache/banger-tests"
# What can only be shown, or had better be shown, where KVM works.
SUBSET = ("tests/guest/test_run.py", "tests/guest/test_lifecycle.py", "tests/guest/test_crash.py")
# Emulating SVM makes all some five times slower.
PATIENCE = "600"


def main(words: list[str]) -> int:
    """pytest's exit status."""
    here = words[:1] == ["--here"]
    chosen = list(words[here:]) or list(SUBSET)
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=10", *chosen]
    if here:
        return subprocess.run([sys.executable, *arguments], cwd=REPO, check=False).returncode
    binary = os.environ.get("FIRECRACKER_BIN", "")
    if binary and not os.access(binary, os.X_OK):
        print(f"lab: FIRECRACKER_BIN={binary} is no program", file=sys.stderr)
        return 2
    start = time.monotonic()
    with Lab.boot(binary) as lab:
        print(f"lab: up after {time.monotonic() - start:.0f} s", flush=True)
        lab.sh(
            f"cp -r /lab/source/. {SOURCE}; mkdir -p {CACHE}; cp -r /lab/library {CACHE}/library-{recipe()};"
            "cat /sys/fs/cgroup/cgroup.controllers"
        )
        env = {
            "BANGER_TEST_CACHE": CACHE,
            "BANGER_REQUIRE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/root",
            "BANGER_TEST_PATIENCE": PATIENCE,
        }
        if binary:
            env["FIRECRACKER_BIN"] = "/lab/firecracker"
        status = lab.run(
            f"{SOURCE}/.venv/bin/python", *arguments, "--junitxml=/tmp/lab.xml", "--timeout", PATIENCE,
            env=env, cwd=SOURCE, sink=_out, check=False,
        )  # fmt: skip
        logs = REPO / "build/lab"
        logs.mkdir(parents=True, exist_ok=True)
        for name, script in (("lab.xml", "cat /tmp/lab.xml"), ("journal.txt", "journalctl -b --no-pager")):
            (logs / name).write_text(lab.sh(script))
        (logs / "console.txt").write_text(lab.console())
        print(
            f"lab: report and logs are in {logs.relative_to(Path.cwd())}, {time.monotonic() - start:.0f} s in all"
        )
    return status


def _out(data: memoryview) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
