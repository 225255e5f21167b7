"""Reads a configuration, and explains what is wrong with it.

A wrong file is answered with all its problems at once, a line each, with line, column and path. What a value should
have been is read from the JSON schema, so that the loader and an editor that knows the schema say the same.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StreamMark, YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node, SequenceNode

from streamnode.config.fields import Keys
from streamnode.config.tree import NodeConfig, cached_schema
from streamnode.errors import ConfigError

Place = tuple[int, int]
"""Line and column, both from 1."""
_PLAIN = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


def load(path: Path | str) -> NodeConfig:
    """Read and check a configuration.

    Args:
        path: YAML 1.2 file; relative paths inside it count from its folder.

    Raises:
        ConfigError: every problem of the file, a line each; what concerns several keys together is looked at once
            each is right by itself.
    """
    path = Path(path)
    places, problems, data = _read_yaml(path)
    config: NodeConfig | None = None
    try:
        config = NodeConfig.model_validate(data, context={"folder": path.parent})
    except ValidationError as error:
        for details in filter(_counts, error.errors(include_url=False)):
            key, why = _explain(details, data)
            problems.add((_place(places, key), f"{key}: {why}".removeprefix(": ")))
    if config is None or problems:
        raise ConfigError("\n".join(f"{path}:{line}:{column}: {why}" for (line, column), why in sorted(problems)))
    return config


# --- places: what the nodes of YAML know and the data have forgotten ---


def _read_yaml(path: Path) -> tuple[dict[str, Place], set[tuple[Place, str]], Any]:
    """Where each key is, which ones are repeated, and the plain data."""
    yaml = YAML(typ="safe", pure=True)
    yaml.constructor.allow_duplicate_keys = True  # `_survey` finds all of them, ruamel would stop at the first
    try:
        root = yaml.compose(path.read_text(encoding="utf-8-sig"))
        if root is None:
            raise ConfigError(f"{path}: the file is empty; it needs at least source, model and sinks")
        return *_survey(root), yaml.constructor.construct_document(root)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except MarkedYAMLError as error:
        line, column = _start(error.problem_mark)
        why = ", ".join(filter(None, (error.context, error.problem)))
        why = re.sub("(alias|tag) '.*'", r"\1", why)  # a password that begins with * or ! reads as one
        raise ConfigError(f"{path}:{line}:{column}: not valid YAML: {why}") from None
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None


def _survey(root: Node) -> tuple[dict[str, Place], set[tuple[Place, str]]]:
    """Place of every key by its dotted path, and the keys that stand twice. Raises `MarkedYAMLError` for a set."""
    places, repeated = {"": _start(root.start_mark)}, set()
    waiting, seen = [("", root)], set()
    while waiting:
        parent, node = waiting.pop()
        if id(node) in seen:
            continue  # an alias may lead back to the node it stands in
        seen.add(id(node))
        if isinstance(node, CollectionNode) and node.tag not in _PLAIN:
            raise MarkedYAMLError(
                problem="a list or a block of keys has a tag: leave it out", problem_mark=node.start_mark
            )
        for name, mark, value in _entries(node):
            key, place = f"{parent}.{name}".removeprefix("."), _start(mark)
            if key in places:
                repeated.add((place, f"{key}: duplicate key, first on line {places[key][0]}"))
            else:
                places[key] = place
                waiting.append((key, value))
    return places, repeated


def _entries(node: Node) -> Iterator[tuple[str | int, StreamMark, Node]]:
    """Name, start and value of all that is directly inside `node`."""
    if isinstance(node, MappingNode):
        yield from ((str(key.value), key.start_mark, value) for key, value in node.value)
    elif isinstance(node, SequenceNode):
        yield from ((i, item.start_mark, item) for i, item in enumerate(node.value))


def _start(mark: StreamMark) -> Place:
    return mark.line + 1, mark.column + 1


def _place(places: dict[str, Place], key: str) -> Place:
    """Of the key, or of the innermost section around it that stands in the file."""
    while key not in places:
        key = key.rpartition(".")[0]
    return places[key]


# --- words: what the schema asks for, and what was found ---


def _counts(error: ErrorDetails) -> bool:
    """False for what pydantic only believes: that a list is too short because its items are wrong."""
    return not (error["type"] == "too_short" and error["input"])


def _explain(error: ErrorDetails, data: Any) -> tuple[str, str]:
    """The dotted path an error of pydantic belongs to, and plain words for it."""
    keys, expected = _follow(error["loc"])
    kind = error["type"]
    if kind.startswith("union_tag"):
        keys, expected = (*keys, "kind"), {"enum": list(_plain(expected)["discriminator"]["mapping"])}
    if kind in {"refusal", "value_error"}:
        why = error["msg"].removeprefix("Value error, ")
    elif kind in {"extra_forbidden", "invalid_key"}:
        why = f"unknown key{_suggestion(str(keys[-1]), _follow(error['loc'][:-1])[1])}"
    elif kind in {"missing", "union_tag_not_found"}:
        why = f"missing; should be {_words(expected)}"
    elif expected.get("writeOnly"):
        why = f"should be {_words(expected)}"
    else:
        why = f"should be {_words(expected)}, got {_seen(reduce(getitem, keys, data))}"
    return ".".join(map(str, keys)), why


def _follow(loc: Keys) -> tuple[Keys, dict[str, Any]]:
    """The keys of the file in pydantic's location, which also names the members of unions, and the schema there."""
    keys: list[str | int] = []
    here = cached_schema()
    for step in loc:
        here = _plain(here)
        if "discriminator" in here:
            here = {"$ref": here["discriminator"]["mapping"][step]}
        elif here.get("type") in {"object", "array"}:
            here = here.get("properties", {}).get(step) or here.get("items") or {}
            keys.append(step)
        else:
            break
    return tuple(keys), here


def _plain(node: dict[str, Any]) -> dict[str, Any]:
    """A schema without its reference and without its `or null`."""
    if "$ref" in node:
        definition: dict[str, Any] = cached_schema()["$defs"][node["$ref"].rpartition("/")[2]]
        return definition
    match node.get("anyOf"):
        case [only, {"type": "null"}]:
            return _plain(only)
    return node


def _words(node: dict[str, Any]) -> str:
    """What a schema asks for."""
    match node:
        case {"anyOf": options}:
            words = " or ".join(_words(option) for option in options if option.get("type") != "null")
        case {"patternErrorMessage": str(sentence)}:
            words = sentence.removeprefix("should be ")
        case {"enum": values}:
            words = _or(map(repr, values))
        case {"const": value}:
            words = repr(value)
        case {"type": "array", "items": items}:
            words = f"a non-empty list, each item {_words(items)}"
        case {"type": str(kind)}:
            words = _NOUNS[node.get("format", kind)] + "".join(
                f" {_LIMITS[key]} {node[key]}" for key in _LIMITS if key in node
            )
        case _:
            words = _NOUNS["object"]
    return words


_NOUNS = {
    "string": "text",
    "path": "a path",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "object": "a block of keys",
}
_LIMITS = {"exclusiveMinimum": "greater than", "minimum": "of at least", "maximum": "and at most"}


def _or(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _seen(value: object) -> str:
    """A wrong value, as far as it is short."""
    match value:
        case None | "":
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "a block of keys"
        case list():
            return "a list" if value else "an empty list"
    return repr(value) if isinstance(value, str) else str(value)


def _suggestion(key: str, section: dict[str, Any]) -> str:
    known = list(_plain(section)["properties"])
    close = difflib.get_close_matches(key, known, n=1)
    return f", did you mean {close[0]!r}?" if close else f"; known here: {', '.join(known)}"
