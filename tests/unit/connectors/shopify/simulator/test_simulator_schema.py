"""The simulator's schema is a true part of Shopify's in both versions, and all our documents are valid."""

from __future__ import annotations

import pytest
from graphql import parse, validate, validate_schema
from support.shopify_schema import (
    PARTIAL,
    VERSIONS,
    Members,
    all_documents,
    extract,
    facts_of,
    real,
    real_file,
    used_of,
)

from connectors.shopify.simulator.graphql import load_schema

OURS = facts_of(load_schema())
FACTS = extract()
AGAIN = "after a change of schema.graphql, make the facts again (tests/support/shopify_schema.py)"


def whole(name: str) -> Members:
    """The members that both versions have."""
    old, new = (FACTS[version].get(name, {}) for version in VERSIONS)
    return {member: kind for member, kind in new.items() if member in old}


def at_hand(version: str) -> None:
    if not real_file(version).exists():
        pytest.skip(f"Shopify's introspection of {version} is not at hand (SHOPIFY_SCHEMAS)")


def test_the_schema_is_valid() -> None:
    assert validate_schema(load_schema()) == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OURS)
def test_every_member_is_shopifys(name: str, version: str) -> None:
    theirs = FACTS[version].get(name, {})
    assert {member: theirs.get(member) for member in OURS[name]} == OURS[name], AGAIN


@pytest.mark.parametrize("name", sorted(OURS.keys() - PARTIAL))
def test_arguments_inputs_and_enums_are_whole(name: str) -> None:
    assert OURS[name] == whole(name), AGAIN


@pytest.mark.parametrize("version", VERSIONS)
def test_the_facts_are_those_of_the_real_schema(version: str) -> None:
    at_hand(version)
    assert used_of(facts_of(real(version))) == FACTS[version], AGAIN


def test_all_documents_are_found() -> None:
    assert {"ADJUST", "LEVELS", "ORDER"} <= all_documents().keys()


@pytest.mark.parametrize("name", all_documents())
def test_every_document_is_valid_here(name: str) -> None:
    assert validate(load_schema(), parse(all_documents()[name])) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_document_is_valid_at_shopify(version: str) -> None:
    at_hand(version)
    for name, document in all_documents().items():
        assert validate(real(version), parse(document)) == [], name
