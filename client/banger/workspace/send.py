"""Puts a planned workspace into a guest."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from banger.errors import Failure
from banger.progress import Progress

if TYPE_CHECKING:
    from banger.workspace.plan import Plan


def send(plan: "Plan", open_session: Callable[[], int], progress: Progress, *, replace: bool) -> None:
    """See Plan.send."""
    raise Failure("NotYet", "sending workspaces is not there yet")
