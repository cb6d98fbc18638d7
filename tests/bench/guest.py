"""Inside a boot: what the guest kernel's log says about when things happened, on its own clock."""

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
