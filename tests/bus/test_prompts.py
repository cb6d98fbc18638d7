"""Interactive authorization: who asks for a prompt gets one that says what it is for, and it decides."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from bangerd.bus import polkit
from tests.bus.caller import ERRORS, INTERACTIVE, NAME, CallFailed, Client
from tests.bus.conftest import Service
from tests.bus.rig import ALICE, BOB, Rig

User = Callable[[int], Awaitable[Client]]
AGENT = "org.freedesktop.PolicyKit1.AuthenticationAgent"
AUTHORITY = ("/org/freedesktop/PolicyKit1/Authority", "org.freedesktop.PolicyKit1.Authority")
POLKIT = "org.freedesktop.PolicyKit1"


class Agent:
    """Answers polkit's prompts for one client, on that client's connection."""

    def __init__(self, client: Client, root: Client) -> None:
        self.client = client
        self.prompts: asyncio.Queue[Message] = asyncio.Queue()
        self.cancelled = asyncio.Event()
        self._root = root
        client.serve = self._called

    def _called(self, message: Message) -> None:
        if message.member == "BeginAuthentication":
            self.prompts.put_nowait(message)
        else:
            self.cancelled.set()

    async def begin(self) -> None:
        assert self.client.process is not None
        pid = self.client.process.pid
        started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        process = {"pid": Variant("u", pid), "start-time": Variant("t", started), "uid": Variant("i", BOB)}
        subject = ["unix-process", process]
        path, interface = AUTHORITY
        body = [subject, "C.UTF-8", "/agent"]
        await self.client.ask(
            self.client.message(
                path, interface, "RegisterAuthenticationAgent", "(sa{sv})ss", body, destination=POLKIT
            )
        )

    async def answer(self, prompt: Message, *, yes: bool) -> None:
        """As root's helper does once the password was right; or close the prompt."""
        if yes:
            _action, _message, _icon, _details, cookie, identities = prompt.body
            path, interface = AUTHORITY
            body = [BOB, cookie, identities[0]]
            await self._root.ask(
                self._root.message(
                    path, interface, "AuthenticationAgentResponse2", "us(sa{sv})", body, destination=POLKIT
                )
            )
            reply = Message(
                message_type=MessageType.METHOD_RETURN, reply_serial=prompt.serial, destination=prompt.sender
            )
        else:
            reply = Message(
                message_type=MessageType.ERROR,
                error_name="org.freedesktop.PolicyKit1.Error.Cancelled",
                reply_serial=prompt.serial,
                destination=prompt.sender,
                signature="s",
                body=["no"],
            )
        reply.serial = self.client.next_serial()
        await self.client.send_bytes(bytes(reply._marshall()))


@pytest.fixture
async def agent(bus: Rig, user: User) -> AsyncIterator[Agent]:
    """Bob's, who is a process of his own: polkit has agents for processes and sessions, and looks whose they are."""
    async with await Client.connect_from_process(bus.address, BOB) as bob:
        made = Agent(bob, await user(0))
        await made.begin()
        yield made


@pytest.fixture
async def web(service: Service, user: User) -> str:
    """A VM of alice's."""
    return (await (await user(ALICE)).create("web"))[0]


def deletion(agent: Agent, vm: str) -> "asyncio.Task[list[Any]]":
    return asyncio.create_task(agent.client.call(vm, "VM.Delete", "a{sv}", {}, interactive=True))


async def test_a_prompt_says_what_it_is_for_and_lets_in(service: Service, agent: Agent, web: str) -> None:
    call = deletion(agent, web)
    prompt = await agent.prompts.get()
    assert prompt.body[0] == "com.thaloco.banger1.vm.manage-others"
    assert prompt.body[1] == "Authentication is required to manage the VM 'web' of alice"
    assert not call.done()
    assert await agent.client.manager("Ping", "") == []  # others, and the same client, go on meanwhile
    await agent.answer(prompt, yes=True)
    (job,) = await call
    assert (await agent.client.done(job))["state"] == "done"
    assert service.world.nothing_left()


async def test_an_answer_is_not_kept(service: Service, agent: Agent, web: str) -> None:
    for _ in range(2):
        call = asyncio.create_task(agent.client.call(web, "VM.Stop", "a{sv}", {}, interactive=True))
        await agent.answer(await agent.prompts.get(), yes=True)
        await call


async def test_a_prompt_that_is_closed_is_a_no(service: Service, agent: Agent, web: str) -> None:
    call = deletion(agent, web)
    await agent.answer(await agent.prompts.get(), yes=False)
    with pytest.raises(CallFailed) as failed:
        await call
    assert failed.value.name == ERRORS + "AccessDenied"
    assert failed.value.text.endswith("and the authentication for it was dismissed")
    assert service.vms.find("web")


async def test_without_the_flag_nobody_is_asked(service: Service, agent: Agent, web: str) -> None:
    with pytest.raises(CallFailed) as failed:
        await agent.client.call(web, "VM.Delete", "a{sv}", {})
    assert failed.value.name == "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
    assert agent.prompts.empty()


async def test_the_object_is_looked_at_again_after_a_prompt(
    service: Service, agent: Agent, web: str, user: User
) -> None:
    """While bob's admin types, the VM goes and its short id comes back as somebody else's."""
    alice = await user(ALICE)
    call = deletion(agent, web)
    prompt = await agent.prompts.get()
    machine = service.vms._machines[web.rpartition("/")[2]]
    machine.vm = replace(machine.vm, id="another", owner_uid=0, owner_name="root")
    await agent.answer(prompt, yes=True)
    with pytest.raises(CallFailed) as failed:
        await call
    assert failed.value.name == ERRORS + "WrongState"
    assert "changed while permission was asked for" in failed.value.text

    machine.vm = replace(machine.vm, owner_uid=ALICE, owner_name="alice")
    call = deletion(agent, web)
    prompt = await agent.prompts.get()
    (job,) = await alice.call(web, "VM.Delete", "a{sv}", {})
    await alice.done(job)
    await agent.answer(prompt, yes=True)
    with pytest.raises(CallFailed) as failed:
        await call
    assert failed.value.name == ERRORS + "NoSuchVM"


async def test_a_prompt_goes_when_its_caller_goes(bus: Rig, service: Service, web: str, user: User) -> None:
    root = await user(0)
    async with await Client.connect_from_process(bus.address, BOB) as bob:
        agent = Agent(bob, root)
        await agent.begin()
        await bob.send(bob.message(web, f"{NAME}.VM", "Delete", "a{sv}", [{}], flags=INTERACTIVE))
        await agent.prompts.get()
    async with asyncio.timeout(5):
        while service.server._serving:
            await asyncio.wait(set(service.server._serving))
    assert service.vms.find("web")


async def test_a_prompt_that_nobody_answers_is_withdrawn(
    service: Service, agent: Agent, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polkit, "PROMPT_S", 0.3)
    call = deletion(agent, web)
    await agent.prompts.get()
    with pytest.raises(CallFailed) as failed:
        await call
    assert failed.value.name == ERRORS + "AccessDenied"
    async with asyncio.timeout(5):
        await agent.cancelled.wait()
