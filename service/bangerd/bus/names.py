"""Names on the bus: stable for the life of com.thaloco.Banger1."""

import re

BUS_NAME = "com.thaloco.Banger1"
ROOT = "/com/thaloco/Banger1"
ERRORS = BUS_NAME + ".Error."
INTERNAL = ERRORS + "Internal"

DRIVER = "org.freedesktop.DBus"
PROPERTIES = DRIVER + ".Properties"
INTROSPECTABLE = DRIVER + ".Introspectable"
PEER = DRIVER + ".Peer"
STANDARD_ERRORS = DRIVER + ".Error."

MANAGER_INTERFACE = BUS_NAME + ".Manager"
VM_INTERFACE = BUS_NAME + ".VM"
IMAGE_INTERFACE = BUS_NAME + ".Image"
KERNEL_INTERFACE = BUS_NAME + ".Kernel"
JOB_INTERFACE = BUS_NAME + ".Job"

_JOB_NUMBER = re.compile(r"[1-9][0-9]{0,17}")


def vm_path(sid: str) -> str:
    return f"{ROOT}/vm/{sid}"


def image_path(image_id: str) -> str:
    return f"{ROOT}/image/{image_id}"


def kernel_path(kernel_id: str) -> str:
    return f"{ROOT}/kernel/{kernel_id}"


def job_path(number: int) -> str:
    return f"{ROOT}/job/{number}"


def job_number(leaf: str) -> int | None:
    """The number in a job's path; None for a leaf that is no job's."""
    return int(leaf) if _JOB_NUMBER.fullmatch(leaf) else None
