"""Tools that a repository names for mise, installed in the guest: in the background, and best effort.

What runs there belongs to no session: it outlives ours, and how it ends is in a file beside its log. What the guest
says of it was written by the guest.
"""

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from banger import transfer
from banger.errors import Failure
from banger.messages import Command
from banger.service import Service

STATE = "/root/.cache/banger"
_PREFIX = "vm-run-tooling-"
# Where mise looks for a project's tools, but for the files of one machine alone and those of other tools, which it
# reads only when told to (idiomatic_version_file_enable_tools).
FILES = (
    "mise.toml",
    ".mise.toml",
    ".tool-versions",
    "mise/config.toml",
    ".mise/config.toml",
    ".config/mise.toml",
    ".config/mise/config.toml",
    "mise.local.toml",
    ".mise.local.toml",
)
_LAST_PARTS = frozenset(os.fsencode(name).rpartition(b"/")[2] for name in FILES)

# Where the user's machine gets tools and packages from. Names of settings, never of credentials.
_MIRRORS = re.compile(
    r"MISE_URL_REPLACEMENTS|MISE_HTTP_TIMEOUT|MISE_[A-Z_]*MIRROR(_URL)?|NODEJS_ORG_MIRROR"
    r"|npm_config_registry|NPM_CONFIG_REGISTRY|YARN_NPM_REGISTRY_SERVER"
    r"|PIP_(INDEX_URL|EXTRA_INDEX_URL|TRUSTED_HOST)"
    r"|UV_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|PYTHON_INSTALL_MIRROR)"
    r"|GOPROXY|GOSUMDB|GONOSUMDB|GONOPROXY|GOPRIVATE"
    r"|RUSTUP_(DIST_SERVER|UPDATE_ROOT)|CARGO_REGISTRIES_[A-Z0-9_]+_INDEX|BUNDLE_MIRROR__[A-Z0-9_]+"
)
_CREDENTIALS = re.compile(r"//[^/\s,]*@")
_ONLY_HERE = re.compile(r"(//|^)(localhost|127\.|\[::1\])", re.IGNORECASE)

_NOTHING, _NO_MISE = 3, 4  # statuses of _LAUNCH
_PATIENCE_S = 2.0
_MOST = 256 * 1024  # bytes of a guest's answer that are looked at
_MOST_TOLD = 20  # bootstraps; a screen is not for a guest to fill

# sh -c _LAUNCH sh FOLDER TOP BASE WORKER. Done at once; what it starts is of another session than ours.
_LAUNCH = f"""\
folder=$1 top=$2 base=$3 worker=$4
found= at=$folder
while :; do
  for file in {" ".join(FILES)}; do
    [ ! -f "$at/$file" ] || found=yes
  done
  case $at in "$top"/*) at=${{at%/*}} ;; *) break ;; esac
done
[ "$found" ] || exit {_NOTHING}
mkdir -p "${{base%/*}}" || exit 1
if ! command -v mise >/dev/null; then
  echo "this image has no mise, so the tools that the repository names are not installed" >"$base.log"
  echo state=skipped >"$base.status"
  exit {_NO_MISE}
fi
set -- sh -c "$worker" sh "$folder" "$base"
if command -v setsid >/dev/null; then set -- setsid "$@"; fi
"$@" </dev/null >/dev/null 2>&1 &
"""

# sh -c _WORKER sh FOLDER BASE. One at a time for a repository; the log is that of the last.
_WORKER = """\
folder=$1 base=$2
trap '' HUP
exec 8>>"$base.lock"
if command -v flock >/dev/null; then flock 8; fi
note() { printf '%s\\n' "$@" >"$base.status.new" && mv -f "$base.status.new" "$base.status"; }
read -r boot </proc/sys/kernel/random/boot_id
read -r stat </proc/$$/stat
set -- ${stat##*) }
birth=${20}
began=$(date +%s)
note state=running "pid=$$" "birth=$birth" "boot=$boot" "began=$began"
exec >"$base.log" 2>&1
echo "$(date '+%Y-%m-%d %H:%M:%S %z'): mise install in $folder"
export MISE_YES=1 NO_COLOR=1
{ cd "$folder" && mise trust --all && nice -n 5 mise install; } 8>&-
status=$?
now=$(date +%s)
echo "$(date '+%Y-%m-%d %H:%M:%S %z'): ended with status $status after $((now - began)) s"
if [ $status = 0 ]; then state=done; else state=failed; fi
note "state=$state" "began=$began" "ended=$now" "status=$status"
"""

# sh -c _STATUS sh STATE. Of each bootstrap: its file's name, NUL, its facts, NUL. One whose process is gone without
# a word is marked.
_STATUS = f"""\
cd "$1" 2>/dev/null || exit 0
read -r boot </proc/sys/kernel/random/boot_id
for file in {_PREFIX}*.status; do
  [ -f "$file" ] || continue
  pid= birth= then=
  while IFS== read -r key value; do
    case $key in pid) pid=$value ;; birth) birth=$value ;; boot) then=$value ;; esac
  done <"$file"
  printf '%s\\0' "$file"
  head -c 1000 "$file"
  if [ "$pid" ]; then
    set --
    if [ "$then" = "$boot" ] && read -r stat 2>/dev/null <"/proc/$pid/stat"; then set -- ${{stat##*) }}; fi
    [ "${{20-}}" = "$birth" ] || echo gone=yes
  fi
  printf '\\0'
done
"""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """One repository's. `state`: running, done, failed, skipped. Times in unix seconds, 0 if there is none."""

    repo: str
    state: str
    began: int = 0
    ended: int = 0
    status: int | None = None  # mise's exit status; None of one that runs, or that something killed

    @property
    def log(self) -> str:
        """Its path in the guest."""
        return f"{_base(self.repo)}.log"


def wanted(paths: Iterable[bytes]) -> bool:
    """Whether one of a repository's files may be mise's: the guest looks closer."""
    return any(path.rpartition(b"/")[2] in _LAST_PARTS for path in paths)


def mirrors(ours: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """NAME=value of where the user's machine gets tools from, as far as a guest may know it and reach it."""
    return tuple(
        f"{name}={value}"
        for name, value in ours.items()
        if value
        and _MIRRORS.fullmatch(name)
        and not _CREDENTIALS.search(value)
        and not _ONLY_HERE.search(value)
    )


def start(service: Service, vm: str, folder: str, repo: str, env: Sequence[str] = ()) -> str:
    """Have the guest of the VM at path `vm` install what mise finds in `folder`, in /root/`repo` or below it.

    Returns at once, with one line for people; "" when there is nothing to install. `env`: NAME=value, beside the
    mirrors. Never raises Failure: that tools are missing is told, and breaks nothing.
    """
    variables = dict(setting.partition("=")[::2] for setting in (*mirrors(), *env))
    command = Command(
        ("sh", "-c", _LAUNCH, "sh", folder, f"/root/{repo}", _base(repo), _WORKER),
        tuple(f"{name}={value}" for name, value in variables.items()),
    )
    try:
        done = transfer.run(service.open_session(vm), command)
    except Failure as exc:
        return f"the repository's tools are not installed: {exc}"
    if done.status == _NOTHING:
        return ""
    if done.status == _NO_MISE:
        return "this image has no mise, so the tools that the repository names are not installed"
    if done.status != 0:
        return f"the repository's tools are not installed: {done.stderr.strip() or 'the guest does not say why'}"
    return f"mise installs the repository's tools in the background; log in the guest: {_base(repo)}.log"


def status(service: Service, vm: str) -> tuple[Bootstrap, ...]:
    """What the guest of a VM that runs says of its bootstraps; nothing when it does not answer within two seconds."""
    answer = bytearray()
    try:
        _ask(service.open_side_session(vm, _PATIENCE_S), answer)
    except Failure:
        return ()
    return tuple(parse(bytes(answer)))


def parse(answer: bytes) -> Iterable[Bootstrap]:
    """What `_STATUS` printed; what makes no sense is left out."""
    parts = answer.split(b"\0")[: 2 * _MOST_TOLD]
    for name, text in zip(parts[::2], parts[1::2], strict=False):
        repo = os.fsdecode(name).removeprefix(_PREFIX).removesuffix(".status")
        facts = dict(line.partition("=")[::2] for line in text.decode("ascii", "replace").splitlines())
        state = "failed" if "gone" in facts and facts.get("state") == "running" else facts.get("state")
        if state in ("running", "done", "failed", "skipped"):
            code = _number(facts, "status") if "status" in facts else None
            yield Bootstrap(repo, state, _number(facts, "began"), _number(facts, "ended"), code)


def _number(facts: Mapping[str, str], key: str) -> int:
    text = facts.get(key, "")
    return int(text) if re.fullmatch("[0-9]{1,12}", text) else 0


def _base(repo: str) -> str:
    """Path in the guest of a bootstrap's files, without what tells them apart. Names of files have an end."""
    return f"{STATE}/{_PREFIX}{os.fsdecode(os.fsencode(repo)[:200])}"


def _ask(fd: int, answer: bytearray) -> None:
    """Fill `answer` from the session `fd`, which is hung up when it takes too long. Raises Failure."""

    def hang_up() -> None:
        with contextlib.suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)

    with socket.socket(fileno=os.dup(fd)) as link:
        timer = threading.Timer(_PATIENCE_S, hang_up)
        timer.start()
        try:
            transfer.run(
                fd,
                Command(("sh", "-c", _STATUS, "sh", STATE)),
                sink=lambda data: answer.extend(data[: _MOST - len(answer)]),
            )
        finally:
            timer.cancel()
            timer.join()
