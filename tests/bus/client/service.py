"""A stand-in for bangerd on a private bus, for tests of the client: the contract's shape, and a scenario's behaviour.

`python service.py SCENARIO`: SCENARIO (JSON) is read anew at each call. What is not given is nothing special:

    calls     file that each call is added to, as a JSON line; another one means another test: jobs are forgotten
    vms       records of VMs: what ListVMs, FindVM and Describe give
    page      VMs in one answer of ListVMs
    images    names that are here
    doctor    checks
    log       what OpenLog's file holds
    jobs      {member: {"seconds": s, "stages": […], "error": [code, text], "end": "die"}}: how its job goes
    mute      jobs end without a signal
    stubborn  jobs take no notice of Cancel
    fail      {member: [error's code or whole name, text]}: the call fails
    prompt    members that need an interactive caller
    slow      {member: seconds}: before it is looked at
    die       members at whose call the service dies

Sessions are real: with the guest program behind a shim, whose socket is $GUEST.
"""

import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dbus_next.aio import MessageBus
from dbus_next.constants import BusType, MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

NAME = "com.thaloco.Banger1"
ROOT = "/com/thaloco/Banger1"
TYPES = {
    "owner": "u", "vcpu": "u", "memory": "t", "disk": "t", "size": "t", "done": "t", "total": "t", "number": "t",
    "path": "o",
}  # fmt: skip
KINDS = {bool: "b", int: "x", float: "d", str: "s", list: "as", dict: "a{ss}"}
VERBS = ("Start", "Stop", "Restart", "Kill", "Pause", "Resume", "Delete")

Answer = tuple[str, list[Any]]  # signature and body of a reply


def variants(record: dict[str, Any]) -> dict[str, Variant]:
    return {key: Variant(TYPES.get(key) or KINDS[type(value)], value) for key, value in record.items()}


def plain(value: Any) -> Any:
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def note(calls: str, record: dict[str, Any]) -> None:
    with Path(calls).open("a") as file:
        file.write(json.dumps(record) + "\n")


class Failed(Exception):
    """The call fails with this error: name (or banger's code) and text."""


class Job:
    """Work that takes as long, and ends, as planned."""

    def __init__(self, number: int, kind: str, client: str, plan: dict[str, Any]) -> None:
        self.number, self.kind, self.client, self.plan = number, kind, client, plan
        self.path = f"{ROOT}/job/{number}"
        self.state, self.stage, self.fraction = "running", "", -1.0
        self.error: list[str] = []
        self.started = int(time.time())
        self.task: asyncio.Task[None] | None = None

    async def work(self) -> None:
        stages = self.plan.get("stages", ["working"])
        try:
            for number, stage in enumerate(stages):
                self.stage, self.fraction = stage, number / len(stages)
                await asyncio.sleep(self.plan["seconds"] / len(stages))
        except asyncio.CancelledError:
            self.state, self.error = "canceled", ["Canceled", "the job was canceled"]
        else:
            self.end()

    def end(self) -> None:
        if self.plan.get("end") == "die":
            os._exit(3)
        self.error = self.plan.get("error", [])
        self.state = "failed" if self.error else "done"

    def record(self) -> dict[str, Any]:
        code, text = self.error or ("", "")
        return ({"error_name": f"{NAME}.Error.{code}", "error": text} if code else {}) | {
            "number": self.number, "path": self.path, "type": self.kind, "target": "vm/x", "state": self.state,
            "stage": self.stage, "fraction": self.fraction, "done": 0, "total": 0, "unit": "items",
            "started_at": self.started,
        }  # fmt: skip


class Service:
    """Answers calls by their member's name."""

    def __init__(self, bus: MessageBus, file: Path) -> None:
        self.bus, self.file = bus, file
        self.scenario: dict[str, Any] = {}
        self.jobs: list[Job] = []

    def read(self) -> None:
        before, self.scenario = self.scenario.get("calls"), json.loads(self.file.read_text())
        if self.scenario["calls"] != before:
            for job in self.jobs:
                if job.task is not None:
                    job.task.cancel()
            self.jobs.clear()

    def receive(self, msg: Message) -> Message | None:
        ours = (msg.interface or "").startswith((NAME, "org.freedesktop.DBus.Properties"))
        if msg.message_type is not MessageType.METHOD_CALL or not ours:
            return None
        self.read()
        interactive = bool(msg.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
        record = {
            "member": msg.member, "path": msg.path, "body": plain(msg.body), "fds": len(msg.unix_fds),
            "interactive": interactive,
        }  # fmt: skip
        note(self.scenario["calls"], record)
        try:
            self.hinder(msg, interactive=interactive)
            signature, body = self.answer(msg)
        except Failed as exc:
            name, text = exc.args
            return Message.new_error(msg, name if "." in name else f"{NAME}.Error.{name}", text)
        fds = [body[0]] if signature == "h" else []
        for fd in fds:
            asyncio.get_running_loop().call_later(1, os.close, fd)  # dbus-next has sent it by then
        return Message.new_method_return(msg, signature, [0] if fds else body, fds)

    def hinder(self, msg: Message, *, interactive: bool) -> None:
        scenario = self.scenario
        time.sleep(scenario.get("slow", {}).get(msg.member, 0))
        if msg.member in scenario.get("prompt", ()) and not interactive:
            raise Failed("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", "needs consent")
        if msg.member in scenario.get("fail", {}):
            raise Failed(*scenario["fail"][msg.member])
        if msg.member in scenario.get("die", ()):
            os._exit(3)

    def answer(self, msg: Message) -> Answer:
        kind = msg.path.removeprefix(ROOT).split("/")[1:2]
        if kind == ["job"]:
            return self.answer_job(msg, self.jobs[int(msg.path.rpartition("/")[2]) - 1])
        if kind == ["vm"]:
            return self.answer_vm(msg, msg.path.rpartition("/")[2])
        if kind == ["image"]:
            return self.begin(msg, "delete-image")
        return self.answer_manager(msg)

    def answer_job(self, msg: Message, job: Job) -> Answer:
        if msg.member == "Describe":
            return "a{sv}", [variants(job.record())]
        if job.task is not None and not self.scenario.get("stubborn"):
            job.task.cancel()
        return "", []

    def answer_vm(self, msg: Message, name: str) -> Answer:
        record = self.find(name) or {"name": name, "state": "running"}
        if msg.member in VERBS:
            return self.begin(msg, msg.member.lower())
        if msg.member == "Get":
            return "v", [Variant("s", record[msg.body[1].lower()])]
        if msg.member == "Describe":
            return "a{sv}", [variants(record)]
        if msg.member == "SetLabels":
            return "", []
        return "h", [self.session() if msg.member == "Exec" else self.console()]

    def answer_manager(self, msg: Message) -> Answer:
        scenario, body = self.scenario, plain(msg.body)
        match msg.member:
            case "Get":
                return "v", [Variant("s", "9.9.9")]
            case "FindVM":
                if self.find(body[0]) is None:
                    raise Failed("NoSuchVM", f"no VM named '{body[0]}'; `banger vm list` shows yours")
                return "o", [f"{ROOT}/vm/{body[0]}"]
            case "ListNames":
                return "as", [self.names(*body)]
            case "ListVMs":
                return "aa{sv}s", self.page(body[0])
            case "CreateVM":
                for fd in msg.unix_fds:
                    self.watch(fd)
                return "oo", [f"{ROOT}/vm/{body[0] or 'keen_otter'}", *self.begin(msg, "create")[1]]
            case "PullImage":
                return self.begin(msg, "pull")
            case "ImportImage":
                with os.fdopen(msg.unix_fds[0], "rb") as archive:
                    note(
                        scenario["calls"],
                        {"member": "read", "path": "", "body": [archive.read(100).decode()]},
                    )
                return self.begin(msg, "import")
            case "ListImages":
                extra = {
                    "id": "0123456789ab",
                    "path": f"{ROOT}/image/x",
                    "size": 123456789,
                    "created_at": 1,
                    "owner": 0,
                }
                rows = [{"name": name, **extra} for name in scenario.get("images", ())]
                return "aa{sv}", [[variants(row) for row in [*rows, *scenario.get("own_images", ())]]]
            case "ListKernels":
                record = {
                    "name": "debian",
                    "id": "ba9876543210",
                    "release": "6.1.0",
                    "size": 1024,
                    "created_at": 1,
                    "path": f"{ROOT}/kernel/x",
                    "digest": "sha256:0",
                    "source": "catalog",
                }
                return "aa{sv}", [[variants(record)]]
            case "ListJobs":
                return "aa{sv}", [[variants(job.record()) for job in self.jobs]]
            case "Doctor":
                return "aa{sv}", [[variants(check) for check in scenario.get("doctor", ())]]
            case "ResolveSpec":
                return "a{sv}", [variants(self.resolve(body[0]))]
        raise Failed("org.freedesktop.DBus.Error.UnknownMethod", msg.member)

    def find(self, name: str) -> dict[str, Any] | None:
        return next((vm for vm in self.scenario.get("vms", ()) if vm["name"] == name), None)

    def names(self, kind: str, options: dict[str, Any]) -> list[str]:
        vms = [vm["name"] for vm in self.scenario.get("vms", ()) if vm["owner"] == os.getuid()]
        found = {
            "vm": vms,
            "image": self.scenario.get("images", ()),
            "kernel": ["debian"],
            "cache": ["gocache"],
        }.get(kind, [])
        return [name for name in found if name.startswith(options.get("prefix", ""))]

    def page(self, options: dict[str, Any]) -> list[Any]:
        owner = options.get("owner")
        vms = [variants(vm) for vm in self.scenario.get("vms", ()) if owner in (None, vm["owner"])]
        after, size = int(options.get("after", 0)), self.scenario.get("page", 100)
        return [vms[after : after + size], str(after + size) if after + size < len(vms) else ""]

    def resolve(self, options: dict[str, Any]) -> dict[str, Any]:
        defaults = {
            "image": "debian",
            "kernel": "debian",
            "vcpu": 2,
            "memory": 512 * 1024**2,
            "disk": 8 * 1024**3,
        }
        spec = {**defaults, "nat": True, **options}
        origins = {f"{key}_origin": "request" if key in options else "host" for key in defaults}
        here = spec["image"] in self.scenario.get("images", ())
        return {**spec, **origins, "image_present": here, "kernel_present": True}

    def begin(self, msg: Message, kind: str) -> Answer:
        plan = self.scenario.get("jobs", {}).get(msg.member, {})
        job = Job(len(self.jobs) + 1, kind, msg.sender, plan)
        self.jobs.append(job)
        if plan.get("seconds"):
            job.task = asyncio.create_task(job.work())
            job.task.add_done_callback(lambda _: self.tell_end(job))
        else:
            job.end()
            self.tell_end(job)  # before the reply that names the job
        return "o", [job.path]

    def tell_end(self, job: Job) -> None:
        if self.scenario.get("mute"):
            return
        self.bus.send(
            Message(
                destination=job.client, path=ROOT, interface=f"{NAME}.Manager", member="JobRemoved",
                message_type=MessageType.SIGNAL, signature="os", body=[job.path, job.state],
            )
        )  # fmt: skip

    def session(self) -> int:
        guest = socket.socket(socket.AF_UNIX)
        guest.connect(os.environ["GUEST"])
        guest.sendall(b"CONNECT 1\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += guest.recv(1)
        assert answer.startswith(b"OK"), answer
        return guest.detach()

    def console(self) -> int:
        with tempfile.TemporaryFile() as file:
            file.write(self.scenario.get("log", "").encode("latin-1"))
            file.flush()
            return os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)

    def watch(self, fd: int) -> None:
        """Tell when the other end of a lifeline is closed."""
        calls = self.scenario["calls"]

        def hung_up() -> None:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)
            note(calls, {"member": "lifeline closed", "path": ""})

        asyncio.get_running_loop().add_reader(fd, hung_up)


async def main(scenario: Path) -> None:
    bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
    bus.add_message_handler(Service(bus, scenario).receive)
    await bus.request_name(NAME)
    print("ready", flush=True)
    await bus.wait_for_disconnect()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
