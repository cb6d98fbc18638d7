"""Starting the client is most of what a quick command costs: nothing is imported that it does not need."""

import json
import os
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "client"
SLOW = {
    "gi",
    "pydbus",
    "rich",
    "asyncio",
    "asyncssh",
    "subprocess",
    "importlib.metadata",
    "email",
    "msgspec",
    "tomllib",
    "tarfile",
}


def imported(*words: str) -> set[str]:
    """Modules that a command has imported at its end."""
    script = "import json, sys\nfrom banger.cli import main\nmain(sys.argv[1:])\nprint(json.dumps(list(sys.modules)))"
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(CLIENT),
        "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent",
    }
    done = subprocess.run(
        [sys.executable, "-c", script, *words], env=env, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_for_the_lost_needs_no_bus():
    assert not imported() & SLOW


def test_a_wrong_request_is_refused_without_the_bus():
    assert not imported("vm", "run", "--memory", "2", "--", "true") & SLOW


def test_a_list_needs_the_bus_alone():
    # PyGObject 3.50 (Debian 13) imports asyncio by itself, and that subprocess.
    assert imported("vm", "list") & SLOW - {"asyncio", "subprocess"} == {"gi", "pydbus"}
