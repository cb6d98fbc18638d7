"""The nft tool: loads banger's tables, and reads what others have loaded.

The tool and not libnftables in the service: a child in 10 ms, once per change of the set of VMs, is cheap enough,
its parser's faults stay out of the root process, and there is no binding to keep in step with the library.
"""

import json
from typing import Any

from bangerd.host import process

_TIMEOUT_S = 30.0
_MOST = 32 * 1024 * 1024


async def load(text: str) -> None:
    """Load a ruleset, all of it or nothing. Raises StepFailed with nft's message."""
    await process.run(["nft", "-f", "-"], input=text.encode(), timeout_s=_TIMEOUT_S)


async def check(text: str) -> None:
    """See whether nft and the kernel would take a ruleset, without loading it. Raises StepFailed."""
    await process.run(["nft", "--check", "-f", "-"], input=text.encode(), timeout_s=_TIMEOUT_S)


async def listing(*what: str) -> list[dict[str, Any]]:
    """Objects of `nft --json list …`, each under the name of its kind. Raises StepFailed."""
    done = await process.run(["nft", "--json", "list", *what], timeout_s=_TIMEOUT_S, max_output=_MOST)
    return list(json.loads(done.stdout)["nftables"])
