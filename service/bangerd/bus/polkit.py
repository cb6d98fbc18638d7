"""Asks polkit. No cache, no exception for root, no fallback: where polkit does not answer, the answer is no."""

import itertools
import logging
import os
from enum import Enum
from typing import Any, Protocol

from dbus_next.errors import DBusError
from dbus_next.signature import Variant

from bangerd.bus.connection import Lost, Peer
from bangerd.bus.errors import Refusal
from bangerd.bus.export import Call, Facts
from bangerd.model.errors import AccessDenied

log = logging.getLogger(__name__)

PREFIX = "com.thaloco.banger1."
POLKIT = Peer(
    "org.freedesktop.PolicyKit1",
    "/org/freedesktop/PolicyKit1/Authority",
    "org.freedesktop.PolicyKit1.Authority",
)

ANSWER_S = 10.0
PROMPT_S = 300.0  # how long somebody may look for their password


class Verdict(Enum):
    YES = "yes"
    CHALLENGE = "challenge"  # yes, once somebody has authenticated
    DISMISSED = "dismissed"
    NO = "no"


class Bus(Protocol):
    """What is needed of the connection."""

    async def ask(
        self, peer: Peer, member: str, signature: str, body: list[Any], *, timeout_s: float
    ) -> list[Any]: ...

    def tell(self, peer: Peer, member: str, signature: str, body: list[Any]) -> None: ...


class Authority:
    """polkit's authority, asked about the bus name that a call came from."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._ids = (f"bangerd-{os.getpid()}-{n}" for n in itertools.count())

    async def check(self, call: Call, facts: Facts) -> None:
        """Return if the call may go on.

        Raises AccessDenied, or Refusal where somebody would have to authenticate and the caller wants no prompt.
        """
        interactive = call.header.interactive
        call.asking = True
        try:
            verdict = await self._verdict(call, facts, interactive=interactive)
        finally:
            call.asking = False
        needs = f"{facts.why} needs {facts.action}"
        match verdict:
            case Verdict.YES:
                return
            case Verdict.NO:
                raise AccessDenied(
                    f"{needs}, which this machine's polkit rules do not give {call.caller.name}"
                )
            case Verdict.DISMISSED:
                raise AccessDenied(f"{needs}, and the authentication for it was dismissed")
            case Verdict.CHALLENGE if interactive:
                raise AccessDenied(
                    f"{needs}, and nobody authenticated for it; without a desktop, `pkttyagent` can ask for a password"
                )
            case Verdict.CHALLENGE:
                raise Refusal(
                    "InteractiveAuthorizationRequired",
                    f"{needs}, for which somebody has to authenticate; allow the call to be interactive",
                )

    async def verdict(self, call: Call, facts: Facts) -> Verdict:
        """What polkit says without asking anybody. Raises AccessDenied if polkit does not answer."""
        return await self._verdict(call, facts, interactive=False)

    async def _verdict(self, call: Call, facts: Facts, *, interactive: bool) -> Verdict:
        ticket = next(self._ids) if interactive else ""
        subject = ["system-bus-name", {"name": Variant("s", call.header.sender)}]
        body = [subject, facts.action, facts.details, 1 if interactive else 0, ticket]
        answered = False
        try:
            (result,) = await self._bus.ask(
                POLKIT,
                "CheckAuthorization",
                "(sa{sv})sa{ss}us",
                body,
                timeout_s=PROMPT_S if interactive else ANSWER_S,
            )
            authorized, challenge, details = result
            answered = True
        except (DBusError, Lost, TimeoutError, ValueError, TypeError) as exc:
            reason = str(exc) or type(exc).__name__
            log.warning("polkit does not say whether %s may %s: %s", call.caller.name, facts.action, reason)
            raise AccessDenied(
                "polkit does not answer, and nothing is allowed without it; `systemctl status polkit` says more"
            ) from exc
        finally:
            if interactive and not answered:
                self._withdraw(ticket)
        if authorized is True:
            return Verdict.YES
        if challenge is True:
            return Verdict.CHALLENGE
        return Verdict.DISMISSED if "polkit.dismissed" in details else Verdict.NO

    def _withdraw(self, ticket: str) -> None:
        """Have the prompt closed: whoever called has gone, or took too long."""
        self._bus.tell(POLKIT, "CancelCheckAuthorization", "s", [ticket])
