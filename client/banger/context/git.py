"""The user's git identity, the weakest of a guest's settings: what a repository or ~/.gitconfig there says wins."""

from pathlib import Path

from banger.errors import Failure

# Set by people who mean it, and stronger than any file, here as there.
VARIABLES = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
CONFIG = (
    "GIT_CONFIG_SYSTEM"  # git 2.32 and newer; an older one in the guest asks for an identity, as without us
)

_ASK = ("config", "--includes", "--null", "--get-regexp", r"^user\.(name|email)$")


def config(folder: str = "") -> str:
    """A system-wide gitconfig with user.name and user.email as they hold in `folder` (here); "" if neither is set."""
    from banger.workspace.git import Git

    try:
        _status, out, _err = Git(Path(folder or ".")).ask(*_ASK)
    except Failure:
        return ""  # no git, no identity
    found: dict[str, str] = {}
    for entry in out.decode("utf-8", "replace").split("\0"):
        key, _, value = entry.partition("\n")
        if key in ("user.name", "user.email") and value.strip():
            found[key.removeprefix("user.")] = value
    if not found:
        return ""
    lines = [f'\t{key} = "{_quoted(value)}"' for key, value in sorted(found.items())]
    # This file stands in the place of the guest's own, which goes on to count.
    return "\n".join(["[include]", "\tpath = /etc/gitconfig", "[user]", *lines, ""])


def guest_path(text: str) -> str:
    import hashlib

    return f"/run/banger/gitconfig-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
