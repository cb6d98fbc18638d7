"""Who decided what a VM is: told by ResolveSpec and by doctor."""

from tests.fakes.ports import World, fake_ports

from bangerd.config import Config, VMDefaults
from bangerd.core.describe import Describer
from bangerd.core.doctor import Doctor
from bangerd.core.requests import CreateRequest

ADMIN = Config(default_image_name="debian-trixie", vm_defaults=VMDefaults(vcpu=1, disk_size="1G"))
KEYS = ("image", "kernel", "vcpu", "memory", "disk")


def origins(config: Config, request: CreateRequest) -> list[object]:
    resolved = Describer(fake_ports(World(), config)).resolve(request, 1000)
    return [resolved[f"{key}_origin"] for key in KEYS]


def test_what_nobody_said_is_built_in_or_the_hosts() -> None:
    found = origins(Config(), CreateRequest())
    assert found[:2] == ["built-in", "built-in"]
    assert set(found[2:]) <= {"host", "built-in"}


def test_the_admin_goes_before_the_host_and_the_request_before_the_admin() -> None:
    assert origins(ADMIN, CreateRequest())[:3] == ["config", "built-in", "config"]
    asked = CreateRequest(image="debian-bookworm", kernel="k", vcpu=1, memory=2**29, disk=2**30)
    assert origins(ADMIN, asked) == ["request"] * 5


async def test_doctor_names_the_admin_and_sizes_as_people_do() -> None:
    checks = await Doctor(fake_ports(World(), ADMIN)).checks()
    text = next(check.text for check in checks if check.name == "defaults")
    assert text.startswith("1 vCPU (admin), ")
    assert text.endswith(", 1 GiB disk (admin)")
