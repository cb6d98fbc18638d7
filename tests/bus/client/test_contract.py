"""The client against the real bus edge and core on a host in memory, with real polkit, bus policy and guest program."""

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bangerd.model.vm import VM
from tests.bus.conftest import Service
from tests.bus.rig import ALICE, CAROL, Rig, groups_of

TOP = Path(__file__).parents[3]


@dataclass
class Done:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Awaitable[Done]]


def command(*words: str, uid: int) -> list[str]:
    groups = ",".join(map(str, [uid, *groups_of(uid)]))
    become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={groups}", "--"]
    return [*become, sys.executable, "-m", "banger", *words]


def environment(bus: Rig, uid: int) -> dict[str, str]:
    """With a home of the test's: this machine may have an account of that number, or none."""
    home = bus.folder / f"home-{uid}"
    if not home.exists():
        home.mkdir(mode=0o700)
        os.chown(home, uid, uid)
    return {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(TOP / "client"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LC_ALL": "C.UTF-8",
        "DBUS_SYSTEM_BUS_ADDRESS": bus.address,
    }


@pytest.fixture
def banger(bus: Rig, service: Service, guest: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`await banger("vm", "list", uid=ALICE)`"""

    def connect() -> int:
        link = socket.socket(socket.AF_UNIX)
        link.connect(str(guest))
        link.sendall(b"CONNECT 1\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += link.recv(1)
        assert answer.startswith(b"OK")
        return link.detach()

    async def open_session(_vm: VM, _port: int) -> int:
        return await asyncio.to_thread(connect)

    monkeypatch.setattr(service.ports.shims, "open_session", open_session)

    async def run(*words: str, uid: int = ALICE, stdin: bytes = b"") -> Done:
        client = await asyncio.create_subprocess_exec(
            *command(*words, uid=uid), env=environment(bus, uid),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(client.communicate(stdin), 20)
        assert client.returncode is not None
        return Done(client.returncode, out.decode(), err.decode())

    return run


async def test_a_run_leaves_nothing(banger: Run, service: Service) -> None:
    done = await banger("vm", "run", "--rm", "--", "sh", "-c", "cat; exit 7", stdin=b"hello")
    assert (done.status, done.out) == (7, "hello")
    assert done.err.startswith("spec: ")
    assert len(done.err.splitlines()) == 1
    assert service.vms.all() == ()


async def test_the_life_of_a_vm(banger: Run) -> None:
    done = await banger("vm", "create", "--name", "web", "--memory", "256M")
    assert (done.status, done.out) == (0, "web\n")
    for verb, state in (("start", "running"), ("pause", "paused"), ("resume", "running"), ("restart", "running"),
                        ("stop", "stopped"), ("start", "running"), ("kill", "stopped")):  # fmt: skip
        done = await banger("vm", verb, "web")
        assert (done.status, done.out) == (0, ""), done.err
        assert (await banger("vm", "list", "--json")).json[0]["state"] == state
    shown = (await banger("vm", "show", "web")).out
    assert "256 MiB" in shown
    assert "alice (uid 1000)" in shown
    assert (await banger("vm", "list")).out.splitlines()[1].split()[:3] == ["web", "stopped", "alice"]
    assert (await banger("vm", "delete", "web")).status == 0
    assert (await banger("vm", "list", "--json")).json == []


async def test_others(banger: Run) -> None:
    assert (await banger("vm", "run", "-q", "--name", "web", "--", "true")).status == 0
    assert (await banger("vm", "list", "--json", uid=CAROL)).json == []
    row = (await banger("vm", "list", "--all", "--json", uid=CAROL)).json[0]
    assert {"name", "state", "owner"} <= set(row)
    assert not {"image", "address", "memory"} & set(row)
    for words in (
        ("vm", "stop", "web"),
        ("vm", "exec", "web", "--", "true"),
        ("vm", "delete", "web"),
        ("vm", "show", "web"),
    ):
        done = (
            await banger(*words, "--json", uid=CAROL)
            if "--" not in words
            else await banger(*words, uid=CAROL)
        )
        assert done.status == (125 if "exec" in words else 1)
        assert done.err.strip()
    assert (await banger("vm", "delete", "web")).status == 0


async def test_errors_arrive(banger: Run) -> None:
    assert (
        await banger("vm", "stop", "nothere")
    ).err == "banger: no VM named 'nothere'; `banger vm list` shows yours\n"
    done = await banger("vm", "create", "--memory", "900T")
    assert done.status == 2
    assert "not possible here" in done.err
    done = await banger("vm", "run", "--image", "nothere", "--", "true")
    assert done.status == 125
    assert "nothere" in done.err
    assert (await banger("job", "cancel", "999")).status == 1


async def test_images_kernels_jobs_and_the_service(banger: Run) -> None:
    images = (await banger("image", "list", "--json")).json
    assert (await banger("image", "list")).out.splitlines()[1].split()[0] == images[0]["name"]
    shown = await banger("image", "show", images[0]["id"])
    assert re.search(
        r"^mise 20\S+$\s+from +https://registry.npmjs.org/\S+$\s+digest +sha512:", shown.out, re.MULTILINE
    )
    (package,) = (await banger("image", "show", images[0]["name"], "--json")).json["packages"]
    assert (package["name"], package["license"]) == ("mise", "MIT")
    assert "image list" in (await banger("image", "show", "nothere")).err
    assert (await banger("kernel", "list")).status == 0
    assert (await banger("vm", "create", "-q")).status == 0
    jobs = (await banger("job", "list", "--json")).json
    assert jobs[0]["type"] == "create"
    assert "create" in (await banger("job", "list")).out
    assert (await banger("version", "--json")).json["service"] == "0.1.0"
    doctor = await banger("doctor")
    assert doctor.out.splitlines()[0].split() == ["CHECK", "STATE", "FOUND"]
    assert doctor.status in (0, 1)


async def test_whoever_has_to_authenticate_is_asked_in_the_terminal(bus: Rig, banger: Run) -> None:
    """By polkit's own agent, which ends with the client."""
    assert (await banger("vm", "create", "-q", "--name", "web")).status == 0
    master, slave = os.openpty()
    client = await asyncio.create_subprocess_exec(
        "setsid", "-c", *command("vm", "stop", "web", uid=CAROL), env=environment(bus, CAROL),
        stdin=slave, stdout=slave, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    os.set_blocking(master, False)
    shown = await appear(master, b"Password: ")
    assert b"AUTHENTICATING FOR com.thaloco.banger1.vm.manage-others" in shown
    assert b"VM 'web'" in shown
    os.write(master, b"wrong\n")
    await appear(master, b"AUTHENTICATION FAILED")
    await appear(master, b"banger:")
    await appear(master, None)  # nobody has the terminal open any more: the agent is gone too
    assert await client.wait() == 1
    os.close(master)
    assert (await banger("vm", "delete", "web")).status == 0


async def appear(master: int, text: bytes | None) -> bytes:
    """Wait until `text`, or the end, appears on a terminal; all up to then."""
    seen = b""
    for _ in range(800):
        try:
            seen += os.read(master, 1)
        except BlockingIOError:
            await asyncio.sleep(0.05)
        except OSError:  # EIO: the end
            if text is None:
                return seen
            break
        if text is not None and seen.endswith(text):
            return seen
    raise AssertionError(f"no {text!r} in {seen!r}")


async def test_caches(banger: Run, service: Service) -> None:
    assert "`banger vm run --cache NAME:/PATH` makes one" in (await banger("cache", "list")).err
    done = await banger("vm", "run", "-q", "--name", "web", "--cache", "go:/root/go", "--", "true")
    assert done.status == 0, done
    await banger("vm", "create", "--name", "other", "--cache", "go:/a", "--cache", "apt:/b c:d")
    assert service.vms.find("other").spec.caches == {"/a": "go", "/b c:d": "apt"}
    (cache,) = (await banger("cache", "list", "--json")).json
    assert {"name": "go", "owner": ALICE, "owner_name": "alice", "vm": "web"}.items() <= cache.items()
    assert {type(cache[key]) for key in ("size", "used", "created_at")} == {int}
    headings, row = (await banger("cache", "list")).out.splitlines()
    assert headings.split() == ["NAME", "OWNER", "SIZE", "USED", "VM", "AGE"]
    assert row.split()[:7] == ["go", "alice", "16", "GiB", "4", "KiB", "web"]
    assert "caches  " in (shown := (await banger("vm", "show", "web")).out)
    assert "/root/go=go" in shown

    for words, status in (
        (("vm", "run", "--rm", "--cache", "go:/x", "--", "true"), 125),
        (("vm", "start", "other"), 1),
        (("cache", "delete", "go"), 1),
    ):
        done = await banger(*words)
        assert (done.status, done.out) == (status, ""), done
        assert "cache 'go' is in use by VM 'web'" in done.err
        assert "`banger vm stop web`" in done.err
    assert [vm.name for vm in service.vms.all()] == ["other", "web"]

    assert (await banger("cache", "list", "--all", "--json", uid=CAROL)).json == []
    done = await banger("cache", "delete", "go", "--owner", "0", "--json", uid=CAROL)
    assert done.status == 1
    assert json.loads(done.err)["error"] in ("AccessDenied", "AuthorizationRequired"), done
    await banger("vm", "stop", "web")
    done = await banger("cache", "delete", "nope", "go")
    assert done.status == 1
    assert "no cache named 'nope'" in done.err
    assert "cache go is deleted" in done.err
    assert (await banger("cache", "list", "--json")).json == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("go",), "write a name and a path, as in --cache go:/root/go"),
        ((":/x",), "write a name and a path"),
        (("go:",), "write a name and a path"),
        (("go:/x", "--cache", "apt:/x"), "two caches at '/x'"),
        (("go:x",), "give an absolute path"),
        (("Go:/x",), "no valid name of a cache"),
        (("go:/proc/x",), "belong to the system"),
    ],
)
async def test_caches_that_cannot_be(
    banger: Run, service: Service, words: tuple[str, ...], said: str
) -> None:
    done = await banger("vm", "create", "--cache", *words)
    assert (done.status, done.out) == (2, ""), done
    assert said in done.err
    assert service.vms.all() == ()
    assert service.world.caches == {}
    done = await banger("cache", "delete", "go", "--owner", "no such user")
    assert done.status == 2
    assert "no user named" in done.err
