"""Writes one shop's entry into the shops file, wholly or not at all, and leaves the rest as it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, SequenceNode

from app.errors import Misconfigured

MODE = 0o600
"""Of a new file: it may come to hold secrets, whatever ours refer to."""


APP = frozenset({"client_id", "client_secret"})
"""What takes the place of an access token, and the other way round."""


def merged(known: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with changes; a secret that is given in another form replaces the one it had."""
    given = {_secret(name) for name in changes}
    gone = set(given)
    if given & APP:
        gone.add("access_token")
    if "access_token" in given:
        gone |= APP
    if "webhook_secret" in given:
        gone.add("webhook_secrets")
    return {**{name: value for name, value in known.items() if _secret(name) not in gone}, **changes}


def _secret(name: str) -> str:
    return name.removesuffix("_env").removesuffix("_file")


def put_entry(path: Path, domain: str, entry: Mapping[str, Any]) -> None:
    """Add a shop's entry, or replace the one it has; comments outside of it stay.

    Raises:
        Misconfigured: naming the file, when it cannot be written, or not without changing something else.
    """
    try:
        before = path.read_text() if path.exists() else "shops:\n"
        after = with_entry(before, domain, entry)
        _replace(path, after)
    except yaml.YAMLError as error:
        raise Misconfigured(f"{path} is not YAML: {error}") from None
    except OSError as error:
        raise Misconfigured(f"{path} cannot be written: {error.strerror}") from None
    except ValueError as error:
        raise Misconfigured(f"{path}: {error}; write the shop's entry by hand") from None


def with_entry(text: str, domain: str, entry: Mapping[str, Any]) -> str:
    """The text of a shops file with an entry.

    Raises:
        ValueError: when the file is written so that nothing can be put in without changing the rest.
    """
    shops = _shops_node(text)
    entries: list[tuple[Node, Node]] = shops.value if isinstance(shops, MappingNode) else []
    column = entries[0][0].start_mark.column if entries else 2
    block = indent(yaml.safe_dump({domain: dict(entry)}, sort_keys=False), " " * column)
    mine = [(key, value) for key, value in entries if str(key.value).lower() == domain]
    if not entries:  # nothing, or an empty pair of braces
        head, tail = text[: shops.start_mark.index].rstrip(" "), text[shops.end_mark.index :]
        tail = tail.removeprefix("\n")
    elif mine:
        key, value = mine[0]
        head = text[: key.start_mark.index - column]
        tail = text[_line_end(text, _last(value).end_mark.index) :]
    else:
        end = _line_end(text, _last(entries[-1][1]).end_mark.index)
        head, tail = text[:end], text[end:]
    after = head + ("" if head.endswith("\n") or not head else "\n") + block + tail
    _require_same(text, after, domain, entry)
    return after


def _shops_node(text: str) -> Node:
    document = yaml.compose(text, yaml.SafeLoader)
    pairs = document.value if isinstance(document, MappingNode) else []
    for key, value in pairs:
        if key.value == "shops" and (isinstance(value, MappingNode) or not value.value):
            found: Node = value
            return found
    raise ValueError("expected a mapping 'shops' of domain to shop")


def _last(node: Node) -> Node:
    """The node that ends a value's text; a block's own end is only where the next thing begins."""
    if isinstance(node, MappingNode | SequenceNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last(last[1] if isinstance(last, tuple) else last)
    return node


def _line_end(text: str, index: int) -> int:
    if index and text[index - 1] == "\n":
        return index
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1


def _require_same(before: str, after: str, domain: str, entry: Mapping[str, Any]) -> None:
    """Read the new text back: it must say what the old one did, and the entry."""
    wanted = yaml.safe_load(before)
    others = {name: one for name, one in (wanted["shops"] or {}).items() if str(name).lower() != domain}
    wanted["shops"] = {**others, domain: dict(entry)}
    try:
        found = yaml.safe_load(after)
    except yaml.YAMLError:
        found = None
    if found != wanted:
        raise ValueError("it is written so that an entry cannot be put in without changing the rest")


def _replace(path: Path, text: str) -> None:
    """Replace the file in one step: a reader sees the old text or the new one, also after a crash."""
    target = path.resolve()
    mode = target.stat().st_mode & 0o777 if target.exists() else MODE
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)  # still there after a failure only
