"""The unprivileged command line client of banger. Knows the service by its D-Bus interface alone."""

__version__ = "0.1.0"
