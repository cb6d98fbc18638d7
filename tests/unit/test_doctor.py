"""What doctor says of the VMM: which, why, and what of the admin's config it cannot do."""

import pytest
from tests.fakes.ports import World, fake_ports
from tests.fakes.vmm import FakeVMM

from bangerd.core.doctor import Check, Doctor
from bangerd.model.errors import HostNotReady


async def checks(name: str) -> list[Check]:
    return [check for check in await Doctor(fake_ports(World())).checks() if check.name == name]


async def test_the_vmm_and_why() -> None:
    (check,) = await checks("vmm")
    assert (check.state, check.text) == ("ok", "fake with kvm: it is the only one; fake")


async def test_a_reason_that_tells_of_kvm_tells_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeVMM, "reason", "it needs no KVM, and KVM is a fake")
    (check,) = await checks("vmm")
    assert check.text == "fake with kvm: it needs no KVM, and KVM is a fake"


async def test_a_vmm_that_cannot_be_started_now(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(_vmm: FakeVMM) -> None:
        raise HostNotReady("/usr/bin/fake cannot be used: No such file or directory")

    monkeypatch.setattr(FakeVMM, "check", check)
    (found,) = await checks("vmm")
    why = "/usr/bin/fake cannot be used: No such file or directory (it is the only one)"
    assert (found.state, found.text) == ("failed", why)


async def test_what_the_vmm_cannot_do_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await checks("limits") == []
    monkeypatch.setattr(FakeVMM, "missing", ("vm_limits.disk_rate is not kept: fake cannot do that",))
    (check,) = await checks("limits")
    assert check.state == "warning"
    assert "disk_rate" in check.text
    assert "docs/vmm.md" in check.hint
