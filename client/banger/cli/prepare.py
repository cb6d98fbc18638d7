"""Before a VM is made: say what it will get, and get what it is made of."""

from banger import render, units
from banger.cli.options import Output
from banger.service import Record, Service, Wanted


def prepare(service: Service, wanted: Wanted, output: Output) -> None:
    """Say what the VM will get, and pull its image or the default kernel if they are missing."""
    resolved = service.resolve_spec(wanted)
    if not (output.quiet or output.json):
        render.note(spec_line(resolved))
    image = str(resolved["image"])
    if not resolved.get("image_present", True):
        service.pull_image(image, output.progress(image))
    elif not resolved.get("kernel_present", True) and not wanted.kernel:
        service.pull_image("", output.progress(str(resolved["kernel"])))


def spec_line(resolved: Record) -> str:
    """The sizes a VM gets, and where each came from."""

    def sized(key: str, text: str) -> str:
        return f"{text} ({resolved.get(f'{key}_origin', 'unknown')})"

    parts = (
        sized("vcpu", f"{resolved['vcpu']} vCPU"),
        sized("memory", f"{units.size(resolved['memory'])} memory"),
        sized("disk", f"{units.size(resolved['disk'])} disk"),
        f"image {resolved['image']}",
        f"kernel {resolved['kernel']}",
        "NAT" if resolved.get("nat", True) else "no network out",
    )
    return "spec: " + ", ".join(parts)
