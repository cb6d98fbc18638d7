"""CPU time that processes use: unlike the clock's, it does not grow when somebody else keeps the machine busy."""

from pathlib import Path


def used_ms(pid: int) -> float:
    """Of all its threads that still are, in milliseconds."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e6


def children_ms(pid: int) -> float:
    """Of its children that have ended and been waited for; in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) * 10.0
