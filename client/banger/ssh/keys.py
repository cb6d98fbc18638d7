"""The user's key: `ssh_key_path` of the configuration, or one that is made once.

Only the public half is needed to make a VM, so a key that is encrypted, or that lives in an agent alone, will do.
"""

import base64
import binascii
import os
import re
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from banger.config import Settings
from banger.config.place import shown
from banger.errors import Failure
from banger.ssh import place

# What sshd takes in authorized_keys; certificates and DSA are not among it.
_KINDS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
_COMMENT = re.compile(r"[ -~]{1,100}")
_LARGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Key:
    """`private` may not be there: an agent has it then. `public` is a line as authorized_keys has them."""

    private: Path
    public: str

    @property
    def identity(self) -> Path:
        """What ssh is told as the identity; it takes the public half from beside it, if that is all there is."""
        return self.private if self.private.exists() else identity_link()


def public_keys(settings: Settings) -> tuple[str, ...]:
    """The lines that a new VM shall let in. Makes a key if there is none. Raises Failure."""
    return (current(settings).public,)


def current(settings: Settings) -> Key:
    """The user's key, and a stable link to it for ssh's configuration. Raises Failure."""
    folder = own_folder()
    key = _configured(settings.ssh_key_path) if settings.ssh_key_path else _made(folder / "id_ed25519")
    link = identity_link()
    wanted = {link: key.private, _public_path(link): _public_path(key.private)}
    if any(not at.is_symlink() or at.readlink() != target for at, target in wanted.items()):
        with place.locked(folder):
            for at, target in wanted.items():
                place.link(at, target)
    return key


def identity_link() -> Path:
    """What the managed ssh configuration names as IdentityFile, whichever key is the current one."""
    return place.state_folder() / "identity"


def own_folder() -> Path:
    """The folder of what is made here, there and safe. Raises Failure."""
    folder = place.state_folder()
    place.make_folder(folder)
    about = folder.stat()
    if about.st_uid != os.getuid():
        raise Failure(
            "BadOwner",
            f"{shown(folder)} is not yours",
            why=f"it belongs to uid {about.st_uid}, who could read and replace your key",
            hint=f"as root: chown -R {os.getuid()} {shlex.quote(str(folder))}",
        )
    if stat.S_IMODE(about.st_mode) & 0o077:
        raise _too_open(folder, about.st_mode, 700)
    return folder


def same(line: str) -> tuple[str, str]:
    """Kind and base64 of a line as authorized_keys and .pub files have them: what makes two lines the same key."""
    words = line.split()
    return (words[0], words[1]) if len(words) > 1 else (line, "")


# A key of the user's own


def _configured(path: Path) -> Key:
    private = path.with_suffix("") if path.suffix == ".pub" else path
    try:
        about = private.stat()
    except FileNotFoundError:
        about = None
    except OSError as exc:
        raise place.cannot("read", private, exc) from None
    if about is not None:
        _check_private(private, about)
    public = _read_public(_public_path(private))
    if public is None and about is None:
        raise Failure(
            "NoKey",
            f"there is no key {shown(path)}",
            why="ssh_key_path in your configuration names it",
            hint=f"ssh-keygen -t ed25519 -f {shlex.quote(str(private))}, or take the setting away",
        )
    if public is None:
        public = _derived(private)
    return Key(private, public)


def _check_private(path: Path, about: os.stat_result) -> None:
    """As ssh does: a key of ours that others may read is not used."""
    if not stat.S_ISREG(about.st_mode):
        raise Failure("BadKey", f"{shown(path)} is no file", hint="set ssh_key_path to a private key")
    if about.st_uid == os.getuid() and stat.S_IMODE(about.st_mode) & 0o077:
        raise _too_open(path, about.st_mode, 600)
    if not os.access(path, os.R_OK):
        raise Failure(
            "BadOwner",
            f"the key {shown(path)} cannot be read",
            why=f"it belongs to uid {about.st_uid}"
            if about.st_uid != os.getuid()
            else "its mode forbids it",
            hint=f"as its owner: chmod 600 {shlex.quote(str(path))}; or set ssh_key_path to a key of yours",
        )


def _too_open(path: Path, mode: int, wanted: int) -> Failure:
    return Failure(
        "KeyTooOpen",
        f"{shown(path)} may be read or changed by others",
        why=f"its mode is {stat.S_IMODE(mode):04o}, and ssh does not use such a key",
        hint=f"chmod {wanted} {shlex.quote(str(path))}",
    )


def _public_path(private: Path) -> Path:
    return private.with_name(f"{private.name}.pub")


def _read_public(path: Path) -> str | None:
    data = place.read_own(path)
    if data is None:
        return None
    for line in data[:_LARGEST].decode("utf-8", "replace").splitlines():
        if line.strip() and not line.startswith("#"):
            return check(line, shown(path))
    raise Failure("BadKey", f"{shown(path)} is empty", hint=_derive_hint(path.with_suffix("")))


def check(line: str, where: str) -> str:
    """`line` as it is put into authorized_keys: kind, base64, and its comment if that is harmless. Raises Failure."""
    kind, data, *comment = [*line.split(None, 2), "", ""][:3]
    try:
        raw = base64.b64decode(data, validate=True)
        named = raw[4 : 4 + int.from_bytes(raw[:4])]
    except binascii.Error:
        named = b""
    if "-cert-v01@" in kind:
        raise Failure(
            "BadKey", f"{where} is a certificate", hint="ssh_key_path takes the key that it certifies"
        )
    if kind not in _KINDS or named != kind.encode():
        raise Failure(
            "BadKey",
            f"{where} is no public key that sshd takes",
            why=f"it begins with {kind[:40]!a}",
            hint="set ssh_key_path to a key of `ssh-keygen -t ed25519`",
        )
    remark = comment[0].strip()
    return " ".join([kind, data, *([remark] if _COMMENT.fullmatch(remark) else [])])


def _derived(private: Path) -> str:
    """The public half of a private key without a .pub file beside it."""
    import asyncssh

    data = place.read_own(private) or b""
    try:
        key = asyncssh.import_private_key(data)
    except asyncssh.KeyEncryptionError:
        raise _no_public(private, "it is encrypted, and there is no .pub file beside it") from None
    except asyncssh.KeyImportError as exc:
        if "passphrase" in str(exc).lower():
            raise _no_public(private, "it is encrypted, and there is no .pub file beside it") from None
        raise _no_public(private, f"it cannot be read: {exc}") from None
    return check(key.export_public_key("openssh").decode().strip(), shown(private))


def _no_public(private: Path, why: str) -> Failure:
    return Failure(
        "NoPublicKey",
        f"the public half of {shown(private)} is not known",
        why=why,
        hint=_derive_hint(private),
    )


def _derive_hint(private: Path) -> str:
    name = shlex.quote(str(private))
    return f"ssh-keygen -y -f {name} > {name}.pub"


# The key that is made


def _made(path: Path) -> Key:
    """The key at `path`; two clients at once agree on one."""
    if not path.exists():
        with place.locked(path.parent):
            if not path.exists():
                _generate(path)
    _check_private(path, path.stat())
    public = _read_public(_public_path(path))
    if public is None:
        public = _derived(path)
        with place.locked(path.parent):
            place.write(_public_path(path), f"{public}\n".encode(), 0o644)
    return Key(path, public)


def _generate(path: Path) -> None:
    import asyncssh

    key = asyncssh.generate_private_key("ssh-ed25519", comment="banger")
    # The private half last: it is what says that there is a key.
    place.write(_public_path(path), key.export_public_key("openssh"), 0o644)
    place.write(path, key.export_private_key("openssh"), 0o600)
