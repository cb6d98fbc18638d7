"""Every error a caller can be told about. `code` is the last part of its D-Bus error name."""

from typing import ClassVar


class BangerError(Exception):
    """Root of the errors that cross the bus: a sentence for people, and a stable `code` for programs.

    The sentence says what is wrong and, after a semicolon or in a second sentence, what to do next.
    """

    code: ClassVar[str] = "Failed"


class InvalidSpec(BangerError):
    """The request contradicts itself, or a value is out of range."""

    code = "InvalidSpec"


class NoSuchVM(BangerError):
    code = "NoSuchVM"

    def __init__(self, name: str) -> None:
        super().__init__(f"no VM named '{name}'; `banger vm list` shows yours")


class NoSuchImage(BangerError):
    code = "NoSuchImage"

    def __init__(self, name: str) -> None:
        super().__init__(f"no image named '{name}' here; `banger image pull {name}` may get it")


class NoSuchKernel(BangerError):
    code = "NoSuchKernel"

    def __init__(self, name: str) -> None:
        super().__init__(f"no kernel named '{name}' here; `banger image pull` brings the default one")


class NoSuchJob(BangerError):
    code = "NoSuchJob"

    def __init__(self, number: int) -> None:
        super().__init__(f"no job {number}; finished jobs are forgotten after a minute")


class VMExists(BangerError):
    code = "VMExists"

    def __init__(self, name: str, *, own: bool = False) -> None:
        use = f"go on in yours with `banger vm exec {name}`, or " if own else ""
        super().__init__(f"a VM named '{name}' exists already on this machine; {use}choose another name")


class VMBusy(BangerError):
    """Another job works on this VM."""

    code = "VMBusy"

    def __init__(self, name: str, what: str) -> None:
        super().__init__(
            f"VM '{name}' is busy: {what} is under way; wait for it, or cancel it (`banger job list`)"
        )


class WrongState(BangerError):
    """The VM is not in a state in which this can be done."""

    code = "WrongState"


class ImageInUse(BangerError):
    code = "ImageInUse"


class NoSuchCache(BangerError):
    code = "NoSuchCache"

    def __init__(self, name: str) -> None:
        super().__init__(f"no cache named '{name}'; `banger cache list` shows yours")


class CacheInUse(BangerError):
    code = "CacheInUse"

    def __init__(self, name: str, vm: str = "") -> None:
        who = f"VM '{vm}'" if vm else "another VM"
        way = f"`banger vm stop {vm}` frees it" if vm else "`banger cache list` says which"
        super().__init__(f"cache '{name}' is in use by {who}, and one VM at a time can write to it; {way}")


class HostNotReady(BangerError):
    """The host lacks something: KVM, a tool, room on the disk, memory."""

    code = "HostNotReady"


class LimitReached(BangerError):
    """A quota per user, or a pool of the host (addresses, uids), is used up."""

    code = "LimitReached"


class PullFailed(BangerError):
    code = "PullFailed"


class DigestMismatch(BangerError):
    """A registry, or an archive, holds other bytes than it says."""

    code = "DigestMismatch"


class OCILayerInvalid(BangerError):
    """A layer or a root file system has a member that cannot be part of an image."""

    code = "OCILayerInvalid"


class ImageExists(BangerError):
    code = "ImageExists"

    def __init__(self, name: str) -> None:
        super().__init__(f"you have an image named '{name}' already; delete it, or choose another name")


class GuestFailed(BangerError):
    """The guest did not come up, or went away."""

    code = "GuestFailed"


class StepFailed(BangerError):
    """One effect on the host failed; the sentence names the step."""

    code = "StepFailed"


class Canceled(BangerError):
    code = "Canceled"


class AccessDenied(BangerError):
    """polkit said no."""

    code = "AccessDenied"
