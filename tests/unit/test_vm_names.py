"""Names of VMs, of which there is one each on a machine."""

import pytest
from tests.fakes.ports import World
from tests.fakes.service import ALICE, BOB, Service

from bangerd.core.requests import CreateRequest
from bangerd.model.errors import VMExists


async def test_a_name_that_is_taken_is_ones_own_to_go_on_with_or_another_users() -> None:
    async with Service(World()) as service:
        await service.run(CreateRequest(name="web"))
        with pytest.raises(
            VMExists, match="go on in yours with `banger vm exec web`, or choose another name"
        ):
            await service.vms.create(CreateRequest(name="web"), ALICE)
        with pytest.raises(VMExists, match="on this machine; choose another name"):
            await service.vms.create(CreateRequest(name="web"), BOB)
