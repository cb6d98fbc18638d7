"""Makes as many VMs as its argument says, by the D-Bus calls that `banger vm create` makes; one process for all."""

import sys

import pydbus
from gi.repository import GLib

connection = pydbus.SystemBus().con
options = {"start": GLib.Variant("b", False)}
for number in range(int(sys.argv[1])):
    connection.call_sync(
        "com.thaloco.Banger1",
        "/com/thaloco/Banger1",
        "com.thaloco.Banger1.Manager",
        "CreateVM",
        GLib.Variant("(sa{sv})", (f"vm-{number:04}", options)),
        None,
        0,
        -1,
        None,
    )
