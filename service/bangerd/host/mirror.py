"""Where Debian's packages come from: the host's own apt sources where the host is Debian, else deb.debian.org."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from bangerd.host import process
from bangerd.model import mise
from bangerd.model.errors import HostNotReady, InvalidSpec, StepFailed

log = logging.getLogger(__name__)

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEFAULT = "http://deb.debian.org/debian"
DEFAULT_SECURITY = "http://deb.debian.org/debian-security"
# Settings of the host's apt that decide whether it reaches a mirror; nothing else of its configuration counts.
_PASSED_ON = (
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::https::CAInfo",
    "Acquire::ForceIPv4",
    "Acquire::ForceIPv6",
    "Acquire::Check-Date",
    "Acquire::Check-Valid-Until",
)
_INDEX = re.compile(
    r"^'(?P<uri>https?://[^']+/debian(-security)?(/[0-9]{8}T[0-9]{6}Z)?)/dists/(?P<release>[^/']+)/InRelease'",
    re.MULTILINE,
)
_FORMAT = "$(ORIGIN) $(COMPONENT) $(RELEASE) $(REPO_URI)"


@dataclass(frozen=True, slots=True)
class Mirror:
    main: str
    security: str
    keyring: Path
    apt_options: tuple[str, ...]  # lines of apt.conf; may hold a proxy's password


async def find_mirror(configured: str) -> Mirror:
    """`configured` is the `mirror` of the configuration, "" for the host's.

    Raises InvalidSpec for one that is no URI of apt's, HostNotReady when the keyring is missing.
    """
    if not KEYRING.is_file():
        raise HostNotReady(
            f"{KEYRING} is missing, so Debian's signatures cannot be checked; "
            "install the package debian-archive-keyring"
        )
    _check("mirror", configured)
    main, security = from_indexes(
        await _apt("apt-get", "indextargets", "--format", _FORMAT, "Identifier: Packages")
    )
    if not main:
        main, security = from_addresses(await _apt("apt-get", "update", "--print-uris"))
    settings = await _apt("apt-config", "dump")
    options = tuple(line for line in settings.splitlines() if _passed_on(line))
    return Mirror(configured.rstrip("/") or main or DEFAULT, security or DEFAULT_SECURITY, KEYRING, options)


def npm_registry(configured: str) -> str:
    """Where mise is fetched from: the `npm_mirror` of the configuration, "" for npm's own registry.

    Raises InvalidSpec for one that is no address, or that holds a password.
    """
    _check("npm_mirror", configured)
    return configured.rstrip("/") or mise.NPM


def _check(key: str, configured: str) -> None:
    if configured and (
        not configured.startswith(("http://", "https://"))
        or not configured.isprintable()
        or " " in configured
    ):
        raise InvalidSpec(f"{key} = {configured!r} in the configuration is no http:// or https:// address")
    if "@" in configured:
        raise InvalidSpec(
            f"{key} in the configuration holds a password, which every VM would see; use a mirror without one"
        )


async def _apt(*argv: str) -> str:
    """What the host's apt answers, "" when it is not there or fails: then Debian's own mirror is used."""
    try:
        return (await process.run(argv, timeout_s=30)).stdout.decode(errors="replace")
    except StepFailed as exc:
        log.warning("the host's apt does not say where packages come from: %s", exc)
        return ""


def from_indexes(said: str) -> tuple[str, str]:
    """URIs of Debian's archive and of its security archive among the indexes that apt has fetched, "" for none.

    The origin is in the signed index, so these are Debian's whatever their address.
    """
    found = []
    for line in said.splitlines():
        fields = line.split()
        if len(fields) == 4 and fields[:2] == ["Debian", "main"]:
            found.append((fields[2], fields[3].rstrip("/")))
    return _pick(found)


def from_addresses(said: str) -> tuple[str, str]:
    """The same from what `apt-get update` would fetch, on a machine that has no indexes yet.

    Only an address like those of Debian's own mirrors is believed. A wrong one is found out by the signature.
    """
    return _pick([(match["release"], match["uri"]) for match in _INDEX.finditer(said)])


def _pick(found: list[tuple[str, str]]) -> tuple[str, str]:
    # One with a password in it would end up in the image, for everyone to read.
    found = [
        (release, uri)
        for release, uri in found
        if uri.startswith(("http://", "https://")) and "@" not in uri
    ]
    security = next((uri for release, uri in found if release.endswith("-security")), "")
    main = next((uri for release, uri in found if "-" not in release), "")
    return main, security


def _passed_on(line: str) -> bool:
    key, _, value = line.partition(" ")
    return value not in ("", '"";') and any(
        key == name or key.startswith(f"{name}::") for name in _PASSED_ON
    )
