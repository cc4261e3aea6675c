"""The inner query of a bulk operation: what Shopify refuses of it, and the rows that it makes of a record."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationType,
    SelectionSetNode,
    TypeNameMetaFieldDef,
    get_named_type,
    get_operation_ast,
    parse,
    validate,
)
from graphql.execution.values import get_argument_values
from msgspec import Struct

from connectors.shopify.simulator.access import refusals
from connectors.shopify.simulator.views import MAX_IDS, View

MAX_CONNECTIONS = 5
MAX_DEPTH = 2
"""Connections inside of connections, below the first one (facts 3.1)."""

Row = dict[str, Any]
Fields = list[tuple[FieldNode, GraphQLField]]


class Step(Struct, frozen=True, kw_only=True, eq=False):
    """One field to read of an object."""

    field: str
    name: str  # in the row
    arguments: dict[str, Any]
    connection: bool  # its nodes become rows of their own
    kind: Any  # of what it leads to
    inner: Any  # what is selected there; None for a leaf


class NotBulk(ValueError):
    """A query that Shopify does not run as a bulk operation."""


class BulkQuery:
    """A checked inner query."""

    def __init__(self, schema: GraphQLSchema, text: str, roots: Collection[str]) -> None:
        self._schema = schema
        self._plans: dict[tuple[str, int], list[Step]] = {}
        self._document = _parsed(schema, text)
        self._fragments = {
            each.name.value: each
            for each in self._document.definitions
            if isinstance(each, FragmentDefinitionNode)
        }
        operation = get_operation_ast(self._document)
        if operation is None or operation.operation is not OperationType.QUERY:
            raise NotBulk("A bulk query is exactly one query.")
        self._operation = operation
        assert schema.query_type is not None, "the schema has queries"
        found = list(self._fields(schema.query_type, operation.selection_set))
        connections = [pair for pair in found if is_connection(pair[1])]
        if not connections:
            raise NotBulk("Bulk queries must contain at least one connection.")
        if len(found) > 1:
            raise NotBulk("Bulk queries have one field at the top, and that is a connection.")
        node, field = connections[0]
        self.root = node.name.value
        if self.root not in roots:
            raise NotBulk(f"A bulk query over {self.root} is not simulated.")
        self.arguments = get_argument_values(field, node)
        count = self._check(node, field, depth=0)
        if count > MAX_CONNECTIONS:
            raise NotBulk(f"Bulk queries cannot contain more than {MAX_CONNECTIONS} connections.")
        self._kind, self._selection = self._node_of(node, field)

    def refused(self, scopes: Sequence[str]) -> bool:
        """Whether the app may not see what the query asks for."""
        return bool(refusals(self._schema, self._document, self._operation, scopes))

    def rows(self, view: View) -> list[Row]:
        """The row of a root object, followed by those of its connections."""
        return self._rows(self._kind, self._selection, view, parent=None)

    def _rows(self, kind: Any, selection: SelectionSetNode, view: View, parent: str | None) -> list[Row]:
        children: list[Row] = []
        row = self._object(kind, selection, view, children)
        if parent is not None:
            row["__parentId"] = parent
        return [row, *children]

    def _object(self, kind: Any, selection: SelectionSetNode, view: View, children: list[Row]) -> Row:
        row: Row = {}
        for step in self._steps(view.get("__typename", kind.name), selection):
            value = view.get(step.field)
            if step.connection:
                for each in _all_nodes(value, step.arguments):
                    children += self._rows(step.kind, step.inner, each, parent=view["id"])
                continue
            if callable(value):
                value = value(None, **step.arguments)
            if value is None or step.inner is None:
                row[step.name] = value
            elif isinstance(value, list):
                row[step.name] = [self._object(step.kind, step.inner, each, children) for each in value]
            else:
                row[step.name] = self._object(step.kind, step.inner, value, children)
        return row

    def _steps(self, kind: str, selection: SelectionSetNode) -> list[Step]:
        """What to read of an object of a type; found out once, for there may be a million of them."""
        key = (kind, id(selection))
        if key not in self._plans:
            fields = self._fields(self._schema.get_type(kind), selection)
            self._plans[key] = [self._step(node, field) for node, field in fields]
        return self._plans[key]

    def _step(self, node: FieldNode, field: GraphQLField) -> Step:
        connection = is_connection(field)
        kind: Any = get_named_type(field.type)
        inner = node.selection_set
        if connection:
            kind, inner = self._node_of(node, field)
        return Step(
            field=node.name.value,
            name=node.alias.value if node.alias else node.name.value,
            arguments=get_argument_values(field, node),
            connection=connection,
            kind=kind,
            inner=inner,
        )

    def _check(self, node: FieldNode, field: GraphQLField, depth: int) -> int:
        """The connections in and below this one."""
        if depth > MAX_DEPTH:
            raise NotBulk(f"Bulk queries cannot contain connections with a nesting depth over {MAX_DEPTH}.")
        kind, selection = self._node_of(node, field)
        inner = self._below(kind, selection, in_list=False)
        chosen = {each.name.value for each, _ in self._fields(kind, selection) if each.alias is None}
        if inner and "id" not in chosen:
            raise NotBulk(f"The node of {node.name.value} must select id: a connection is nested in it.")
        return 1 + sum(self._check(each, each_field, depth + 1) for each, each_field in inner)

    def _below(self, kind: Any, selection: SelectionSetNode, *, in_list: bool) -> Fields:
        """The connections that are reached without passing another one."""
        found: Fields = []
        for node, field in self._fields(kind, selection):
            if is_connection(field):
                if in_list:
                    raise NotBulk(f"{node.name.value}: a connection cannot be inside of a list field.")
                found.append((node, field))
            elif node.selection_set is not None:
                inside = in_list or _is_list(field)
                found += self._below(get_named_type(field.type), node.selection_set, in_list=inside)
        return found

    def _node_of(self, node: FieldNode, field: GraphQLField) -> tuple[Any, SelectionSetNode]:
        """The type and selection of ``edges { node { … } }`` of a connection."""
        selection = node.selection_set
        for name in ("edges", "node"):
            assert selection is not None, "the document was validated"
            inside = {
                each.name.value: (each, each_field)
                for each, each_field in self._fields(get_named_type(field.type), selection)
            }
            if name not in inside:
                raise NotBulk(f"{node.name.value}: a bulk query selects edges {{ node {{ … }} }}.")
            node, field = inside[name]
            selection = node.selection_set
        assert selection is not None, "the document was validated"
        return get_named_type(field.type), selection

    def _fields(self, kind: Any, selection: SelectionSetNode) -> Iterator[tuple[FieldNode, GraphQLField]]:
        """The fields selected on a type, with those of its fragments."""
        for each in selection.selections:
            if isinstance(each, FieldNode):
                if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType):
                    field = (
                        TypeNameMetaFieldDef
                        if each.name.value == "__typename"
                        else kind.fields.get(each.name.value)
                    )
                    if field is not None:
                        yield each, field
            elif isinstance(each, FragmentSpreadNode):
                fragment = self._fragments[each.name.value]
                yield from self._inside(kind, fragment.type_condition.name.value, fragment.selection_set)
            elif isinstance(each, InlineFragmentNode):
                wanted = each.type_condition.name.value if each.type_condition else kind.name
                yield from self._inside(kind, wanted, each.selection_set)

    def _inside(
        self, kind: Any, wanted: str, selection: SelectionSetNode
    ) -> Iterator[tuple[FieldNode, GraphQLField]]:
        condition = self._schema.get_type(wanted)
        if isinstance(condition, GraphQLInterfaceType) or wanted == kind.name:
            yield from self._fields(kind, selection)


def is_connection(field: GraphQLField) -> bool:
    """Whether a field is a connection."""
    return get_named_type(field.type).name.endswith("Connection")


def _parsed(schema: GraphQLSchema, text: str) -> DocumentNode:
    try:
        document = parse(text)
    except GraphQLError as error:
        raise NotBulk(f"Invalid bulk query: {error.message}") from None
    errors = validate(schema, document)
    if errors:
        raise NotBulk(f"Invalid bulk query: {errors[0].message}")
    return document


def _is_list(field: GraphQLField) -> bool:
    kind = field.type.of_type if isinstance(field.type, GraphQLNonNull) else field.type
    return isinstance(kind, GraphQLList)


def _all_nodes(connection: Any, given: Mapping[str, Any]) -> Iterator[View]:
    """The nodes of all pages of a nested connection."""
    args = {name: value for name, value in given.items() if name not in ("first", "last", "after", "before")}
    after = None
    while True:
        page = connection(None, **args, first=MAX_IDS, after=after)
        yield from page["nodes"]
        if not page["pageInfo"]["hasNextPage"]:
            return
        after = page["pageInfo"]["endCursor"]
