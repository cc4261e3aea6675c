"""Shopify's search syntax, as far as our queries use it: ``name:value`` with AND, OR, NOT and brackets.

``updated_at:>='2026-11-02T08:00:00Z' AND (sku:ABC OR -sku:'A B')``. Text is compared without regard to case
and ``*`` at its end makes it a prefix, so whoever needs a SKU exactly has to compare it (facts 3). A name
that is not simulated is refused: Shopify would leave the term out and answer with too much.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from graphql import GraphQLError

MAX_QUERY_CHARS = 4096
"""A query that names 250 ids fits; no filter of ours is longer."""

TOKEN = re.compile(
    r"\s*(?:(?P<bracket>[()])|(?P<word>AND|OR|NOT)(?=[\s(]|$)"
    r"|(?P<minus>-?)(?P<name>\w+):(?P<op><=|>=|<|>)?(?P<value>'[^']*'|\"[^\"]*\"|[^\s()]+))"
)

Fields = Mapping[str, Any]
"""What a record can be found by: numbers, texts, truths, and instants as aware datetimes."""

Test = Callable[[Fields], bool]


def search(query: str | None) -> Test:
    """Whether a record matches a query; an empty one matches everything.

    Raises:
        GraphQLError: for what is not understood; at the test, for a name that the record does not have.
    """
    if not query or not query.strip():
        return lambda fields: True
    if len(query) > MAX_QUERY_CHARS:
        raise _bad(f"a query of {len(query)} characters; the limit is {MAX_QUERY_CHARS}")
    tokens = _tokens(query)
    test = _either(tokens)
    if tokens:
        raise _bad(f"{query!r}: nothing opens the bracket")
    return test


def instant(seconds: float) -> datetime:
    """An instant as ``search`` compares it: in whole seconds, like all that Shopify tells."""
    return datetime.fromtimestamp(int(seconds), UTC)


def _tokens(query: str) -> list[re.Match[str]]:
    found: list[re.Match[str]] = []
    at = 0
    while query[at:].strip():
        match = TOKEN.match(query, at)
        if match is None:
            raise _bad(f"{query!r}: not understood from {query[at:].strip()[:20]!r}")
        found.append(match)
        at = match.end()
    return found


def _either(tokens: list[re.Match[str]]) -> Test:
    tests = [_all(tokens)]
    while tokens and tokens[0]["word"] == "OR":
        tokens.pop(0)
        tests.append(_all(tokens))
    return lambda fields: any(test(fields) for test in tests)


def _all(tokens: list[re.Match[str]]) -> Test:
    tests = [_one(tokens)]
    while tokens and tokens[0]["bracket"] != ")" and tokens[0]["word"] != "OR":
        if tokens[0]["word"] == "AND":
            tokens.pop(0)
        tests.append(_one(tokens))
    return lambda fields: all(test(fields) for test in tests)


def _one(tokens: list[re.Match[str]]) -> Test:
    if not tokens:
        raise _bad("the query ends where a term is expected")
    token = tokens.pop(0)
    if token["word"] == "NOT":
        inner = _one(tokens)
        return lambda fields: not inner(fields)
    if token["bracket"] == "(":
        inner = _either(tokens)
        if not tokens or tokens.pop(0)["bracket"] != ")":
            raise _bad("nothing closes the bracket")
        return inner
    if token["name"] is None:
        raise _bad(f"{token[0].strip()!r} where a term is expected")
    return _term(token)


def _term(token: re.Match[str]) -> Test:
    name, op = token["name"], token["op"] or ""
    value = token["value"]
    value = value[1:-1] if value[0] in "'\"" else value

    def test(fields: Fields) -> bool:
        if name not in fields:
            raise _bad(f"the filter {name!r} is not simulated; known are {', '.join(sorted(fields))}")
        return _compare(fields[name], op, value)

    return (lambda fields: not test(fields)) if token["minus"] else test


def _compare(has: Any, op: str, value: str) -> bool:
    if has is None:
        return False
    if isinstance(has, str):
        if value.endswith("*"):
            return has.lower().startswith(value[:-1].lower())
        return _ordered(has.lower(), op, value.lower())
    try:
        return _ordered(has, op, _like(has, value))
    except ValueError:
        raise _bad(f"cannot compare {has!r} with {value!r}") from None


def _like(has: Any, value: str) -> Any:
    """The value as the type of what it is compared with."""
    if isinstance(has, datetime):
        told = datetime.fromisoformat(value)
        return told if told.tzinfo else told.replace(tzinfo=UTC)
    if isinstance(has, bool):
        return value.lower() == "true"
    return int(value.rpartition("/")[2])  # an id may be given as a GID


def _ordered(has: Any, op: str, value: Any) -> bool:
    return bool(
        {"": has == value, ">": has > value, "<": has < value, ">=": has >= value, "<=": has <= value}[op]
    )


def _bad(message: str) -> GraphQLError:
    return GraphQLError(f"Invalid query: {message}", extensions={"code": "BAD_REQUEST"})
