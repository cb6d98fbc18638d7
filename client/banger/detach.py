"""A command that goes on in the guest when we have left: its output in a file there, its status in another."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from banger import transfer
from banger.errors import RUN_FAILED, Failure
from banger.messages import Command

# A session of its own, since ours is hung up when we leave. The file's name tells when; mktemp makes it unlike others.
_SCRIPT = r"""
umask 077
folder="${HOME:-/root}/.cache/banger"
mkdir -p "$folder" 2>/dev/null || folder=${TMPDIR:-/tmp}
log=$(mktemp "$folder/run-$(date +%Y%m%d-%H%M%S)-XXXXXX") || exit 125
if ! command -v setsid >/dev/null; then echo 'the image has no setsid' >&2; exit 125; fi
if [ -n "$1" ]; then
  if ! command -v timeout >/dev/null; then echo 'the image has no timeout' >&2; exit 125; fi
  limit="timeout -k 10 $1"
fi
shift
if ! command -v "$1" >/dev/null; then echo "$1: not found" >&2; rm -f "$log"; exit 127; fi
mv "$log" "$log.log"
umask 022
setsid sh -c 'status=$1; shift; "$@"; echo $? >"$status"' sh "$log.status" $limit "$@" \
  </dev/null >"$log.log" 2>&1 &
echo "$! $log.log"
"""
_LONGEST = 4096


@dataclass(frozen=True, slots=True)
class Started:
    """A command that goes on. `log` is its output's path in the guest; `status` that of the file its status goes to."""

    pid: int
    log: str

    @property
    def status(self) -> str:
        return self.log.removesuffix(".log") + ".status"


def start(open_session: Callable[[], int], command: Command, timeout_s: float | None) -> Started:
    """Start `command` in the guest and leave it there. Raises Failure (125 to 127) when it could not be started."""
    limit = "" if timeout_s is None else f"{max(1, round(timeout_s))}"
    wrapped = replace(command, argv=("sh", "-c", _SCRIPT, "sh", limit, *command.argv), tty=None)
    heard = bytearray()

    def hear(data: memoryview) -> None:
        heard.extend(data[: _LONGEST - len(heard)])

    done = transfer.run(open_session(), wrapped, sink=hear)
    pid, _, log = heard.decode("utf-8", "replace").strip().partition(" ")
    if done.status == 0 and pid.isdigit() and log.startswith("/"):
        return Started(int(pid), log)
    names = {126: "NotExecutable", 127: "NotFound"}
    raise Failure(
        names.get(done.status, "GuestFailed"),
        "cannot leave the command in the guest",
        why=done.stderr.strip() or f"the shell there ended with {done.status}",
        status=done.status if done.status in names else RUN_FAILED,
    )
