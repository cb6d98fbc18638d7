"""What a failed call answers: one stable name and one sentence, never a traceback."""

import logging

from dbus_next.constants import MessageType
from dbus_next.message import Message

from bangerd.bus import names
from bangerd.bus.wire import Header, message
from bangerd.model.errors import BangerError

log = logging.getLogger(__name__)

TEXT_LIMIT = 4096


class Refusal(Exception):
    """A call that fails with one of D-Bus's own error names."""

    def __init__(self, name: str, text: str) -> None:
        """`name` without its prefix: "UnknownMethod"."""
        super().__init__(text)
        self.name = names.STANDARD_ERRORS + name


def name_and_text(exc: BaseException) -> tuple[str, str]:
    """The D-Bus error for an exception. One that is neither BangerError nor Refusal is a bug and is logged."""
    if isinstance(exc, BangerError):
        return names.ERRORS + exc.code, str(exc)
    if isinstance(exc, Refusal):
        return exc.name, str(exc)
    log.error("a call met a bug", exc_info=exc)
    return names.INTERNAL, "internal error in bangerd; its journal says more (`journalctl -u banger`)"


def reply_for(header: Header, exc: BaseException) -> Message:
    """The error reply to a call."""
    name, text = name_and_text(exc)
    return error_reply(header, name, text)


def error_reply(header: Header, name: str, text: str) -> Message:
    """`text` may hold what a caller or a guest wrote: what is not printable is escaped, and it is cut."""
    shown = "".join(
        one if one.isprintable() or one == "\n" else f"{one!a}"[1:-1] for one in text[:TEXT_LIMIT]
    )
    return message(
        MessageType.ERROR,
        reply_serial=header.serial,
        destination=header.sender,
        error_name=name,
        signature="s",
        body=[shown],
    )
