"""The user who does what documents show: what these assume to be there at home."""

from tests.guest.machine import User

_HOME = """\
cd
git config --global user.name Alice
git config --global user.email alice@example.org
git init -q -b main repo
cd repo
printf 'test:\\n\\t@echo all tests passed\\n' > Makefile
echo 'print("hello")' > hello.py
git add .
git commit -q -m 'A first version'
"""


def prepare(user: User) -> None:
    """A name in git, and a git repository at ~/repo."""
    done = user.run("sh", "-ec", _HOME)
    assert done.status == 0, done
