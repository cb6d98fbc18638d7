"""Inside a boot: what the guest kernel's log, and the guest program on the console, say about when things happened, on
the guest's own clock."""

import re

# What each stretch ends with, as the kernel logs it.
MARKS = (
    ("guest kernel: until /init", r"Run /init as init process"),
    ("guest program: until the VM's disk is mounted", r"EXT4-fs \(\w+\): mounted"),
)


def stretches(kernel_log: str) -> dict[str, float]:
    """Milliseconds of each; the first from the kernel's start, which firmware and unpacking come before."""
    found = {}
    last = 0.0
    for name, mark in MARKS:
        match = re.search(rf"^\[\s*([0-9.]+)\] {mark}", kernel_log, re.MULTILINE)
        if match:
            at = float(match[1]) * 1000
            found[name] = at - last
            last = at
    return found


# What the guest program says on the console when it has set the guest up, and what that is called here.
TOLD = {
    "kernel": "guest kernel: until /init",
    "modules": "guest program: modules",
    "disks": "guest program: disks",
    "configuration": "guest program: configuration",
}


def inside(console: str) -> dict[str, float]:
    """Milliseconds of each stretch; empty when the guest program said nothing."""
    line = re.search(r"^banger: kernel .*$", console, re.MULTILINE)
    told = dict(re.findall(r"(\w+) (\d+) ms", line[0])) if line else {}
    return {name: float(told[word]) for word, name in TOLD.items() if word in told}
