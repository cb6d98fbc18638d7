"""What a caller may ask for when a VM is made, checked before anything is touched."""

from dataclasses import dataclass, field

from bangerd.model.cache import check_caches
from bangerd.model.errors import InvalidSpec

KEYS_LIMIT, LABELS_LIMIT = 64, 64


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """None or "": the default. Memory and disk in bytes. An empty name: one is made up."""

    name: str = ""
    image: str = ""
    kernel: str = ""
    vcpu: int | None = None
    memory: int | None = None
    disk: int | None = None
    nat: bool = True
    ssh_keys: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    caches: dict[str, str] = field(default_factory=dict)  # path in the guest -> name
    start: bool = True
    ephemeral: bool = False
    entrypoint: bool = True  # run the image's command when it boots


def check_request(request: CreateRequest) -> None:
    """Raises InvalidSpec for keys and labels that are not possible."""
    if request.ephemeral and not request.start:
        raise InvalidSpec("an ephemeral VM lives as long as it runs: 'ephemeral' needs 'start'")
    if len(request.ssh_keys) > KEYS_LIMIT:
        raise InvalidSpec(f"{len(request.ssh_keys)} ssh keys; {KEYS_LIMIT} are possible")
    for key in request.ssh_keys:
        if "\n" in key or not key.isprintable() or not 16 <= len(key) <= 8192:
            raise InvalidSpec(f"{key[:40]!a} is no ssh public key; give one line of a .pub file")
    check_labels(request.labels)
    check_caches(request.caches)


def check_labels(labels: dict[str, str]) -> None:
    """Raises InvalidSpec."""
    if len(labels) > LABELS_LIMIT:
        raise InvalidSpec(f"{len(labels)} labels; {LABELS_LIMIT} are possible")
    for name, value in labels.items():
        if not name.isprintable() or not value.isprintable() or not 1 <= len(name) <= 64 or len(value) > 256:
            raise InvalidSpec(
                f"label {name[:40]!a} is not possible; printable, name to 64, value to 256 characters"
            )
