"""CA certificates that this machine trusts beyond what every system has: a company's own, mostly."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

# What programs look for. Each names a file that replaces, or adds to, what they trust.
VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "NIX_SSL_CERT_FILE",
)
_REPLACING = tuple(name for name in VARIABLES if name != "NODE_EXTRA_CA_CERTS")

# Where an admin puts certificates, and the bundle that they are then a part of.
_ANCHORS = (
    "usr/local/share/ca-certificates",
    "etc/pki/ca-trust/source/anchors",
    "etc/ca-certificates/trust-source/anchors",
    "etc/pki/trust/anchors",
)
_BUNDLES = (
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
)
_LARGEST = 4 * 1024 * 1024
_ONE = re.compile(
    r"-----BEGIN (?:TRUSTED )?CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END (?:TRUSTED )?CERTIFICATE-----"
)


def bundle(ours: Mapping[str, str], root: Path = Path("/")) -> str:
    """The certificates as one PEM text; "" when a guest's own are as good.

    Nothing but certificates is taken from a file: keys may stand beside them.
    """
    named = [Path(ours[name]) for name in _REPLACING if ours.get(name)]
    extra = [Path(ours["NODE_EXTRA_CA_CERTS"])] if ours.get("NODE_EXTRA_CA_CERTS") else []
    if not named and not extra and not _extended(root):
        return ""
    if not named:
        named = [path for path in (root / name for name in _BUNDLES) if path.is_file()][:1]
    found: dict[str, None] = {}  # in order, each once
    for path in dict.fromkeys([*named, *extra]):
        found |= dict.fromkeys(_certificates(path))
    return "\n".join([*found, ""])


def guest_path(text: str) -> str:
    """Where a bundle lies in a guest: by its content, so that what is there is right."""
    import hashlib

    return f"/run/banger/ca-{hashlib.sha256(text.encode()).hexdigest()[:16]}.pem"


def _extended(root: Path) -> bool:
    return any(_any_file(root / folder) for folder in _ANCHORS)


def _any_file(folder: Path) -> bool:
    try:
        return any(path.is_file() and path.suffix != ".txt" for path in folder.rglob("*"))
    except OSError:
        return False


def _certificates(path: Path) -> Iterable[str]:
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST).decode("utf-8", "replace")
    except OSError:
        return []  # what programs here make of it is not ours to say
    return ["\n".join(line.strip() for line in one.split("\n")) for one in _ONE.findall(text)]
