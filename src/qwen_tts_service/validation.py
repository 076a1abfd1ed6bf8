"""Error messages for invalid requests: the field as it was sent, what is allowed, what is meant.

Other names of fields are in hints.toml. It does not know which fields there are.
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from importlib.resources import files
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from .errors import MAX_SHOWN_CHARS, InvalidRequest, kind_of, printable, shown

UNKNOWN_FIELD = "unknown_field"
"""The code of the error for a field that there is not."""
MAX_NAMED_FIELDS = 3
"""Of those that are ignored."""
_LEAST_LIKENESS = 0.8
"""Below it `test` would be taken for `text`, and `send` for `seed`."""
_LEAST_CHARS = 3
"""Shorter names resemble too many others to suggest one."""

_TABLE: dict[str, Any] = tomllib.loads(files(__package__).joinpath("hints.toml").read_text("utf-8"))

_KINDS = {
    "string_type": "a string",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_LIMITS = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
}
_LENGTHS = {
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
}
"""By type of pydantic's error: what a value must be, which number, and how long."""


def from_validation(error: ValidationError, schema: type[BaseModel]) -> InvalidRequest:
    """The first broken rule; of what was sent it has names, numbers and listed values at most."""
    item: Any = error.errors(include_url=False)[0]
    path = [part for part in item["loc"] if isinstance(part, str)]
    if not path:
        return InvalidRequest(f"the body must be a JSON object; got {kind_of(item['input'])}")
    if item["type"] == "extra_forbidden":
        return unknown_field(path[-1], schema, path[:-1])
    param = ".".join(map(printable, path))
    return InvalidRequest(f"{param}: {_rule(item)}", param=param)


def _rule(item: Any) -> str:
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    if kind in _KINDS:
        sent = kind_of(value) if isinstance(value, str) else shown(value)
        return f"must be {_KINDS[kind]}; got {sent}"
    if kind == "missing":
        return "is missing"
    if kind in _LIMITS:
        limit = _LIMITS[kind].format(**context).removesuffix(".0")
        return f"must be {limit}; got {shown(value)}"
    if kind in _LENGTHS:
        return f"must have {_LENGTHS[kind].format(**context)}; got {len(value)}"
    if kind == "literal_error":
        return f"must be {context['expected'].replace(chr(39), '')}; got {shown(value)}"
    return str(item["msg"])


def folded(word: str) -> str:
    """A word without case and the blanks around it."""
    return word.strip().casefold()


def choices_of(annotation: Any) -> tuple[str, ...]:
    """The values of an enumeration, which may be optional; () for any other type."""
    kinds = (annotation, *get_args(annotation))
    return next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())


# Unknown fields ----------------------------------------------------------------------


def unknown_field(
    name: str, schema: type[BaseModel], parents: Sequence[str] = ()
) -> InvalidRequest:
    """Name a field that the schema does not have as it was sent, and what may be meant."""
    here = ".".join(parents)
    known = [path for _, path in _fields(schema) if path.rpartition(".")[0] == here]
    names = ", ".join(sorted(path.rpartition(".")[2] for path in known))
    where = f" in {here}" if here else ""
    return InvalidRequest(
        f"unknown field {shown(name)}{where}.{hint(name, schema, parents)} Known{where}: {names}",
        param=".".join([*parents, printable(name)]),
        code=UNKNOWN_FIELD,
    )


def ignored_fields(names: Sequence[str], schema: type[BaseModel]) -> str | None:
    """A warning that names the fields that the schema does not have, and what may be meant."""
    if not names:
        return None
    named = [
        f"unknown field {shown(name)} is ignored.{hint(name, schema)}"
        for name in names[:MAX_NAMED_FIELDS]
    ]
    more = len(names) - len(named)
    return " ".join([*named, *([f"So are {more} more."] if more else [])])


def hint(
    name: str,
    schema: type[BaseModel],
    parents: Sequence[str] = (),
    spell: Callable[[str], str] = str,
) -> str:
    """A sentence that says what to send instead, with a space before it; "" for no idea.

    spell: how the caller's fields are written, given the path of one
    """
    meaning = meaning_of(name, schema, parents)
    if meaning is None or meaning in _NOTES.values():
        return f" {meaning}" if meaning else ""
    outside = f", outside {'.'.join(parents)}" if parents and "." not in meaning else ""
    return f" Did you mean {spell(meaning)}{outside}?"


def meaning_of(name: str, schema: type[BaseModel], parents: Sequence[str] = ()) -> str | None:
    """The path of the field that a name means, as clients write it, or a note; None for no idea.

    A name is known by its letters in any case, by the table, or by likeness of the spelling.
    """
    if len(name) > MAX_SHOWN_CHARS:
        return None
    meanings = _meanings(schema, ".".join(parents))
    return meanings.get(_nearest(_key(name), meanings))


def _meanings(schema: type[BaseModel], here: str) -> dict[str, str]:
    """What every name means: the path of a field, as clients write it, or a note.

    The fields of the object at `here` come before others of the same name.
    """
    fields = dict(_fields(schema))
    others = {key: fields[own] for key, own in _FIELD_OF.items() if own in fields}
    own_first = sorted(fields.items(), key=lambda field: field[1].rpartition(".")[0] == here)
    names = {
        _key(spelling.rpartition(".")[2]): path
        for own, path in own_first
        for spelling in (own, path)
    }
    return _NOTES | others | names


def _nearest(key: str, names: Iterable[str]) -> str:
    """The name itself, with two letters exchanged, or much like it; "" for none."""
    if key in names:
        return key
    alike = [name for name in names if name[:1] == key[:1] and len(name) >= _LEAST_CHARS]
    swapped = [name for name in alike if sorted(name) == sorted(key)]
    return next(iter(swapped or get_close_matches(key, alike, 1, _LEAST_LIKENESS)), "")


def _key(name: str) -> str:
    """A name without case, hyphens, underscores and dots: `maxLength` is `max_length`."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _fields(schema: type[BaseModel], parents: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield every field's path by our names, and as clients of the schema write it."""
    for name, field in schema.model_fields.items():
        path = [*parents, field.alias or name]
        yield ".".join([*parents, name]), ".".join(path)
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _fields(kind, path)


_FIELD_OF: dict[str, str] = {
    _key(name): field for field, names in _TABLE["fields"].items() for name in names.split(",")
}
_NOTES: dict[str, str] = {
    _key(name): note["says"] for note in _TABLE["notes"] for name in note["names"].split(",")
}
