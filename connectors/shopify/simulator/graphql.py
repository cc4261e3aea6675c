"""One GraphQL request against one simulated shop: cost, validation, execution and Shopify's error shapes.

A request has two steps, because a real one takes time: ``admit`` takes the idempotency keys, so that the
same key coming in again meanwhile is refused as concurrent, and ``execute`` does the work at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from graphql import (
    DocumentNode,
    ExecutionResult,
    FieldNode,
    GraphQLEnumType,
    GraphQLError,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLSchema,
    GraphQLSyntaxError,
    OperationDefinitionNode,
    OperationType,
    StringValueNode,
    VariableNode,
    build_schema,
    execute_sync,
    get_operation_ast,
    is_input_type,
    parse,
    type_from_ast,
    validate,
)
from msgspec import Struct

from connectors.shopify.simulator.access import refusals
from connectors.shopify.simulator.activation import Activation
from connectors.shopify.simulator.bulk import BulkOperations
from connectors.shopify.simulator.cost import MAX_QUERY_COST, Bucket, Pricer
from connectors.shopify.simulator.idempotency import KeyStore
from connectors.shopify.simulator.model import Webhook
from connectors.shopify.simulator.mutations import APP, Mutations, Running
from connectors.shopify.simulator.paging import Records
from connectors.shopify.simulator.reads import about_app, connections
from connectors.shopify.simulator.subscriptions import Subscriptions
from connectors.shopify.simulator.views import MAX_IDS, View, node_by, query_root, too_many
from connectors.shopify.simulator.world import ShopState, World

MAX_DOCUMENTS = 256
"""Parsed documents that are kept: a client has a handful."""
DOCUMENTATION = "https://shopify.dev/api/usage/rate-limits"
VALIDATION_CODES = {
    "Cannot query field": "undefinedField",
    "Unknown argument": "argumentNotAccepted",
    "Unknown directive": "undefinedDirective",
    "Unknown type": "undefinedType",
}
"""How graphql-core begins a message, and what Shopify calls the same error (facts 2.6)."""

INACTIVE = {"message": "The shop is inactive.", "extensions": {"code": "SHOP_INACTIVE"}}

Answer = dict[str, Any]


@lru_cache(maxsize=1)
def load_schema() -> GraphQLSchema:
    """The subset of the Admin API that is simulated."""
    return build_schema(files(__package__).joinpath("schema.graphql").read_text())


class Call(Struct, frozen=True, kw_only=True, eq=False):
    """An admitted request."""

    shop: ShopState
    document: DocumentNode
    operation: OperationDefinitionNode
    variables: Mapping[str, Any]
    running: Running
    field: str  # the first one at the top
    keys: Sequence[str]  # of idempotency


class Refusal(Struct, frozen=True, kw_only=True):
    """A request that is answered without being executed."""

    answer: Answer


class Api:
    """The Admin GraphQL API of all shops of a world, for one app."""

    def __init__(self, world: World, bulk: BulkOperations) -> None:
        self._world = world
        self._bulk = bulk
        self._schema = load_schema()
        self._keys: dict[str, KeyStore] = {}
        self._buckets: dict[str, Bucket] = {}

    def bucket(self, shop: ShopState) -> Bucket:
        """The shop's cost bucket."""
        domain = shop.config.domain
        return self._buckets.setdefault(domain, Bucket(self._world.monotonic))

    def set_bucket(self, shop: ShopState, capacity: float, restore_rate: float) -> None:
        """Give the shop another plan; the bucket starts full."""
        self._buckets[shop.config.domain] = Bucket(
            self._world.monotonic, capacity=capacity, restore_rate=restore_rate
        )

    def admit(
        self,
        shop: ShopState,
        query: str,
        variables: Mapping[str, Any],
        operation_name: str | None = None,
        base_url: str = "",
    ) -> Call | Refusal:
        """Parse and check a request, and take its idempotency keys until ``release``."""
        if shop.behaviour.door_at(self._world.clock()) == "inactive":
            return Refusal(answer={"errors": [INACTIVE]})
        parsed = _parse(query)
        if isinstance(parsed, list):
            return Refusal(answer={"errors": parsed})
        operation = get_operation_ast(parsed, operation_name)
        if operation is None:
            return Refusal(answer={"errors": [{"message": "No operation named that way, or more than one"}]})
        wrong = list(_variable_errors(self._schema, operation, variables))
        if wrong:
            return Refusal(answer={"errors": wrong})
        denied = refusals(self._schema, parsed, operation, shop.behaviour.scopes)
        if denied:
            return Refusal(answer={"data": None, "errors": denied})
        running = Running(variables=variables, base_url=base_url, webhooks=[])
        keys = _keys_of(operation, variables)
        for key in keys:
            self._key_store(shop).begin(key, running)
        return Call(
            shop=shop,
            document=parsed,
            operation=operation,
            variables=variables,
            running=running,
            field=_first_field(operation),
            keys=keys,
        )

    def execute(self, call: Call) -> tuple[Answer, list[Webhook]]:
        """Run an admitted request if the bucket can pay; what it changed is told by the webhooks."""
        pricer = Pricer(self._schema, call.document, call.operation, call.variables)
        requested = pricer.requested()
        bucket = self.bucket(call.shop)
        if requested > MAX_QUERY_COST:
            return _too_expensive(requested), []
        if requested > bucket.available:
            return self.throttled(call.shop, requested), []
        result = self._run(call)
        actual = pricer.actual(result.data or {})
        bucket.take(actual)
        return {**result.formatted, "extensions": {"cost": bucket.extension(requested, actual)}}, (
            call.running.webhooks
        )

    def throttled(self, shop: ShopState, requested: int) -> Answer:
        """The answer to a request that the bucket cannot pay; its HTTP status is 200."""
        return {
            "errors": [
                {
                    "message": "Throttled",
                    "extensions": {"code": "THROTTLED", "documentation": DOCUMENTATION},
                }
            ],
            "extensions": {"cost": self.bucket(shop).extension(requested, None)},
        }

    def release(self, call: Call) -> None:
        """The request was answered or given up: its keys are no longer in progress."""
        self._key_store(call.shop).end(call.running)

    def _run(self, call: Call) -> ExecutionResult:
        mutation = call.operation.operation is OperationType.MUTATION
        return execute_sync(
            self._schema,
            call.document,
            root_value=self._mutations(call) if mutation else self._queries(call.shop),
            variable_values=dict(call.variables),
            operation_name=call.operation.name.value if call.operation.name else None,
        )

    def _mutations(self, call: Call) -> View:
        shop, running, bulk = call.shop, call.running, self._bulk
        quantities = Mutations(self._world, shop, self._key_store(shop), running)
        return {
            **quantities.root(),
            **Activation(self._world, shop, quantities, running).root(),
            **Subscriptions(self._world, shop).mutations(),
            "bulkOperationRunQuery": lambda info, query, groupObjects: bulk.run(  # noqa: N803
                shop, query, groupObjects, running.base_url
            ),
            "bulkOperationCancel": lambda info, id: bulk.cancel(shop, id),  # noqa: A006
        }

    def _queries(self, shop: ShopState) -> View:
        def node(info: object, id: str) -> View | None:  # noqa: A002  # the argument's name in the schema
            return node_by(shop, id) or subscriptions.by_id(id) or self._bulk.by_id(shop, id)

        def nodes(info: object, ids: Sequence[str]) -> list[View | None]:
            if len(ids) > MAX_IDS:
                raise too_many(len(ids))
            return [node(info, each) for each in ids]

        subscriptions = Subscriptions(self._world, shop)
        return {
            **query_root(shop),
            **{name: records.connection for name, records in roots(self._world, shop).items()},
            **about_app(shop.behaviour.scopes, APP),
            **subscriptions.root(),
            **self._bulk.root(shop),
            "node": node,
            "nodes": nodes,
        }

    def _key_store(self, shop: ShopState) -> KeyStore:
        return self._keys.setdefault(shop.config.domain, KeyStore())


def roots(world: World, shop: ShopState) -> Mapping[str, Records[Any]]:
    """The connections at the top of a query, for pages and for bulk operations."""
    return connections(shop, shop.behaviour.scopes, world.clock())


@lru_cache(maxsize=MAX_DOCUMENTS)
def _parse(query: str) -> DocumentNode | list[Answer]:
    """The document, or its errors."""
    try:
        document = parse(query)
    except GraphQLSyntaxError as error:
        return [{"message": error.message, "locations": error.formatted.get("locations", [])}]
    errors = validate(load_schema(), document)
    return [_validation_error(error) for error in errors] or document


def _validation_error(error: GraphQLError) -> Answer:
    codes = [code for start, code in VALIDATION_CODES.items() if error.message.startswith(start)]
    return {**error.formatted, "extensions": {"code": codes[0] if codes else "INVALID_DOCUMENT"}}


def _variable_errors(
    schema: GraphQLSchema, operation: OperationDefinitionNode, variables: Mapping[str, Any]
) -> Iterator[Answer]:
    """Variables that do not fit their types, in Shopify's words (fixture set_legacy_field)."""
    for definition in operation.variable_definitions or ():
        kind = type_from_ast(schema, definition.type)
        name = definition.variable.name.value
        assert is_input_type(kind), "the document was validated"
        if name not in variables and definition.default_value is not None:
            continue
        problems = [
            {"path": path, "explanation": why} for path, why in _problems(kind, variables.get(name), [])
        ]
        if problems:
            first = problems[0]
            where = ".".join(str(each) for each in first["path"])
            yield {
                "message": f"Variable ${name} of type {kind} was provided invalid value"
                f"{f' for {where}' if where else ''} ({first['explanation']})",
                "locations": [_location(definition.loc)],
                "extensions": {
                    "code": "INVALID_VARIABLE", "value": variables.get(name), "problems": problems,
                },
            }  # fmt: skip


def _problems(kind: GraphQLInputType, value: Any, path: list[str | int]) -> Iterator[tuple[list[Any], str]]:
    if isinstance(kind, GraphQLNonNull):
        if value is None:
            yield path, "Expected value to not be null"
        else:
            yield from _problems(kind.of_type, value, path)
    elif value is None:
        return
    elif isinstance(kind, GraphQLList):
        for index, each in enumerate(value if isinstance(value, list) else [value]):
            yield from _problems(kind.of_type, each, [*path, index])
    elif isinstance(kind, GraphQLInputObjectType):
        yield from _object_problems(kind, value, path)
    else:
        yield from _leaf_problems(kind, value, path)


def _object_problems(
    kind: GraphQLInputObjectType, value: Any, path: list[str | int]
) -> Iterator[tuple[list[Any], str]]:
    if not isinstance(value, dict):
        yield path, f"Could not coerce value {value!r} to {kind.name}"
        return
    for name in value.keys() - kind.fields.keys():
        yield [*path, name], f"Field is not defined on {kind.name}"
    for name, field in kind.fields.items():
        yield from _problems(field.type, value.get(name), [*path, name])


def _leaf_problems(kind: Any, value: Any, path: list[str | int]) -> Iterator[tuple[list[Any], str]]:
    try:
        kind.parse_value(value)
    except GraphQLError:
        wanted = ", ".join(kind.values) if isinstance(kind, GraphQLEnumType) else kind.name
        yield path, f"Could not coerce value {value!r} to {wanted}"


def _keys_of(operation: OperationDefinitionNode, variables: Mapping[str, Any]) -> Sequence[str]:
    """The idempotency keys that the operation names."""
    if operation.operation is not OperationType.MUTATION:
        return []
    fields = [each for each in operation.selection_set.selections if isinstance(each, FieldNode)]
    directives = [d for field in fields for d in field.directives or () if d.name.value == "idempotent"]
    values = [argument.value for directive in directives for argument in directive.arguments or ()]
    literal = [value.value for value in values if isinstance(value, StringValueNode)]
    given = [variables.get(value.name.value) for value in values if isinstance(value, VariableNode)]
    return [*literal, *(key for key in given if isinstance(key, str))]


def _first_field(operation: OperationDefinitionNode) -> str:
    fields = [each for each in operation.selection_set.selections if isinstance(each, FieldNode)]
    return fields[0].name.value if fields else ""


def _too_expensive(requested: int) -> Answer:
    return {
        "errors": [
            {
                "message": f"Query cost is {requested}, which exceeds the single query max cost limit "
                f"({MAX_QUERY_COST}).",
                "extensions": {
                    "code": "MAX_COST_EXCEEDED",
                    "cost": requested,
                    "maxCost": MAX_QUERY_COST,
                    "documentation": DOCUMENTATION,
                },
            }
        ]
    }


def _location(location: Any) -> dict[str, int]:
    """Where a node begins, 1-based."""
    begin = location.start_token
    return {"line": begin.line, "column": begin.column}
