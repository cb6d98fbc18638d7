"""One thing after the other of several that a command names; what fails is told, and the rest still done."""

from collections.abc import Callable, Sequence

from banger import render
from banger.cli.options import Output
from banger.errors import OK, Failure


def each(
    names: Sequence[str], verb: str, act: Callable[[str], None], said: Callable[[str], str], output: Output
) -> int:
    """`act` on each name; `said` is the remark on one that is done. Returns the last failure's status, or OK.

    Raises the Failure of a single name, and that of an interruption: then the rest is not wanted either.
    """
    status = OK
    done: list[dict[str, str]] = []
    for name in names:
        try:
            act(name)
        except Failure as exc:
            if exc.status > 2 or len(names) == 1:
                raise
            render.failure(exc, json_wanted=output.json)
            status = exc.status
            continue
        done.append({"name": name, "done": verb})
        if not (output.quiet or output.json):
            render.note(said(name))
    if output.json:
        render.as_json(done)
    return status
