"""`python -m bangerd`."""

import sys

from bangerd.app import main as run


def main() -> None:
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
