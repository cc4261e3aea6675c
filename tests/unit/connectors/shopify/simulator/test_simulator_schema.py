"""The simulator's schema is a true part of Shopify's."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    build_client_schema,
    validate_schema,
)

from connectors.shopify.simulator.graphql import load_schema

REAL = Path(__file__).parents[5].parent / "shared/shopify/schemas/admin_2026-10.json.gz"
Members = dict[str, object]


@pytest.fixture(scope="module")
def real() -> GraphQLSchema:
    if not REAL.exists():
        pytest.skip("Shopify's introspection of 2026-10 is not beside the checkout")
    return build_client_schema(json.loads(gzip.decompress(REAL.read_bytes()))["data"], assume_valid=True)


def members(schema: GraphQLSchema, name: str) -> Members:
    """Every member of a type with all that a client can see of it."""
    kind = schema.get_type(name)
    found: Members = {"kind": type(kind).__name__}
    if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType):
        for field, value in kind.fields.items():
            found[field] = (str(value.type), value.deprecation_reason)
            found |= {f"{field}({argument})": str(a.type) for argument, a in value.args.items()}
        found |= {f"implements {each.name}": True for each in kind.interfaces}
    elif isinstance(kind, GraphQLInputObjectType):
        found |= {field: str(value.type) for field, value in kind.fields.items()}
    elif isinstance(kind, GraphQLEnumType):
        found |= dict.fromkeys(kind.values, True)
    return found


def ours() -> list[str]:
    return [name for name in load_schema().type_map if not name.startswith("__")]


def test_the_schema_is_valid() -> None:
    assert validate_schema(load_schema()) == []


@pytest.mark.parametrize("name", ours())
def test_every_member_is_shopifys(name: str, real: GraphQLSchema) -> None:
    mine, theirs = members(load_schema(), name), members(real, name)
    assert {each: theirs.get(each) for each in mine} == mine


@pytest.mark.parametrize("name", ours())
def test_arguments_inputs_and_enums_are_whole(name: str, real: GraphQLSchema) -> None:
    mine, theirs = members(load_schema(), name), members(real, name)
    if isinstance(load_schema().get_type(name), GraphQLInputObjectType | GraphQLEnumType):
        assert mine == theirs
    else:
        arguments = {each for each in theirs if "(" in each and each.partition("(")[0] in mine}
        assert arguments <= set(mine)


def test_the_directive_is_shopifys(real: GraphQLSchema) -> None:
    mine, theirs = load_schema().get_directive("idempotent"), real.get_directive("idempotent")
    assert mine is not None
    assert theirs is not None
    assert mine.locations == theirs.locations
    assert {n: str(a.type) for n, a in mine.args.items()} == {n: str(a.type) for n, a in theirs.args.items()}
    assert mine.is_repeatable == theirs.is_repeatable
