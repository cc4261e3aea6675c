"""What a query costs and the bucket that pays for it (facts, section 4).

Scalars cost nothing, an object one point, a mutation ten with its payload, a connection as much as the
nodes that it was asked for, and a list one element. That gives the captured 13 points for a set; costs of
large calls are not documented, so treat the sums as Shopify-like, not as Shopify's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    VariableNode,
    get_named_type,
)

MUTATION_COST = 10
FREE = frozenset({"InventoryQuantity", "InventoryChange"})
"""Objects that the captured costs do not count: 13 for a set with its changes, item and location."""

MAX_QUERY_COST = 1000
"""A single query that asks for more is refused whatever is in the bucket."""


class Bucket:
    """A leaky bucket of points of one app at one shop."""

    def __init__(
        self, monotonic: Callable[[], float], *, capacity: float = 2000.0, restore_rate: float = 100.0
    ) -> None:
        self.capacity = capacity
        self.restore_rate = restore_rate  # points a second
        self.spent = 0.0  # points, since it was made
        self._monotonic = monotonic
        self._level = capacity
        self._at = monotonic()

    @property
    def available(self) -> float:
        """The points that are there now."""
        now = self._monotonic()
        self._level = min(self.capacity, self._level + (now - self._at) * self.restore_rate)
        self._at = now
        return self._level

    def take(self, points: float) -> None:
        """Pay."""
        self._level = max(0.0, self.available - points)
        self.spent += points

    def extension(self, requested: int, actual: int | None) -> dict[str, Any]:
        """The ``extensions.cost`` of an answer; ``actual`` is null when nothing ran."""
        return {
            "requestedQueryCost": requested,
            "actualQueryCost": actual,
            "throttleStatus": {
                "maximumAvailable": _whole(self.capacity),
                "currentlyAvailable": int(self.available),
                "restoreRate": _whole(self.restore_rate),
            },
        }


class Pricer:
    """The cost of one operation: before it runs by what it asks for, afterwards by what it got."""

    def __init__(
        self,
        schema: GraphQLSchema,
        document: DocumentNode,
        operation: OperationDefinitionNode,
        variables: Mapping[str, Any],
    ) -> None:
        self._schema = schema
        self._operation = operation
        self._variables = variables
        self._fragments = {
            each.name.value: each for each in document.definitions if isinstance(each, FragmentDefinitionNode)
        }

    def requested(self) -> int:
        """The points to have in the bucket."""
        return self._operation_cost(None)

    def actual(self, data: Mapping[str, Any]) -> int:
        """The points to pay."""
        return self._operation_cost(data)

    def _operation_cost(self, data: Mapping[str, Any] | None) -> int:
        mutation = self._operation.operation is OperationType.MUTATION
        root = self._schema.mutation_type if mutation else self._schema.query_type
        total = 0
        for _, node, field in self._fields(root, self._operation.selection_set):
            got = None if data is None else data.get(_response_name(node))
            if mutation:
                inner = self._inside(field, node, got) if data is None or got is not None else 0
                total += MUTATION_COST + inner
            else:
                total += self._field_cost(node, field, got, asked=data is None)
        return total

    def _inside(self, field: GraphQLField, node: FieldNode, got: Any) -> int:
        if node.selection_set is None:
            return 0
        kind = get_named_type(field.type)
        return sum(
            self._field_cost(
                child, child_field, None if got is None else got.get(_response_name(child)), asked=got is None
            )
            for owner, child, child_field in self._fields(kind, node.selection_set)
            if got is None or _response_name(child) in got
        )

    def _field_cost(self, node: FieldNode, field: GraphQLField, got: Any, *, asked: bool) -> int:
        if node.selection_set is None or (not asked and not got):
            return 0
        name = get_named_type(field.type).name
        if name.endswith(("Error", "PageInfo")):
            return 0
        if name.endswith(("Connection", "Edge")):
            return self._sized(node, field, got, asked)
        if isinstance(got, list):
            # `nodes(ids)` counts each object; other lists were captured as one element.
            shown = [each for each in got if each] if node.name.value == "nodes" else got[:1]
            return sum(self._object_cost(node, field, each) for each in shown)
        return self._object_cost(node, field, got) * (self._ids(node) if asked else 1)

    def _object_cost(self, node: FieldNode, field: GraphQLField, got: Any) -> int:
        own = 0 if get_named_type(field.type).name in FREE else 1
        return own + self._inside(field, node, got)

    def _sized(self, node: FieldNode, field: GraphQLField, got: Any, asked: bool) -> int:
        if not asked and isinstance(got, list):
            return sum(self._inside(field, node, each) for each in got)
        return self._inside(field, node, got) * (self._page(node) if asked else 1)

    def _page(self, node: FieldNode) -> int:
        sizes = [self._int(a.value) for a in node.arguments or () if a.name.value in ("first", "last")]
        return max([1, *sizes])

    def _ids(self, node: FieldNode) -> int:
        for argument in node.arguments or ():
            if argument.name.value == "ids":
                if isinstance(argument.value, ListValueNode):
                    return len(argument.value.values)
                if isinstance(argument.value, VariableNode):
                    ids = self._variables.get(argument.value.name.value)
                    return len(ids) if isinstance(ids, list) else 1
        return 1

    def _int(self, value: object) -> int:
        if isinstance(value, IntValueNode):
            return int(value.value)
        if isinstance(value, VariableNode):
            given = self._variables.get(value.name.value)
            return given if isinstance(given, int) else 1
        return 1

    def _fields(
        self, owner: GraphQLNamedType | None, selection: SelectionSetNode
    ) -> Iterator[tuple[GraphQLNamedType, FieldNode, GraphQLField]]:
        """The fields selected on a type, with those of its fragments; each object pays for all of them."""
        for each in selection.selections:
            if isinstance(each, FieldNode):
                fields = owner.fields if isinstance(owner, GraphQLObjectType | GraphQLInterfaceType) else {}
                if owner is not None and each.name.value in fields:
                    yield owner, each, fields[each.name.value]
            elif isinstance(each, FragmentSpreadNode):
                fragment = self._fragments[each.name.value]
                kind = self._schema.get_type(fragment.type_condition.name.value)
                yield from self._fields(kind, fragment.selection_set)
            elif isinstance(each, InlineFragmentNode):
                condition = each.type_condition
                kind = self._schema.get_type(condition.name.value) if condition else owner
                yield from self._fields(kind, each.selection_set)


def _whole(number: float) -> float:
    """Without a fraction where there is none, as Shopify writes its own."""
    return int(number) if number == int(number) else number


def _response_name(node: FieldNode) -> str:
    return node.alias.value if node.alias else node.name.value
