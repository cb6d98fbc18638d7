"""What OpenSSH is told: the options of one call, and the managed file's block. No first use is ever trusted."""

import getopt
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from banger.errors import UsageError

DOMAIN = ".vm"
USER = "root"

# ssh's own: `man ssh`.
_FLAGS = "1246ACGKMNTVXYZafgknqstvxyB:D:E:F:I:J:L:O:P:Q:R:S:W:b:c:e:i:l:m:o:p:w:"
_HOST_KEY = re.compile(r"(ssh-|ecdsa-|sk-)[a-z0-9@.-]{1,60} [A-Za-z0-9+/=]{16,4096}")
_PRINTF = "/usr/bin/printf"

# Host keys come from the service alone, whatever files say. With one algorithm named, ssh asks for them once.
_TRUST = (
    ("StrictHostKeyChecking", "yes"),
    ("UserKnownHostsFile", "none"),
    ("GlobalKnownHostsFile", "none"),
    ("HostKeyAlgorithms", "ssh-ed25519"),
    ("CheckHostIP", "no"),
    ("UpdateHostKeys", "no"),
    ("VerifyHostKeyDNS", "no"),
)
_LOGIN = (
    ("IdentitiesOnly", "yes"),
    ("PreferredAuthentications", "publickey"),
    # What takes the connection in the guest's place, such as a transparent proxy, and says nothing is not waited for.
    ("ConnectTimeout", "30"),
)


def check_flags(flags: Sequence[str]) -> None:
    """Raises UsageError unless `flags` are options of ssh, with their values, and nothing else."""
    try:
        _, rest = getopt.getopt(list(flags), _FLAGS)
    except getopt.GetoptError as exc:
        raise UsageError(
            f"ssh takes no such option: {exc.msg}", hint="`man ssh` tells which it takes"
        ) from None
    if rest or flags[-1:] == ["--"]:
        words = " ".join(rest)[:80]
        raise UsageError(
            f"{words!a} is no option of ssh",
            hint=f"put `--` before the command: banger vm ssh NAME -- {words}",
        )


def host_lines(name: str, host_keys: Sequence[str]) -> list[str]:
    """Lines of a known_hosts file that say `name` has these keys; what does not look like a key is left out."""
    return [f"{name} {key}" for key in host_keys if _HOST_KEY.fullmatch(key)]


def direct(name: str, address: str, host_keys: Sequence[str]) -> list[str]:
    """Options to reach a VM at `address`, which has `host_keys`; nobody is asked anything meanwhile."""
    lines = " ".join(f'"{line}"' for line in host_lines(f"{name}{DOMAIN}", host_keys))
    return _options(
        (
            ("ProxyCommand", "none"),
            ("HostName", address),
            ("HostKeyAlias", f"{name}{DOMAIN}"),
            ("KnownHostsCommand", f"{_PRINTF} %%s\\n {lines}"),
            *_TRUST,
        )
    )


def asking(program: Sequence[str]) -> list[str]:
    """Options to reach a VM through `banger ssh-connect`, which waits for its sshd, or goes around."""
    return _options((*_questions(program), *_TRUST))


def login(identity: Path) -> list[str]:
    """Options that a user's own may override, so they stand after them."""
    return _options((("User", USER), ("IdentityFile", _word(str(identity))), *_LOGIN))


def host_block(identity: Path, program: Sequence[str]) -> str:
    """The managed file's one block. Static: what may change is asked for at each connection."""
    pairs = (
        *_questions(program),
        *_TRUST,
        ("CanonicalizeHostname", "no"),
        ("User", USER),
        ("IdentityFile", _word(str(identity))),
        *_LOGIN,
    )
    return f"Host *{DOMAIN}\n" + "".join(f"    {key} {value}\n" for key, value in pairs)


def _questions(program: Sequence[str]) -> tuple[tuple[str, str], ...]:
    # A shell runs the first, with tokens put in before; ssh itself splits and runs the second, where tokens are put
    # into all words but the first.
    shell = shlex.join(program).replace("%", "%%")
    words = " ".join([_word(program[0]), *(_word(word).replace("%", "%%") for word in program[1:])])
    return (
        ("ProxyCommand", f"{shell} ssh-connect '%n' %p"),
        ("ProxyUseFdpass", "yes"),
        ("KnownHostsCommand", f"{words} ssh-connect --known-hosts %H"),
    )


def _options(pairs: Sequence[tuple[str, str]]) -> list[str]:
    return [word for key, value in pairs for word in ("-o", f"{key}={value}")]


def _word(text: str) -> str:
    """`text` as one word of ssh's configuration."""
    if not re.search(r"[\s\"'\\#]", text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
