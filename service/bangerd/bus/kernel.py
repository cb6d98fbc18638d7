"""com.thaloco.Banger1.Kernel"""

from collections.abc import Iterable
from typing import Any

from bangerd.bus import names, options
from bangerd.bus.core import Core
from bangerd.bus.export import Call, Interface, exported, shown
from bangerd.bus.guards import inspect, manage_kernel
from bangerd.model.errors import NoSuchKernel
from bangerd.model.image import Kernel

OPTIONS = "options:a{sv}"


class KernelInterface(Interface):
    """One kernel each, at …/kernel/<id>. Kernels are shared by all users."""

    name = names.KERNEL_INTERFACE

    def __init__(self, core: Core) -> None:
        self._core = core

    def get(self, leaf: str) -> Kernel:
        for kernel in self._core.images.kernels():
            if kernel.id == leaf:
                return kernel
        raise NoSuchKernel(leaf)

    def leaves(self) -> Iterable[str]:
        return (kernel.id for kernel in self._core.images.kernels())

    @shown("s")
    def Name(self, kernel: Kernel) -> str:
        return kernel.name

    @exported(inspect, OPTIONS, "kernel:a{sv}")
    async def Describe(self, _call: Call, kernel: Kernel, given: dict[str, Any]) -> dict[str, Any]:
        options.read(given, {}, "Describe")
        return options.write(describe(kernel))

    @exported(manage_kernel, OPTIONS, "job:o")
    async def Delete(self, call: Call, kernel: Kernel, given: dict[str, Any]) -> str:
        options.read(given, {}, "Delete")
        return names.job_path(self._core.images.remove_kernel(kernel, call.caller).number)


def describe(kernel: Kernel) -> dict[str, Any]:
    return {
        "path": options.Path(names.kernel_path(kernel.id)),
        "id": kernel.id,
        "name": kernel.name,
        "release": kernel.release,
        "digest": kernel.digest,
        "size": kernel.size,
        "created_at": kernel.created_at,
        "source": kernel.source,
    }
