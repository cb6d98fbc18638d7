"""The floor of `banger vm list`: a script that imports cyclopts and pydbus, and makes the same call."""

import cyclopts  # noqa: F401 - for what that costs
import pydbus
from gi.repository import GLib

reply = pydbus.SystemBus().con.call_sync(
    "com.thaloco.Banger1",
    "/com/thaloco/Banger1",
    "com.thaloco.Banger1.Manager",
    "ListVMs",
    GLib.Variant("(a{sv})", ({},)),
    None,
    0,
    -1,
    None,
)
print(reply.unpack())
