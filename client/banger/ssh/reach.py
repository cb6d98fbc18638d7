"""What has to be true of a VM before ssh can talk to it, and the guest asked, and told, over the guest channel."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from banger import messages, transfer, units
from banger.errors import Failure, UsageError
from banger.service import Record, Service
from banger.ssh import keys
from banger.ssh.openssh import DOMAIN

SSH_PORT = 22
_LOOK_S = 0.2
_START_S = 120.0
_MOST = 64 * 1024  # bytes of a guest's answer that are looked at

_NEXT = {
    "paused": "`banger vm resume {}` lets it go on",
    "stopping": "wait until it has stopped, then `banger vm start {}`",
    "deleting": "`banger vm run` makes another",
}
_KNOWN_HOST = re.compile(r"\[(?P<name>[^]]*)\](:\d+)?")

# Takes a line; a lock, because two clients may do so at once; a new file, because a full disk may not cost the old one.
_ADD_KEY = """\
set -eu
umask 077
IFS= read -r key
cd
chmod go-w .
mkdir -p .ssh
chmod 700 .ssh
exec 9<.ssh
! command -v flock >/dev/null || flock 9
cd .ssh
if [ -f authorized_keys ] && cut -d' ' -f1,2 authorized_keys | grep -qxF -- "$(echo "$key" | cut -d' ' -f1,2)"; then
    exec chmod 600 authorized_keys
fi
new=.authorized_keys.$$
trap 'rm -f "$new"' EXIT
if [ -f authorized_keys ]; then
    cat authorized_keys >"$new"
    [ -z "$(tail -c 1 authorized_keys)" ] || echo >>"$new"
fi
printf '%s\\n' "$key" >>"$new"
mv -f "$new" authorized_keys
"""
# One word: none (no sshd), booting, up, or broken and why.
_ASK = """\
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
sshd=$(command -v sshd) || { echo none; exit; }
read -r init </proc/1/comm
if [ "$init" = systemd ]; then
    case $(systemctl is-system-running 2>/dev/null) in
        running|degraded|maintenance) ;;
        *) echo booting; exit;;
    esac
fi
mkdir -p /run/sshd
why=$("$sshd" -t 2>&1) && echo up || echo "broken $why"
"""
# To a daemon that listens within; else sshd itself takes what carries this very command, and needs neither a daemon
# nor a network. It then asks the resolver three times for a host "UNKNOWN", which costs 30 s where none answers: a
# search domain that is no domain (a label of 64 letters) spares the question.
_SSHD = """\
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
status=9
if command -v bash >/dev/null; then
    bash -c '
    { exec 3<>/dev/tcp/127.0.0.1/22; } 2>/dev/null || exit 9
    exec 4<&0
    cat <&4 >&3 &
    cat <&3 &
    wait -n
    kill $(jobs -p) 2>/dev/null'
    status=$?
fi
[ $status = 9 ] || exit 0
export RES_OPTIONS=no-tld-query LOCALDOMAIN=$(printf %064d 0)
exec "$(command -v sshd)" -i
"""
SSHD_HERE = messages.Command(("/bin/sh", "-c", _SSHD))


@dataclass(frozen=True, slots=True)
class Target:
    """A VM that runs. `host_keys` are public lines, `knows` the keys it was made with."""

    vm: str
    name: str
    address: str
    reachable: bool  # sshd listens there, and the firewall lets us in: the owner
    host_keys: tuple[str, ...]
    knows: tuple[str, ...]


def vm_name(host: str) -> str:
    """The VM that ssh means by `host`: "web.vm", "[web.vm]:2222". Raises UsageError."""
    match = _KNOWN_HOST.fullmatch(host)
    name = (match["name"] if match else host).lower().rstrip(".").removesuffix(DOMAIN)
    try:
        return units.check_name(name)
    except UsageError:
        hint = f"names of VMs have no dots: ssh NAME{DOMAIN}"
        raise UsageError(f"{host[:80]!a} is no VM's name", hint=hint) from None


def find(service: Service, name: str, say: Callable[[str], object]) -> Target:
    """The VM called `name`; one that is just starting is waited for. Raises Failure when it does not run."""
    vm = service.find_vm(name)
    record = service.describe_vm(vm)
    if record["state"] == "starting":
        say(f"waiting for '{name}' to start…")
        deadline = time.monotonic() + _START_S
        while record["state"] == "starting" and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            record = service.describe_vm(vm)
    state = str(record["state"])
    if state != "running":
        hint = _NEXT.get(state, "`banger vm start {}` starts it").format(name)
        raise Failure("WrongState", f"VM '{name}' does not run", why=f"it is {state}", hint=hint)
    return _target(vm, record)


def _target(vm: str, record: Record) -> Target:
    return Target(
        vm,
        str(record["name"]),
        str(record.get("address", "")),
        bool(record.get("address"))
        and os.getuid() in (0, record.get("owner"))
        and str(SSH_PORT) in map(str, record.get("listening", ())),
        tuple(map(str, record.get("host_keys", ()))),
        tuple(map(str, record.get("ssh_keys", ()))),
    )


def let_in(service: Service, target: Target, key: keys.Key) -> None:
    """See that the guest's root lets `key` in: one that was made with another key is told. Raises Failure."""
    if keys.same(key.public) in map(keys.same, target.knows):
        return
    said, _ = _run(service, target, _ADD_KEY, f"{key.public}\n".encode())
    if said is None:
        return
    raise Failure(
        "GuestFailed",
        f"cannot give '{target.name}' your ssh key",
        why=said,
        hint=f"look into it with `banger vm exec {target.name}`",
    )


def host_keys(service: Service, target: Target) -> tuple[str, ...]:
    """The keys by which the guest's sshd is known; a VM made before these were kept is asked over its own channel."""
    if target.host_keys:
        return target.host_keys
    _, out = _run(service, target, "cat /etc/ssh/ssh_host_*_key.pub")
    lines = out.decode("ascii", "replace").splitlines()
    return tuple(" ".join(line.split()[:2]) for line in lines if line)


def ask(service: Service, target: Target) -> str:
    """Whether the guest's sshd is "up" or its system still "booting". Raises Failure for a guest without one."""
    trouble, out = _run(service, target, _ASK)
    word, _, why = out[:4096].decode("utf-8", "replace").strip().partition(" ")
    if word in ("up", "booting"):
        return word
    around = f"`banger vm exec {target.name}` gives a shell, `banger vm cp` copies, both without ssh"
    if word == "none":
        raise Failure(
            "NoSSHServer", f"'{target.name}' has no sshd", why="its image brings none", hint=around
        )
    raise Failure(
        "GuestFailed",
        f"the sshd of '{target.name}' does not work",
        why=why or trouble or "it does not say why",
        hint=around,
    )


def _run(service: Service, target: Target, script: str, data: bytes = b"") -> tuple[str | None, bytes]:
    """Run a script as the guest's root; None when it went well, else what it said, and the beginning of its output."""
    out = bytearray()

    def hear(heard: memoryview) -> None:
        out.extend(heard[: _MOST - len(out)])

    command = messages.Command(("/bin/sh", "-c", script))
    done = transfer.run(service.open_session(target.vm), command, source=(data,), sink=hear)
    said = done.stderr.strip()[-400:] or f"it ended with status {done.status}"
    return None if done.status == 0 else said, bytes(out)
