"""mise in a real guest: a repository's tools come in the background, and nothing waits for them or breaks with them.

A machine of its own, with a small internet behind it: one server that holds a tool.
"""

import functools
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.guest.machine import ALICE, Machine, Netns, User
from tests.patience import until

HOST, SERVER = "192.0.2.2", "192.0.2.1"  # TEST-NET-1
PORT = 8000
# A web server that answers only while there is no file `hold`.
SERVE = f"""
import http.server, os, time
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        open("asked", "w").close()
        while os.path.exists("hold"):
            time.sleep(0.02)
        super().do_GET()
http.server.ThreadingHTTPServer(("{SERVER}", {PORT}), Handler).serve_forever()
"""


@dataclass(frozen=True, slots=True)
class Tools:
    """A VM called tools, and the server's folder."""

    user: User
    served: Path
    repo: Path

    def hold(self) -> None:
        """Have the server keep who asks waiting."""
        (self.served / "asked").unlink(missing_ok=True)
        (self.served / "hold").touch()

    def release(self) -> None:
        (self.served / "hold").unlink(missing_ok=True)

    def asked(self) -> None:
        until((self.served / "asked").exists, "mise asks the server")

    def commit(self, name: str, text: str) -> None:
        """`name` with `text` in the repository, as the user."""
        (self.repo / name).write_text(text)
        shutil.chown(self.repo / name, self.user.name)
        done = self.user.run("git", "-C", str(self.repo), "add", name)
        assert done.status == 0, done

    def status(self) -> dict[str, Any]:
        """What `vm show` tells of the bootstrap."""
        found = self.user.json("vm", "show", "tools").get("tooling", [])
        assert len(found) < 2, found
        return dict(found[0]) if found else {}

    def wait_for(self, state: str) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            found = self.status()
            assert found.get("state") in (state, "running", None), f"{found}: {self.log()}"
            return found if found.get("state") == state else None

        return until(reached, f"the bootstrap is {state}")

    def log(self) -> str:
        return self.user.ok(
            "vm", "exec", "tools", "--", "cat", "/root/.cache/banger/vm-run-tooling-repo.log"
        )


def mise_toml(tool: bytes, port: int = PORT) -> str:
    return f"""\
[tools."http:hello"]
version = "1.0"
url = "http://{SERVER}:{port}/hello-{{{{ version }}}}.tgz"
checksum = "sha256:{hashlib.sha256(tool).hexdigest()}"
"""


@functools.cache
def archive() -> bytes:
    """The same each time, which gzip with its times is not."""
    script = b'#!/bin/sh\necho "hello from a tool: $*"\n'
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("hello-1.0/bin/hello")
        member.size, member.mode = len(script), 0o755
        tar.addfile(member, io.BytesIO(script))
    return packed.getvalue()


@pytest.fixture(scope="module")
def tools(cache: Path, library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    folder = cache / f"tooling-{os.getpid()}"
    folder.mkdir()
    served = tmp_path_factory.mktemp("served")
    (served / "hello-1.0.tgz").write_bytes(archive())
    machine = Machine(f"bgm{os.getpid()}", folder, library)
    outside = Netns(f"bgo{os.getpid()}")
    link = f"""link add up0 type veth peer name up1 netns {outside.name}
addr add {HOST}/24 dev up0
link set up0 up
route add default via {SERVER}
"""
    subprocess.run([*machine.netns.within, "ip", "-batch", "-"], input=link, text=True, check=True)
    for words in (f"addr add {SERVER}/24 dev up1", "link set up1 up"):
        subprocess.run([*outside.within, "ip", *words.split()], check=True)
    server = subprocess.Popen(
        [*outside.within, sys.executable, "-c", SERVE], cwd=served, stderr=subprocess.DEVNULL
    )
    try:
        machine.start()
        user = machine.user(ALICE)
        repo = user.home / "repo"
        assert user.run("git", "init", "-q", "-b", "main", str(repo)).status == 0
        made = Tools(user, served, repo)
        made.commit("mise.toml", mise_toml(archive()))
        made.commit("Makefile", "all:\n\t@echo built\n")
        yield made
        user.banger("vm", "delete", "tools")  # it may not be there
    finally:
        server.kill()
        server.wait()
        outside.close()
        machine.close()
        shutil.rmtree(folder)


def test_tools_come_while_the_command_runs(tools: Tools) -> None:
    """The first of the file: it makes the VM."""
    user = tools.user
    tools.hold()
    done = user.banger("vm", "run", "--name", "tools", str(tools.repo), "--", "make")
    assert (done.status, done.out) == (0, "built\n"), done
    assert "mise installs the repository's tools in the background" in done.err
    tools.asked()
    running = tools.status()
    assert (running["repo"], running["state"], running["status"]) == ("repo", "running", None)
    assert re.search(r"\btooling\n +repo +running since \d", user.ok("vm", "show", "tools"))
    tools.release()
    assert tools.wait_for("done")["status"] == 0
    assert "done in" in user.ok("vm", "show", "tools")
    assert "mise install in /root/repo" in tools.log()
    # Every kind of session in the folder finds them: plain, a login shell, a program that starts programs.
    where = ("vm", "exec", "tools", "--workdir", "/root/repo", "--")
    for command in (("hello", "you"), ("bash", "-lc", "hello you"), ("env", "hello", "you")):
        assert user.ok(*where, *command) == "hello from a tool: you\n"


def test_a_failure_is_the_bootstraps_alone(tools: Tools) -> None:
    tools.commit("mise.toml", mise_toml(archive(), port=1))
    user = tools.user
    user.ok("vm", "exec", "tools", "--", "rm", "-r", "/root/.local/share/mise")
    said = user.banger("vm", "workspace", "prepare", "tools", str(tools.repo), "--replace")
    assert said.status == 0, said
    failed = tools.wait_for("failed")
    assert failed["status"] == 1
    assert failed["ended"] >= failed["began"] > 0
    assert "Connection refused" in tools.log()
    assert "failed with status 1 after" in user.ok("vm", "show", "tools")


def test_a_wrong_checksum_is_no_tool(tools: Tools) -> None:
    tools.commit("mise.toml", mise_toml(b"another"))
    tools.user.ok("vm", "workspace", "prepare", "tools", str(tools.repo), "--replace")
    until(lambda: "hecksum" in tools.log(), "mise complains of the checksum")
    assert tools.wait_for("failed")["status"] == 1


def test_not_wanted(tools: Tools) -> None:
    before = tools.status()
    said = tools.user.banger(
        "vm", "workspace", "prepare", "tools", str(tools.repo), "--replace", "--no-tooling"
    )
    assert (said.status, "mise" in said.err) == (0, False), said
    assert tools.status() == before


def test_a_reboot_in_the_midst_of_it(tools: Tools) -> None:
    tools.commit("mise.toml", mise_toml(archive()))
    tools.hold()
    tools.user.ok("vm", "workspace", "prepare", "tools", str(tools.repo), "--replace")
    tools.asked()
    assert tools.wait_for("running")["status"] is None
    tools.user.ok("vm", "restart", "tools")
    assert tools.wait_for("failed")["status"] is None
    assert "such as a reboot" in tools.user.ok("vm", "show", "tools")
    tools.release()
