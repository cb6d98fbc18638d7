"""What tests wait with: as long as the machine needs, and not for ever."""

import subprocess
import time

import pytest
from tests import patience


def test_a_wait_that_is_in_vain_says_what_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FACTOR", 0.001)
    with pytest.raises(AssertionError, match="the VM stops"):
        patience.until(list, "the VM stops", 100)
    with pytest.raises(AssertionError, match="it runs"):
        patience.until(list, lambda: "it runs", 100)
    assert patience.until(lambda: ["found"], "never told", 0) == ["found"]


def test_a_slow_machine_gets_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FACTOR", 10)
    start = time.monotonic()
    with patience.Popen(["sleep", "60"]) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
        process.kill()
    assert time.monotonic() - start > 0.5
