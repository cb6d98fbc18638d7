"""What goes wrong, for people and for scripts: one exception, and the table from D-Bus error names to exit codes.

Exit codes: 0 done, 1 failed, 2 the request itself is wrong. `vm run` and `vm exec` give the command's own status,
so there a failure of banger is 125.
"""

BANGER_ERRORS = "com.thaloco.Banger1.Error."
DBUS_ERRORS = "org.freedesktop.DBus.Error."

OK = 0
FAILED = 1
USAGE = 2
TIMED_OUT = 124  # `--timeout` ended the command, as timeout(1) says it
RUN_FAILED = 125  # `vm run`, `vm exec`: banger failed, the command did not start

# The service's errors (the name's last part). Its sentences say the next step themselves, so no hint here.
SERVICE_CODES: dict[str, int] = {
    "Failed": FAILED,
    "InvalidSpec": USAGE,
    "NoSuchVM": FAILED,
    "NoSuchImage": FAILED,
    "NoSuchKernel": FAILED,
    "NoSuchCache": FAILED,
    "NoSuchJob": FAILED,
    "VMExists": FAILED,
    "VMBusy": FAILED,
    "WrongState": FAILED,
    "ImageInUse": FAILED,
    "CacheInUse": FAILED,
    "HostNotReady": FAILED,
    "LimitReached": FAILED,
    "PullFailed": FAILED,
    "DigestMismatch": FAILED,
    "OCILayerInvalid": FAILED,
    "ImageExists": FAILED,
    "GuestFailed": FAILED,
    "StepFailed": FAILED,
    "Canceled": FAILED,
    "AccessDenied": FAILED,
    "Internal": FAILED,
}

_SERVICE_HINT = "look at `systemctl status banger`; where systemd does not run, start bangerd as root"
_VERSION_HINT = "client and service are of different versions: `banger version`"

# Errors that the bus, the service's library or our own connection makes: (code for scripts, sentence, next step).
_BUS_FAILURES: dict[str, tuple[str, str, str]] = {
    "ServiceUnknown": ("ServiceUnknown", "the banger service is not running", _SERVICE_HINT),
    "NameHasNoOwner": ("ServiceUnknown", "the banger service is not running", _SERVICE_HINT),
    "Spawn.ChildExited": ("ServiceUnknown", "the banger service could not be started", _SERVICE_HINT),
    "Spawn.ExecFailed": ("ServiceUnknown", "the banger service could not be started", _SERVICE_HINT),
    "Spawn.Failed": ("ServiceUnknown", "the banger service could not be started", _SERVICE_HINT),
    "TimedOut": ("TimedOut", "the banger service did not start in time", _SERVICE_HINT),
    "NoReply": ("ServiceGone", "the banger service went away without an answer", _SERVICE_HINT),
    "Disconnected": ("Disconnected", "the connection to the system bus broke", "try again"),
    "UnknownMethod": ("UnknownMethod", "the service does not know this request", _VERSION_HINT),
    "UnknownInterface": ("UnknownMethod", "the service does not know this request", _VERSION_HINT),
    "UnknownObject": (
        "NoSuchObject",
        "there is no such object any more",
        "list what there is, and try again",
    ),
    "InteractiveAuthorizationRequired": (
        "AuthorizationRequired",
        "somebody has to authenticate for this",
        "run it in a terminal or a desktop session, where a password can be asked for",
    ),
    "AccessDenied": ("AccessDenied", "the system bus refuses this request", _VERSION_HINT),
    "LimitsExceeded": (
        "LimitReached",
        "too many requests of yours are in flight",
        "wait a moment and try again",
    ),
}


class Failure(Exception):
    """A command's end in failure: what happened, why, and what to do next, each a line for people.

    `code` is stable, for scripts; `status` is the exit status; `details` are lines that show where it is wrong.
    """

    def __init__(
        self,
        code: str,
        what: str,
        *,
        why: str = "",
        hint: str = "",
        status: int = FAILED,
        details: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{what}: {why}" if why else what)
        self.code = code
        self.what = what
        self.why = why
        self.hint = hint
        self.status = status
        self.details = details


class UsageError(Failure):
    """The command line asks for something that cannot be."""

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__("Usage", what, hint=hint, status=USAGE)


class BusError(Exception):
    """A D-Bus call failed. `name` is the whole error name, `text` the sentence that came with it."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text

    @property
    def code(self) -> str:
        """The name's last part for banger's own errors, else ''."""
        return self.name.removeprefix(BANGER_ERRORS) if self.name.startswith(BANGER_ERRORS) else ""


def describe(error: BusError, doing: str = "") -> Failure:
    """The failure that a person is shown for `error`, which happened while `doing` ("cannot start 'web'")."""
    if error.code:
        status = SERVICE_CODES.get(error.code, FAILED)
        if doing:
            return Failure(error.code, doing, why=error.text, status=status)
        return Failure(error.code, error.text, status=status)
    known = _BUS_FAILURES.get(error.name.removeprefix(DBUS_ERRORS))
    if known is None:
        return Failure(error.name, doing or "the banger service failed", why=error.text)
    code, sentence, hint = known
    # What is said beside the error's name helps only where the service says it, or a bug hides behind it.
    if code == "UnknownMethod":
        sentence = f"{sentence} ({error.text})"
    elif code == "AuthorizationRequired":  # "VM 'web' belongs to alice; stopping it needs …"
        sentence = error.text.removesuffix("; allow the call to be interactive") or sentence
    return Failure(code, doing or sentence, why=sentence if doing else "", hint=hint)
