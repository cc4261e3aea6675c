"""Facts of Shopify's own schema for what the simulator's schema uses: names, types, deprecation.

``shopify_members.json`` is made from Shopify's introspection files (``admin_2026-07.json.gz``), which
are no part of this repository. Whoever adds a member to ``schema.graphql`` makes it again, with their folder:
``SHOPIFY_SCHEMAS=folder PYTHONPATH=.:tests python -m support.shopify_schema``
"""

from __future__ import annotations

import gzip
import json
import os
from functools import lru_cache
from pathlib import Path

from gql import GraphQLRequest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    build_client_schema,
)

from connectors.shopify import documents
from connectors.shopify.simulator.graphql import load_schema

VERSIONS = ("2026-07", "2026-10")
FILE = Path(__file__).with_name("shopify_members.json")
PARTIAL = frozenset({"WebhookSubscriptionTopic"})
"""Enums of which ours is a part; all others, and all inputs and arguments, are whole."""

Members = dict[str, str]
Facts = dict[str, Members]
"""By type (or directive): every member with its type and whether it is deprecated."""


def real_file(version: str) -> Path:
    """Where Shopify's introspection of a version is, if it is at hand."""
    beside = Path(__file__).parents[2].parent / "shared/shopify/schemas"
    return Path(os.environ.get("SHOPIFY_SCHEMAS", beside)) / f"admin_{version}.json.gz"


@lru_cache
def real(version: str) -> GraphQLSchema:
    """Shopify's own schema; its interfaces break a rule of newer graphql-core, hence not validated."""
    data = json.loads(gzip.decompress(real_file(version).read_bytes()))["data"]
    return build_client_schema(data, assume_valid=True)


def extract() -> dict[str, Facts]:
    """The committed facts, by version."""
    return json.loads(FILE.read_text())


def facts_of(schema: GraphQLSchema) -> Facts:
    """Everything a client can see of the types that the simulator's schema has."""
    names = [name for name in load_schema().type_map if not name.startswith("__")]
    return {name: members(schema, name) for name in names} | {"@idempotent": _directive(schema)}


def used_of(theirs: Facts) -> Facts:
    """Of Shopify's facts those that concern the simulator's schema: its members, and what belongs to them."""
    ours = facts_of(load_schema())
    return {
        name: {member: kind for member, kind in found.items() if _concerns(member, name, ours[name])}
        for name, found in theirs.items()
    }


def members(schema: GraphQLSchema, name: str) -> Members:
    """Every member of a type."""
    kind = schema.get_type(name)
    found = {"kind": type(kind).__name__}
    if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType):
        for field, value in kind.fields.items():
            found[field] = _told(str(value.type), value.deprecation_reason)
            for argument, given in value.args.items():
                found[f"{field}({argument})"] = _told(str(given.type), given.deprecation_reason)
        found |= {f"implements {each.name}": "yes" for each in kind.interfaces}
    elif isinstance(kind, GraphQLInputObjectType):
        found |= {field: _told(str(v.type), v.deprecation_reason) for field, v in kind.fields.items()}
    elif isinstance(kind, GraphQLEnumType):
        found |= {value: _told("value", v.deprecation_reason) for value, v in kind.values.items()}
    return found


def all_documents() -> dict[str, str]:
    """Every GraphQL document of the project, by its name: calls, and the inner queries of bulk operations."""
    found = {}
    for name, value in vars(documents).items():
        if isinstance(value, GraphQLRequest):
            assert value.document.loc is not None, "parsed from text"
            found[name] = value.document.loc.source.body
        elif isinstance(value, str) and value.lstrip().startswith(("{", "query", "mutation")):
            found[name] = value
    return found


def _concerns(member: str, name: str, ours: Members) -> bool:
    if "Input" in ours["kind"] or ("Enum" in ours["kind"] and name not in PARTIAL):
        return True
    return member in ours or ("(" in member and member.partition("(")[0] in ours)


def _directive(schema: GraphQLSchema) -> Members:
    directive = schema.get_directive("idempotent")
    assert directive is not None, "both schemas have it"
    where = " ".join(each.name for each in directive.locations)
    told = {"kind": "Directive", "locations": where, "repeatable": str(directive.is_repeatable)}
    return told | {f"({name})": str(given.type) for name, given in directive.args.items()}


def _told(kind: str, deprecated: str | None) -> str:
    return f"{kind} deprecated" if deprecated is not None else kind


def write() -> None:
    """Make the file of facts again, one type a line."""
    versions = []
    for version in VERSIONS:
        used = used_of(facts_of(real(version)))
        rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(used[name])}" for name in sorted(used))
        versions.append(f' "{version}": {{\n{rows}\n }}')
    FILE.write_text("{\n" + ",\n".join(versions) + "\n}\n")


if __name__ == "__main__":
    write()
