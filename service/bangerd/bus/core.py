"""What the bus layer serves: the use cases, and what the service says of itself."""

from collections.abc import Callable
from dataclasses import dataclass

from bangerd.core.doctor import Doctor
from bangerd.core.images import Images
from bangerd.core.jobs import Jobs
from bangerd.core.vms import VMs


@dataclass(frozen=True, slots=True)
class Core:
    """`capabilities` are names of what this host and its VMM can do; `catalog` names what can be pulled."""

    vms: VMs
    images: Images
    jobs: Jobs
    doctor: Doctor
    version: str
    capabilities: tuple[str, ...]
    catalog: Callable[[], tuple[str, ...]]
    user_name: Callable[[int], str]
