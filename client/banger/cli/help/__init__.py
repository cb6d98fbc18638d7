"""Every command with its help, one module a group; nothing here imports what carries the commands out."""

from banger.cli.help.cache import CACHE
from banger.cli.help.config import CONFIG
from banger.cli.help.image import IMAGE, KERNEL
from banger.cli.help.system import JOB, WORDS
from banger.cli.help.vm import VM

GROUPS = (VM, IMAGE, KERNEL, CACHE, JOB, CONFIG, WORDS)
