"""What of the user's surroundings reaches a guest: proxies, CA certificates, terminal, time zone, git identity.

Nothing here needs anything of the image: where a file cannot be brought, the variables that name it stay away too.
"""

from banger.context.gather import ALL, Context, gather
from banger.context.guest import bring

__all__ = ["ALL", "Context", "bring", "gather"]
