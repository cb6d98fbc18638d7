"""References to images in registries: `registry/repository[:tag][@sha256:…]`. Nothing is guessed but the tag."""

import re
from dataclasses import dataclass

from bangerd.model.errors import InvalidSpec

LIMIT = 255  # characters

# The grammar of github.com/distribution/reference, without short names.
_HOST = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])"
    r"(?::[0-9]{1,5})?"
)
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
# The name under which people know it, and the host that answers.
_DOCKER_HUB, _DOCKER_HUB_HOST = "docker.io", "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an image is. `digest` is that of a manifest or an index, "" when the tag alone says which."""

    registry: str
    repository: str
    tag: str
    digest: str = ""

    @property
    def host(self) -> str:
        """What is connected to."""
        return _DOCKER_HUB_HOST if self.registry == _DOCKER_HUB else self.registry

    @property
    def wanted(self) -> str:
        """What the registry is asked for: the digest, which says more than a tag, or the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.registry}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """Raises InvalidSpec, which for a short name says the long one."""
    shown = ascii(text[:LIMIT])
    if len(text) > LIMIT:
        raise InvalidSpec(f"the reference has {len(text)} characters; {LIMIT} are possible")
    registry, _, rest = text.partition("/")
    if not _is_host(registry):
        long = f"{_DOCKER_HUB}/{text if rest else f'library/{text}'}"
        hint = f"; do you mean {long}?" if _REPOSITORY.match(text) and text.isprintable() else ""
        raise InvalidSpec(f"{shown} does not say which registry{hint}")
    rest, _, digest = rest.partition("@")
    repository, _, tag = rest.partition(":")
    port = registry.rpartition(":")[2]
    problems = (
        (not _HOST.fullmatch(registry) or (port.isdecimal() and int(port) > 65535), "of the registry"),
        (not _REPOSITORY.fullmatch(repository), "of the repository (lower-case letters, digits, . _ - /)"),
        (":" in rest and not _TAG.fullmatch(tag), "of the tag"),
        ("@" in text and not DIGEST.fullmatch(digest), "of the digest (sha256: and 64 hex digits)"),
    )
    for wrong, what in problems:
        if wrong:
            raise InvalidSpec(
                f"{shown} is no reference to an image; look at the part {what};"
                " write REGISTRY/NAME:TAG, such as docker.io/library/alpine:3.20"
            )
    if registry == _DOCKER_HUB and "/" not in repository:
        raise InvalidSpec(
            f"{shown} does not say whose image; do you mean {_DOCKER_HUB}/library/{rest}"
            f"{'@' + digest if digest else ''}?"
        )
    return Reference(registry, repository, tag or ("" if digest else "latest"), digest)


def _is_host(part: str) -> bool:
    """As Docker tells a registry from a user name: by a dot, a port, or being localhost."""
    return "." in part or ":" in part or part == "localhost"


def check_image_name(name: str) -> str:
    """Return the name for an image of one's own if it is possible. Raises InvalidSpec."""
    if _NAME.fullmatch(name):
        return name
    raise InvalidSpec(
        f"{name[:80]!a} is no name for an image; use 1 to 63 of a-z, 0-9, '.', '_' and '-',"
        " with a letter or digit at both ends"
    )
