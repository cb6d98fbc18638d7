"""Before a VM is made: say what it will get, and get what it is made of."""

from banger import render, units
from banger.cli.defaults import fill, origin
from banger.cli.options import Output
from banger.config import place
from banger.errors import Failure
from banger.service import Record, Service, Wanted

_SIZES = {"vcpu", "memory", "disk"}


def prepare(service: Service, wanted: Wanted, output: Output) -> None:
    """Say what the VM will get, and pull its image or the default kernel if they are missing."""
    try:
        resolved = service.resolve_spec(wanted)
    except Failure as exc:
        ours = ", ".join(sorted(wanted.by_config & _SIZES))
        if exc.code == "InvalidSpec" and ours:
            exc.hint = (
                f"{ours} came from your config, not from a flag: `banger config show`, `banger config edit`"
            )
        raise
    if not (output.quiet or output.json):
        render.note(spec_line(resolved, wanted))
    image = str(resolved["image"])
    if not resolved.get("image_present", True):
        service.pull_image(image, output.progress(image))
    elif not resolved.get("kernel_present", True) and not wanted.kernel:
        service.pull_image("", output.progress(str(resolved["kernel"])))


def new_vms(service: Service) -> list[Record]:
    """What doctor says of new VMs by the user's config; nothing without a config, or with one that is wrong."""
    try:
        if place.read() is None:
            return []
        wanted = fill(Wanted())
    except Failure:
        return []  # told of already
    try:
        line = spec_line(service.resolve_spec(wanted), wanted)
    except Failure as exc:
        return [{"name": "new VMs", "state": "failed", "text": str(exc), "hint": "`banger config edit`"}]
    return [{"name": "new VMs", "state": "ok", "text": line.removeprefix("spec: "), "hint": ""}]


def spec_line(resolved: Record, wanted: Wanted) -> str:
    """What a VM gets, and who decided it, where that is more than how banger is built."""

    def sized(key: str, text: str) -> str:
        return f"{text} ({origin(key, resolved, wanted)})"

    def chosen(key: str, text: str) -> str:
        by = origin(key, resolved, wanted)
        return text if by in ("built-in", "unknown") else f"{text} ({by})"

    parts = (
        sized("vcpu", f"{resolved['vcpu']} vCPU"),
        sized("memory", f"{units.size(resolved['memory'])} memory"),
        sized("disk", f"{units.size(resolved['disk'])} disk"),
        chosen("image", f"image {resolved['image']}"),
        chosen("kernel", f"kernel {resolved['kernel']}"),
        chosen("nat", "NAT" if resolved.get("nat", True) else "no network out"),
    )
    return "spec: " + ", ".join(parts)
