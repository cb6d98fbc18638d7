"""What a worker says of an image that somebody else made: checked, since the worker may have been broken into."""

from dataclasses import dataclass

from bangerd.model.errors import PullFailed

_TEXTS_LIMIT = 64 * 1024  # characters of a whole list or table


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """The part of an Image that its maker decides."""

    init: str
    entrypoint: tuple[str, ...]
    env: tuple[str, ...]
    working_dir: str
    user: str
    labels: dict[str, str]


def read(facts: dict[str, object]) -> ImageFacts:
    """Raises PullFailed."""
    env = _texts(facts, "env")
    if not all("=" in variable[1:] for variable in env):
        raise _insane("env")
    return ImageFacts(
        init=text(facts, "init"),
        entrypoint=_texts(facts, "entrypoint"),
        env=env,
        working_dir=text(facts, "working_dir", 4096),
        user=text(facts, "user"),
        labels=_labels(facts),
    )


def text(facts: dict[str, object], key: str, limit: int = 255) -> str:
    """One line. Raises PullFailed."""
    value = facts.get(key)
    if not isinstance(value, str) or len(value) > limit or not _passable(value) or "\n" in value:
        raise _insane(key)
    return value


def _texts(facts: dict[str, object], key: str) -> tuple[str, ...]:
    value = facts.get(key)
    if not isinstance(value, list) or not all(isinstance(one, str) and _passable(one) for one in value):
        raise _insane(key)
    if sum(len(one) + 1 for one in value) > _TEXTS_LIMIT:
        raise _insane(key)
    return tuple(value)


def _labels(facts: dict[str, object]) -> dict[str, str]:
    value = facts.get("labels")
    if not isinstance(value, dict) or not all(
        isinstance(one, str) and _passable(one) for one in value.values()
    ):
        raise _insane("labels")
    if (
        not all(map(_passable, value))
        or sum(len(key) + len(one) for key, one in value.items()) > _TEXTS_LIMIT
    ):
        raise _insane("labels")
    return dict(value)


def _passable(value: str) -> bool:
    """Can go into a seed and over the bus: no NUL, no half of a character."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def _insane(key: str) -> PullFailed:
    return PullFailed(f"the image worker reports no sane {key}; this is a bug, or it was broken into")
