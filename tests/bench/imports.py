"""What the client's start is made of: `python -X importtime` of `banger vm list`, by package."""

import re
import subprocess
from collections import defaultdict

from tests.bench.host import Host

_LINE = re.compile(r"^import time:\s+(\d+) \|\s+(\d+) \| (\s*)(\S+)$", re.MULTILINE)


def own_times(host: Host, *words: str) -> dict[str, float]:
    """Milliseconds by top-level package, each module's own time, largest first. importtime itself costs some."""
    layout = host.machine.layout
    argv, env = host.user.command(str(layout.python), "-X", "importtime", "-m", "banger", *words)
    done = subprocess.run(argv, env=env, cwd="/", capture_output=True, text=True, check=True)
    found: dict[str, float] = defaultdict(float)
    for own, _, _, module in _LINE.findall(done.stderr):
        found[module.partition(".")[0]] += int(own) / 1000
    return dict(sorted(found.items(), key=lambda item: -item[1]))
