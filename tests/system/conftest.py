"""Booted machines, one for all tests that do not need it fresh."""

import os
from collections.abc import Iterator

import pytest
from tests.system.debian_root import SUITES
from tests.system.machine import Machine

# BANGER_SUITES="bookworm trixie" runs every test of this folder on both.
CHOSEN = os.environ.get("BANGER_SUITES", SUITES[0]).split()


@pytest.fixture(scope="session", params=CHOSEN)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A booted machine without banger."""
    with Machine.boot(request.param) as booted:
        yield booted
