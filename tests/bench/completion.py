"""What a press of TAB costs with very many VMs: the scripts that shells have call `banger __complete`."""

from collections.abc import Iterator

from tests.bench.host import HERE, VMS, Host
from tests.bench.stats import Goal, Series, durations, milliseconds, table

LIMIT_MS = 150
TAB = "TAB for a VM's name, 1,000 VMs"
_HEADS = ("", "median ms", "least ms")


def measure(host: Host, rounds: int, samples: list[Series], goals: list[Goal]) -> Iterator[str]:
    """Makes the VMs, and removes none: nothing that needs an empty machine may come after it."""
    python = str(host.machine.layout.python)
    made = host.once(python, str(HERE / "many.py"), str(VMS))
    commands = {
        "Python and cyclopts": [python, "-c", "import cyclopts"],
        "Python and gi": [python, "-c", "from gi.repository import Gio, GLib"],
        "TAB where nothing is looked up": ["banger", "__complete", "vm", "run", "--vcpu", ""],
        "TAB for a VM's name of which none fits": ["banger", "__complete", "vm", "show", "x"],
        TAB: ["banger", "__complete", "vm", "show", ""],
    }
    found = host.series(rounds, commands)
    samples += found.values()
    yield table("Completion", _HEADS, durations(found[name] for name in commands))
    yield f"making {VMS} VMs took {milliseconds((made.end - made.start) * 1000)} ms\n"
    goals.append(Goal(TAB, found[TAB].median, LIMIT_MS, " ms"))
