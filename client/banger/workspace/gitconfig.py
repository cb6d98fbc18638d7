"""The guest repository's config: what its files need to be read, and remotes without anything secret."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from banger.workspace.git import Git, split

# As `git config --list` tells them; the last of a key counts. Those of the repository alone are there as "own." too.
Settings = Mapping[str, str]

# How git reads and writes this repository's files. Nothing that names a program or a path of the host.
_TAKEN = ("core.autocrlf", "core.eol", "core.sparsecheckout", "core.sparsecheckoutcone", "core.safecrlf")
_URL = re.compile(r"(remote|submodule)\.(.+)\.(url)", re.DOTALL)


def read(git: Git) -> Settings:
    """The repository's settings, the user's and the machine's among them."""
    settings = {}
    records = iter(split(git.run("config", "-z", "--list", "--show-scope")))
    for scope, record in zip(records, records, strict=True):
        key, _, value = record.decode("utf-8", "surrogateescape").partition("\n")
        settings[key] = value
        if scope in (b"local", b"worktree"):
            settings[f"own.{key}"] = value
    return settings


def without_filters(settings: Settings, begin: str = "") -> tuple[str, ...]:
    """Settings with which no filter (git-lfs, git-crypt) runs; `begin` "own.": none that this repository names."""
    begin = f"{begin}filter."
    names = {key.removeprefix(begin).rpartition(".")[0] for key in settings if key.startswith(begin)}
    off = ("clean=", "smudge=", "process=", "required=false")
    return tuple(f"filter.{name}.{setting}" for name in sorted(names) for setting in off)


def ignored_by_the_user(settings: Settings) -> Path:
    """The file with what the user has git ignore in every repository; it need not be there.

    One that this repository alone names counts for nothing: it would be the repository that picks a file of the user's.
    """
    if (named := settings.get("core.excludesfile")) and "own.core.excludesfile" not in settings:
        return Path(named).expanduser() if named.startswith("~/") else Path(named)
    folder = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(folder) / "git/ignore"


def guest(settings: Settings, object_format: str, branch: str, work_tree: str, *, identity: bool) -> bytes:
    """The text of the guest's config; `work_tree` is relative to the git folder, "" for the folder beside it.

    `identity`: with the name and address that the user has for this repository alone.
    """
    lines = [
        "[core]",
        "repositoryformatversion = 1" if object_format != "sha1" else "repositoryformatversion = 0",
    ]
    lines += ["filemode = true", "bare = false", "logallrefupdates = true"]
    # The index was made on the host: of what it knows of each file only time and size are the same in the guest.
    lines += ["trustctime = false", "checkstat = minimal"]
    if work_tree:
        lines.append(f"worktree = {_quoted(work_tree)}")
    lines += [f"{key.partition('.')[2]} = {_quoted(settings[key])}" for key in _TAKEN if settings.get(key)]
    if object_format != "sha1":
        lines += ["[extensions]", f"objectformat = {object_format}"]
    for key, value in settings.items():
        match = _URL.fullmatch(key)
        if match and (url := without_secrets(value)):
            section, name = match[1], match[2]
            lines += [f"[{section} {_quoted(name)}]", f"url = {_quoted(url)}"]
            if section == "remote":
                lines.append(f"fetch = {_quoted(f'+refs/heads/*:refs/remotes/{name}/*')}")
            else:
                lines.append("active = true")
    lines += _upstream(settings, branch)
    own = {key: settings.get(f"own.user.{key}", "") for key in ("name", "email")}
    if identity and any(own.values()):
        lines += ["[user]", *(f"{key} = {_quoted(text)}" for key, text in own.items() if text)]
    text = "\n".join(line if line.startswith("[") else f"\t{line}" for line in lines) + "\n"
    return text.encode("utf-8", "surrogateescape")


def _upstream(settings: Settings, branch: str) -> Iterable[str]:
    remote = settings.get(f"branch.{branch}.remote")
    merge = settings.get(f"branch.{branch}.merge")
    if not (branch and remote and merge) or f"remote.{remote}.url" not in settings:
        return []
    return [f"[branch {_quoted(branch)}]", f"remote = {_quoted(remote)}", f"merge = {_quoted(merge)}"]


def without_secrets(url: str) -> str:
    """`url` without password, token and query; "" if it cannot be taken apart."""
    if "://" not in url:
        return url  # a path, or host:path of ssh, in which no password can be
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return ""
    user = (parts.netloc.rpartition("@")[0]).partition(":")[0]
    if user and parts.scheme in ("ssh", "git+ssh", "ssh+git"):  # "git@", which belongs to the address
        host = f"{user}@{host}"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
