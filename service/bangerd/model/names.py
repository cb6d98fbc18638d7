"""Names for VMs that were given none."""

import secrets
from collections.abc import Container

_FIRST = """
    amber brave brisk calm clever coral crisp dapper eager early fair fleet fresh gentle glad golden
    hardy ivory jolly keen kind light lively lucky mellow merry mild neat nimble noble olive plain
    plucky proud quick quiet rapid ready royal ruby sharp shy silver sleek smart snug solid spry
    steady sunny swift tidy true vivid warm wise witty zesty
""".split()  # noqa: SIM905 - forty words read better as prose
_SECOND = """
    adder badger bear beaver bison camel cat colt crab crane crow deer dingo dove eagle eel elk
    falcon ferret finch fox frog gecko goat goose hare hawk heron ibex jay kite koala lark lemur
    lion llama lynx mole moose moth newt otter owl panda pike pony puma quail raven robin seal shrew
    skunk sloth snail stoat swan tapir tern toad trout viper vole wasp whale wolf wren yak zebra
""".split()  # noqa: SIM905 - forty words read better as prose


def generate(taken: Container[str]) -> str:
    """A name like "keen-otter" that is not taken."""
    while True:
        name = f"{secrets.choice(_FIRST)}-{secrets.choice(_SECOND)}"
        if name not in taken:
            return name
        name = f"{name}-{secrets.randbelow(10_000)}"
        if name not in taken:
            return name
