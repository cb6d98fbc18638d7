"""Runs bangerd with the time of each log line in front of it, seconds since the epoch with microseconds."""

import logging
import sys

from bangerd import app


class Stamped(logging.LogRecord):
    def getMessage(self) -> str:  # noqa: N802 - the library's name
        return f"@{self.created:.6f} {super().getMessage()}"


if __name__ == "__main__":
    logging.setLogRecordFactory(Stamped)
    logging.getLogger("peewee").setLevel(logging.INFO)  # each statement with all its values takes time
    sys.exit(app.main(sys.argv[1:]))
