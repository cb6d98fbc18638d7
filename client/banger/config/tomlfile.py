"""A TOML text checked against msgspec Structs, each fault with its line, column and a suggestion.

Client and service share no code, yet both have a file that people write: this module is in both, and a test compares
the two. A field's `Meta(extra={"must": …})` says in words what its value must be.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from msgspec import inspect as info

T = TypeVar("T", bound=msgspec.Struct)
Path = tuple[str | int, ...]  # keys, and indexes of arrays

_SYNTAX = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `(\$[^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*?)`(?: - at `(\$[^`]*)`)?", re.DOTALL)
_ANY = re.compile(r"(.*?)(?: - at `(\$[^`]*)`)?", re.DOTALL)
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_OCTAL = re.compile(r"=\s*(0\d+)\s*(?:#.*)?$")
_QUIET = re.compile(
    r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*', re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at a place: line and column count from 1, `source` is the line itself."""

    line: int
    column: int
    source: str
    what: str
    hint: str = ""

    def lines(self, file: str) -> list[str]:
        """The fault for people: place and sentence, the line, a mark below it, the suggestion."""
        lead = re.sub(r"[^\t]", " ", self.source[: self.column - 1])
        shown = [f"{file}:{self.line}:{self.column}: {self.what}", f"    {self.source}", f"    {lead}^"]
        return [*shown, f"  {self.hint}"] if self.hint else shown


class Faults(Exception):
    """The text is not what it should be."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(f"{fault.line}:{fault.column}: {fault.what}" for fault in faults))
        self.faults = faults


def check(text: str, kind: type[T], refused: Mapping[str, str]) -> T:
    """`text` as a `kind`. `refused`: keys that mean something, though not here, and why. Raises Faults with all it has
    found, in the order of the text."""
    try:
        data = tomllib.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as exc:  # also a number of thousands of digits, and a thousand brackets
        raise Faults([_syntax(text, exc)]) from None
    faults: list[Fault] = []
    indexes: dict[str, list[int]] = {}  # where the elements of an array that are left were
    while True:
        try:
            value = msgspec.convert(data, kind)
        except msgspec.ValidationError as exc:
            path, what, hint, at_value = _explain(exc, data, kind, refused)
            faults.append(at(text, _original(path, indexes), what, hint, value=at_value))
            if not _remove(data, path, indexes):
                break
        else:
            if not faults:
                return value
            break
    raise Faults(sorted(faults, key=lambda fault: (fault.line, fault.column)))


def at(text: str, path: Path, what: str, hint: str = "", *, value: bool = True) -> Fault:
    """A fault of what stands at `path` in a well-formed `text`: of its value, or of its key."""
    line, column = locate(text, path, value=value)
    return Fault(line, column, _line(text, line), what, hint)


def locate(text: str, path: Path, *, value: bool = False) -> tuple[int, int]:
    """Line and column, from 1, of the key (or the value) at `path` in a well-formed `text`.

    The first lines that are well-formed by themselves and have the path end with its statement: no parser of our own.
    """
    lines = text.split("\n")
    low, high = 0, len(lines)
    while low < high:
        middle = (low + high) // 2
        if has(_parsed(lines, middle)[1], path):
            high = middle
        else:
            low = middle + 1
    start = _parsed(lines, low - 1)[0] if low else 0
    statement = "\n".join(lines[start:low])
    before = statement[: _within(statement, path, value=value)]
    return start + 1 + before.count("\n"), len(before) - (before.rfind("\n") + 1) + 1


def _parsed(lines: list[str], count: int) -> tuple[int, dict[str, Any]]:
    """As many of the first `count` lines as are well-formed, and what they say."""
    for end in range(count, 0, -1):
        try:
            return end, tomllib.loads("\n".join(lines[:end]))
        except ValueError:
            continue  # in the midst of a value
    return 0, {}


def has(data: Any, path: Path) -> bool:
    """Whether something stands at `path`."""
    try:
        for step in path:
            data = data[step]
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _within(statement: str, path: Path, *, value: bool) -> int:
    """Where in its statement the last step of `path` stands."""
    bare = _QUIET.sub(lambda match: " " * len(match[0]), statement)
    braces = [match.start() for match in re.finditer(r"\{", bare)]
    index = next((step for step in reversed(path) if isinstance(step, int)), 0)
    start = braces[index] if index < len(braces) and len(path) > 1 else 0
    name = path[-1] if path else ""
    if isinstance(name, int):
        return start or len(statement) - len(statement.lstrip())
    found = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])").search(bare, start)
    if found is None:
        found = re.compile(rf"([\"']){re.escape(name)}\1").search(statement, start)
    if found is None:
        return len(statement) - len(statement.lstrip())
    equals = re.compile(r"\s*=\s*").match(statement, found.end())
    return equals.end() if value and equals else found.start()


def _syntax(text: str, error: Exception) -> Fault:
    match = _SYNTAX.fullmatch(str(error))
    what, line, column = (match[1], match[2], match[3]) if match else (str(error), None, None)
    at_line = int(line) if line else max(1, text.rstrip("\n").count("\n") + 1)
    source = _line(text, at_line)
    hint = ""
    if octal := _OCTAL.search(source):
        hint = f'write it as a string: "{octal[1]}"'
    return Fault(
        at_line, int(column) if column else len(source) + 1, source, f"this is no TOML: {what}", hint
    )


def _line(text: str, number: int) -> str:
    return text.split("\n")[number - 1].rstrip("\r")


def _explain(
    error: msgspec.ValidationError, data: Any, kind: type, refused: Mapping[str, str]
) -> tuple[Path, str, str, bool]:
    """Path, sentence and suggestion of what msgspec found, and whether it is about the value there."""
    said = str(error)
    if match := _UNKNOWN.fullmatch(said):
        name, path = match[1], _steps(match[2])
        return (*path, name), *_unknown(name, path, kind, refused), False
    if match := _MISSING.fullmatch(said):
        return _steps(match[2]), f"{match[1]} is missing here", f"add {match[1]} = …", False
    match = _ANY.fullmatch(said)
    path = _steps(match[2] if match else None)
    found = data
    for step in path:
        found = found[step]
    name = ".".join(str(step) for step in path if isinstance(step, str))
    return path, f"{name} must be {_must(kind, path, found)}", "", True


def _unknown(name: str, path: Path, kind: type, refused: Mapping[str, str]) -> tuple[str, str]:
    if not path and name in refused:
        return f"{name} cannot be set here", refused[name]
    table = ".".join(step for step in path if isinstance(step, str))
    known = _names(_type(kind, path))
    what = f"unknown key {name!r}" + (f" in {table}" if table else "")
    near = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=1)
    if near:
        return what, f"did you mean {near[0]}?"
    if path and name in _names(_type(kind, ())):
        return what, "it belongs above the first [table]"
    for other, keys in _tables(kind):
        if name in keys:
            return what, f"it belongs in {other}"
    return what, f"known here: {', '.join(known)}"


def _tables(kind: type) -> Iterator[tuple[str, list[str]]]:
    for field in msgspec.structs.fields(kind):
        inner = _type(kind, (field.encode_name,))
        if isinstance(inner, info.VarTupleType):
            yield f"[[{field.encode_name}]]", _names(inner)
        elif isinstance(inner, info.StructType):
            yield f"[{field.encode_name}]", _names(inner)


def _names(kind: info.Type) -> list[str]:
    """The keys of a table, or of an array's tables."""
    inner = kind.item_type if isinstance(kind, info.VarTupleType) else kind
    return [field.encode_name for field in inner.fields] if isinstance(inner, info.StructType) else []


def _type(kind: type, path: Path) -> info.Type:
    """The type at `path`, without the possibility that nothing stands there."""
    found: info.Type = info.type_info(kind)
    for step in path:
        if isinstance(found, info.StructType):
            found = next(field.type for field in found.fields if field.encode_name == step)
        elif isinstance(found, info.VarTupleType):
            found = found.item_type
        if isinstance(found, info.UnionType):
            found = found.types[0]
        if isinstance(found, info.Metadata) and isinstance(found.type, info.StructType | info.VarTupleType):
            found = found.type
    return found


def _must(kind: type, path: Path, value: object) -> str:
    found = _type(kind, path)
    if isinstance(found, info.Metadata):
        if found.extra:
            return str(found.extra["must"])
        found = found.type
    shape = {
        info.VarTupleType: "an array of tables",
        info.StructType: "a table",
        info.BoolType: "true or false",
        info.IntType: "a whole number",
        info.StrType: "a string",
    }
    return f"{shape.get(type(found), 'of another type')}, not {_toml_kind(value)}"


def _toml_kind(value: object) -> str:
    names = {
        dict: "a table",
        list: "an array",
        str: "a string",
        bool: "true or false",
        int: "a whole number",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _steps(text: str | None) -> Path:
    return tuple(match[1] or int(match[2]) for match in _STEP.finditer(text or ""))


def _original(path: Path, indexes: Mapping[str, list[int]]) -> Path:
    if len(path) > 1 and isinstance(path[1], int) and path[0] in indexes:
        return (path[0], indexes[str(path[0])][path[1]], *path[2:])
    return path


def _remove(data: dict[str, Any], path: Path, indexes: dict[str, list[int]]) -> bool:
    """Take out what was told of, an array's element whole, so that the next fault shows; False if there is nothing."""
    if not path or not has(data, path):
        return False
    first = path[0]
    if len(path) > 1 and isinstance(path[1], int):
        elements = data[str(first)]
        del indexes.setdefault(str(first), list(range(len(elements))))[path[1]]
        del elements[path[1]]
        return True
    holder: Any = data
    for step in path[:-1]:
        holder = holder[step]
    del holder[path[-1]]
    return True
