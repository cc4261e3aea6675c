"""One shop's Admin API: the calls we make, its budget, and what each way of failing means.

The meaning of errors follows shopify.dev: "Response codes", "API limits", "Implementing idempotency".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

import aiohttp
import msgspec
import structlog
from gql import GraphQLRequest
from gql.transport.aiohttp import AIOHTTPTransport
from gql.transport.exceptions import TransportError
from graphql import ExecutionResult, get_operation_ast, print_ast
from msgspec import Raw, Struct
from prometheus_client import Counter, Gauge

from app.errors import OutcomeUnknown, Rejected, Retry
from app.records import (
    Disposition,
    Fulfillment,
    FulfillmentLine,
    LevelRead,
    OrderLine,
    ReadOrder,
    Refund,
    RefundLine,
    ReturnRef,
    Routing,
)
from app.shops import Shop
from connectors.shopify import documents
from connectors.shopify.auth import TokenRefused, Tokens
from connectors.shopify.budget import Budget, Reservation

CALL_LIMIT_S = 30.0
"""A call of 250 entries takes Shopify seconds; an answer after this is treated as lost."""
PAGE = 100
ORDER_PAGE = 50
"""Lines of an order, a fulfilment or a refund in one call: see ``budget.READ_COSTS``."""
THROTTLED_TRIES = 10
"""Of a read: each waits at least a second, so a bucket of 1000 points fills meanwhile, whoever else calls."""
READ_LOOK_S = 0.1
"""A read that waits for points looks again so often: an answer gives back most of what its call reserved."""
LEVELS_A_READ = 80
"""Items of one read at one location: see ``budget.READ_COSTS``."""
ROUTED_A_READ = 3
"""Orders whose fulfilment orders are read in one call, with the next two: see ``budget.READ_COSTS``."""
FULFILLMENT_ORDERS_A_READ = 3
FULFILLMENT_LINES_A_READ = 8
"""Of each order and fulfilment order in that call; few have more, and those are read one by one."""
RETURNS_A_READ = 20
DISPOSED_A_READ = 25
"""Returns of an order, and lines of a reverse fulfilment order: they have parts that cost as well."""
ORDER_TRIES = 3
"""Of an order that changes between the pages of its lines: they take well under a second together."""
NO_SCOPE = 403
"""The status of what the app's access scopes do not allow."""
FULFILLABLE = frozenset({"OPEN", "IN_PROGRESS", "SCHEDULED", "ON_HOLD", "INCOMPLETE"})
"""Statuses of a fulfilment order whose units are still promised."""
UNKNOWN = frozenset({"INTERNAL_SERVER_ERROR", "TIMEOUT"})
UNAVAILABLE = {"UNAUTHENTICATED": 401, "SHOP_INACTIVE": 402, "ACCESS_DENIED": 403}
"""GraphQL codes, and the HTTP status that means the same."""
UNAVAILABLE_STATUS = frozenset({401, 402, 403, 404, 423})
GIVEN_UP_STATUS = frozenset({408, 499})
"""A proxy says so when it has waited long enough: whatever it waited for may have been carried out."""

WRITES = {
    "adjust": (documents.ADJUST, "inventoryAdjustQuantities"),
    "set": (documents.SET, "inventorySetQuantities"),
    "activate": (documents.ACTIVATE, "inventoryActivate"),
}
"""The documents that write, with the field of the answer."""
Write = Literal["adjust", "set", "activate"]

CALLS = Counter("skustream_shopify_calls_total", "Calls, by document and outcome", ["shop", "call", "result"])
BUCKET = Gauge("skustream_shopify_bucket_points", "The cost bucket, as of the last answer", ["shop"])
BUCKET_SIZE = Gauge("skustream_shopify_bucket_size_points", "The cost bucket's size", ["shop"])
VERSION_DIFFERS = Gauge(
    "skustream_shopify_api_version_differs", "1 while a shop answers with another version", ["shop"]
)

log = structlog.get_logger(__name__)
Sleep = Callable[[float], Awaitable[Any]]


class Throttled(Retry):
    """The bucket is empty; ``wait_s`` says for how long."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"throttled; again in {wait_s:.1f} s")
        self.wait_s = wait_s


class ShopUnavailable(Retry):
    """The shop does not let us in: token, scope, plan or domain. Nothing was executed.

    ``status`` is the HTTP status, or the one that a GraphQL error code stands for; 0 when there was no call.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class CallRefused(Rejected):
    """The whole call was refused, before anything was executed; ``codes`` are those of its errors."""

    def __init__(self, message: str, codes: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.codes = frozenset(codes)


class Misshapen(Rejected):
    """An answer is not what the schema promises; asking again would bring the same."""


class UserFault(Struct, frozen=True, kw_only=True):
    """A ``userErrors`` entry: nothing of the call was executed."""

    message: str
    code: str | None = None
    field: list[str] | None = None

    @property
    def index(self) -> int | None:
        """The index of the array entry that is to blame, when the path names one."""
        return next((int(part) for part in self.field or () if part.isdigit()), None)


class ShopClient:
    """Calls one shop."""

    def __init__(self, shop: Shop, *, limit_s: float = CALL_LIMIT_S, sleep: Sleep = asyncio.sleep) -> None:
        self.shop = shop
        self.budget = Budget()
        self.answer_headers: Mapping[str, str] = {}  # of the last answer with status 200
        self._tokens = Tokens(shop)
        self._limit_s = limit_s
        self._sleep = sleep
        self._opening = asyncio.Lock()
        self._reads = asyncio.Lock()
        self._transport: AIOHTTPTransport | None = None
        self._told_version = ""
        self._told_returns = False

    async def close(self) -> None:
        """Close the connections."""
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    async def write(
        self, kind: Write, variables: bytes, size: int = 1, reserved: Reservation | None = None
    ) -> list[UserFault]:
        """Send the stored variables of a write of ``size`` entries, byte for byte; an empty list is success.

        Raises:
            OutcomeUnknown: it may have been executed; send the same bytes again.
            Throttled, ShopUnavailable, CallRefused: it was not executed, or the key will tell.
        """
        document, field = WRITES[kind]
        data = await self.call(document, Raw(variables), size=size, reserved=reserved)
        answer = data[field]
        if answer is None:
            raise OutcomeUnknown(f"{self.shop.domain}: no payload and no error")
        try:
            return msgspec.convert(answer["userErrors"], list[UserFault])
        except (KeyError, msgspec.ValidationError) as error:
            raise OutcomeUnknown(f"{self.shop.domain}: {field} was answered with {error!r}") from error

    async def levels(
        self, location_id: int, items: Iterable[int], reserved: Reservation | None = None
    ) -> dict[int, LevelRead | None]:
        """What items have at a location; None: no such item. ``reserved`` pays for the first call.

        Raises:
            Misshapen: an answer is not about levels.
            OutcomeUnknown, Throttled, ShopUnavailable, CallRefused: see ``read``.
        """
        wanted = list(items)
        found: dict[int, LevelRead | None] = {}
        for start in range(0, len(wanted), LEVELS_A_READ):
            part = wanted[start : start + LEVELS_A_READ]
            variables = {
                "items": [f"gid://shopify/InventoryItem/{item}" for item in part],
                "location": f"gid://shopify/Location/{location_id}",
            }
            if reserved is None:
                data = await self.read(documents.LEVELS, variables, size=len(part))
            else:
                data = await self.call(documents.LEVELS, variables, size=len(part), reserved=reserved)
            reserved = None
            with _expected_shape(f"levels of {self.shop.domain} at location {location_id}"):
                found.update(zip(part, map(_level, data["nodes"]), strict=True))
        return found

    async def order(self, order_id: int) -> ReadOrder | None:
        """An order as it is now, in the shape of its webhook; None when the shop has no such order.

        Raises:
            Retry: it changed between the pages of its lines, several times; or as ``read``.
            Misshapen: the answer is not an order.
            CallRefused: see ``read``.
        """
        gid = f"gid://shopify/Order/{order_id}"
        with _expected_shape(f"order {self.shop.domain}/{order_id}"):
            told, lines = await self._order_at_rest(gid)
            if told is None:
                return None
            fulfillments = [
                _fulfillment(one, await self._lines(documents.FULFILLMENT_LINES, one["id"]))
                for one in told["fulfillments"]
            ]
            refunds = [
                _refund(order_id, one, await self._lines(documents.REFUND_LINES, one["id"]))
                for one in told["refunds"]
            ]
            dispositions = await self._dispositions(gid)
            return _order(order_id, told, [_line(one) for one in lines], fulfillments, refunds, dispositions)

    async def _order_at_rest(self, gid: str) -> tuple[Mapping[str, Any] | None, list[Any]]:
        """An order and all its lines, of one ``updatedAt``: lines of an older page are not as of the last."""
        seen: list[str] = []
        for _ in range(ORDER_TRIES):
            pages = [page async for page in self._order_pages(gid)]
            if pages[-1] is None:
                return None, []
            seen = [page["updatedAt"] for page in pages]
            if seen[0] == seen[-1]:
                return pages[-1], [line for page in pages for line in page["lineItems"]["nodes"]]
        raise Retry(f"{self.shop.domain}: {gid} changes while it is read: {seen[0]}, then {seen[-1]}")

    async def _order_pages(self, gid: str) -> AsyncIterator[Any]:
        """The order with each page of its lines; None, and no more, when there is no such order."""
        after = None
        while True:
            wanted = {"id": gid, "first": ORDER_PAGE, "after": after}
            order = (await self.read(documents.ORDER, wanted))["order"]
            yield order
            if order is None or not order["lineItems"]["pageInfo"]["hasNextPage"]:
                return
            after = order["lineItems"]["pageInfo"]["endCursor"]

    async def routing(self, order_ids: Iterable[int]) -> dict[int, Routing | None]:
        """Where orders are to leave from, several orders a call; None: the shop has no such order.

        Raises:
            Misshapen: an answer is not about fulfilment orders.
            OutcomeUnknown, Throttled, ShopUnavailable, CallRefused: see ``read``.
        """
        wanted = list(order_ids)
        found: dict[int, Routing | None] = {}
        for start in range(0, len(wanted), ROUTED_A_READ):
            part = wanted[start : start + ROUTED_A_READ]
            variables = {
                "ids": [f"gid://shopify/Order/{order_id}" for order_id in part],
                "orders": FULFILLMENT_ORDERS_A_READ,
                "lines": FULFILLMENT_LINES_A_READ,
            }
            data = await self.read(documents.ROUTING, variables, size=len(part))
            for order_id, node in zip(part, data["nodes"], strict=True):
                with _expected_shape(f"fulfilment orders of {self.shop.domain}/{order_id}"):
                    found[order_id] = _routing(order_id, await self._whole(order_id, node)) if node else None
        return found

    async def order_of(self, gid: str) -> int | None:
        """The order that a fulfilment order, a return or a reverse fulfilment order belongs to.

        Raises:
            Misshapen: the answer is not about an order.
            OutcomeUnknown, Throttled, ShopUnavailable, CallRefused: see ``read``.
        """
        node = (await self.read(documents.ORDER_OF, {"id": gid}))["node"]
        with _expected_shape(f"order of {gid} of {self.shop.domain}"):
            return _legacy_id(next(iter(node.values()), None)) if node else None

    async def _whole(self, order_id: int, node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """All fulfilment orders of an order with all their lines."""
        page = node["fulfillmentOrders"]
        known = {one["id"]: one["lineItems"] for one in page["nodes"]}
        orders = page["nodes"]
        if page["pageInfo"]["hasNextPage"]:
            gid = f"gid://shopify/Order/{order_id}"
            orders = await self._lines(documents.FULFILLMENT_ORDERS, gid)
        whole: list[Mapping[str, Any]] = []
        for one in orders:
            lines = known.get(one["id"])
            if lines is None or lines["pageInfo"]["hasNextPage"]:
                nodes = await self._lines(documents.FULFILLMENT_ORDER_LINES, one["id"])
            else:
                nodes = lines["nodes"]
            whole.append({**one, "lines": nodes})
        return whole

    async def _dispositions(self, gid: str) -> list[Disposition]:
        """What became of an order's returned units; nothing where the app may not read returns."""
        try:
            returns = await self._lines(documents.RETURNS, gid, RETURNS_A_READ)
        except ShopUnavailable as error:
            if error.status != NO_SCOPE:
                raise
            if not self._told_returns:
                self._told_returns = True
                log.warning("returns cannot be read; only refunds tell of them", shop=self.shop.domain)
            return []
        found = []
        for one in returns:
            for reverse in one["reverseFulfillmentOrders"]["nodes"]:
                lines = await self._lines(documents.DISPOSITIONS, reverse["id"], DISPOSED_A_READ)
                found += [each for line in lines for each in _disposed(_number(one["id"]), line)]
        return found

    async def _lines(self, document: GraphQLRequest, gid: str, page_size: int | None = None) -> list[Any]:
        lines: list[Any] = []
        after = None
        while True:
            data = await self.read(document, {"id": gid, "first": page_size or ORDER_PAGE, "after": after})
            if data["node"] is None:
                return lines
            page = data["node"]["lines"]
            lines += page["nodes"]
            if not page["pageInfo"]["hasNextPage"]:
                return lines
            after = page["pageInfo"]["endCursor"]

    async def clock(self, reserved: Reservation | None = None) -> None:
        """The cheapest call there is, to see whether the shop lets us in; raises as ``call``."""
        await self.call(documents.CLOCK, {}, reserved=reserved)

    async def call(
        self,
        document: GraphQLRequest,
        variables: Any,
        *,
        size: int = 1,
        reserved: Reservation | None = None,
    ) -> Mapping[str, Any]:
        """The ``data`` of a document's answer. A token that the shop refuses is renewed once.

        ``size`` is the number of entries, from which later calls of the document are priced; ``reserved`` is
        what the caller has taken from the budget for this call.

        Raises:
            OutcomeUnknown: it may have been executed; send the same again.
            Throttled, ShopUnavailable, CallRefused: it was not executed, or the key will tell.
        """
        name = _name_of(document)
        call = reserved or self.budget.begin(name, size)
        result = "given_up"  # unless it ends by itself
        try:
            data = await self._with_token(document, variables, call)
            result = "answered"
            return data
        except (Retry, Rejected) as error:
            result = type(error).__name__
            raise
        finally:
            self.budget.end(call)
            CALLS.labels(self.shop.domain, name, result).inc()

    async def _with_token(
        self, document: GraphQLRequest, variables: Any, call: Reservation
    ) -> Mapping[str, Any]:
        try:
            token = await self._tokens.current()
            try:
                return await self._send(document, variables, token, call)
            except ShopUnavailable as error:
                other = await self._tokens.after_refusal(token) if error.status == 401 else None
                if other is None:
                    raise
            return await self._send(document, variables, other, call)
        except TokenRefused as error:
            raise ShopUnavailable(str(error), error.status) from None

    async def read(self, document: GraphQLRequest, variables: Any, *, size: int = 1) -> Mapping[str, Any]:
        """As ``call``, for a query that may wait: it leaves to others what the budget keeps for them, and is
        asked again while the shop throttles us.

        Raises:
            Throttled: when others use up the budget all the time.
            OutcomeUnknown, ShopUnavailable, CallRefused: as ``call``.
        """
        for _ in range(THROTTLED_TRIES - 1):
            try:
                return await self._read_once(document, variables, size)
            except Throttled as error:
                await self._sleep(error.wait_s)
        return await self._read_once(document, variables, size)

    async def _read_once(self, document: GraphQLRequest, variables: Any, size: int) -> Mapping[str, Any]:
        name = _name_of(document)
        async with self._reads:  # in turn: small reads would keep a large one out for ever
            while wait_s := self.budget.wait_s(self.budget.expected(name, size)):
                await self._sleep(min(wait_s, READ_LOOK_S))
            reserved = self.budget.begin(name, size)
        try:
            return await self.call(document, variables, reserved=reserved)
        finally:
            self.budget.end(reserved)

    async def nodes(
        self, document: GraphQLRequest, field: str, page: int = PAGE
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Every node of the root connection ``field``, read by a document with ``$first`` and ``$after``.

        Raises:
            Retry, Rejected: as ``read``.
        """
        after = None
        while True:
            connection = (await self.read(document, {"first": page, "after": after}))[field]
            for node in connection["nodes"]:
                yield node
            if not connection["pageInfo"]["hasNextPage"]:
                return
            after = connection["pageInfo"]["endCursor"]

    async def _send(
        self, document: GraphQLRequest, variables: Any, token: str, call: Reservation
    ) -> Mapping[str, Any]:
        transport = await self._open()
        request = _Request(document, variable_values=variables)
        try:
            async with asyncio.timeout(self._limit_s):
                result = await transport.execute(
                    request, extra_args={"headers": {"X-Shopify-Access-Token": token}}
                )
        except TimeoutError:
            raise OutcomeUnknown(f"{self.shop.domain}: no answer within {self._limit_s:g} s") from None
        except TransportError as error:
            raise _transport_fault(self.shop.domain, error) from error
        self._check_version(transport)
        cost = (result.extensions or {}).get("cost")
        if cost:
            self.budget.learn(cost, call)
            BUCKET.labels(self.shop.domain).set(cost["throttleStatus"]["currentlyAvailable"])
            BUCKET_SIZE.labels(self.shop.domain).set(cost["throttleStatus"]["maximumAvailable"])
        if result.errors:
            raise _graphql_fault(self.shop.domain, result, cost)
        if result.data is None:
            raise OutcomeUnknown(f"{self.shop.domain}: neither data nor errors")
        return result.data

    async def _open(self) -> AIOHTTPTransport:
        async with self._opening:
            if self._transport is None:
                url = f"{self.shop.api_url}/admin/api/{documents.API_VERSION}/graphql.json"
                transport = AIOHTTPTransport(
                    url,
                    json_serialize=_serialize,
                    client_session_args={"raise_for_status": _raise_for_status},
                )
                await transport.connect()
                self._transport = transport
            return self._transport

    def _check_version(self, transport: AIOHTTPTransport) -> None:
        self.answer_headers = transport.response_headers or {}
        served = self.answer_headers.get("X-Shopify-API-Version", "")
        VERSION_DIFFERS.labels(self.shop.domain).set(served not in ("", documents.API_VERSION))
        if served not in ("", documents.API_VERSION, self._told_version):
            self._told_version = served
            log.error(
                "the shop answers with another API version than asked for",
                shop=self.shop.domain,
                asked=documents.API_VERSION,
                served=served,
            )


class ShopClients:
    """The clients of all configured shops, made when they are first needed."""

    def __init__(self, shops: Mapping[str, Shop]) -> None:
        self.shops = shops
        self._clients: dict[str, ShopClient] = {}

    def of(self, domain: str) -> ShopClient:
        """The client of a shop.

        Raises:
            ShopUnavailable: when the shops file does not have it (any more).
        """
        if domain not in self.shops:
            raise ShopUnavailable(f"the shops file (SKUSTREAM_SHOPS_FILE) has no shop {domain}")
        return self._clients.setdefault(domain, ShopClient(self.shops[domain]))

    async def close(self) -> None:
        """Close all of them."""
        for client in self._clients.values():
            await client.close()


class _Status(Exception):  # carries an HTTP status through gql
    def __init__(self, status: int, retry_after: str, text: str) -> None:
        super().__init__(f"HTTP {status}: {text[:200]}")
        self.status = status
        self.retry_after = retry_after


async def _raise_for_status(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        raise _Status(response.status, response.headers.get("Retry-After", ""), await response.text())


@contextmanager
def _expected_shape(what: str) -> Iterator[None]:
    try:
        yield
    except (msgspec.ValidationError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise Misshapen(f"{what}: unexpected shape: {type(error).__name__}: {error}") from error


def _serialize(payload: Any) -> str:
    return msgspec.json.encode(payload).decode()


def _transport_fault(domain: str, error: TransportError) -> Exception:
    cause = error.__cause__
    if not isinstance(cause, _Status):
        return OutcomeUnknown(f"{domain}: {type(cause or error).__name__}: {cause or error}")
    if cause.status == 429:
        return Throttled(_seconds(cause.retry_after))
    if cause.status in UNAVAILABLE_STATUS:
        return ShopUnavailable(f"{domain}: {cause}", cause.status)
    if cause.status >= 500 or cause.status in GIVEN_UP_STATUS:
        return OutcomeUnknown(f"{domain}: {cause}")
    return CallRefused(f"{domain}: {cause}")


def _seconds(retry_after: str) -> float:
    try:
        return max(0.1, float(retry_after))
    except ValueError:
        return 1.0


def _graphql_fault(domain: str, result: ExecutionResult, cost: Mapping[str, Any] | None) -> Exception:
    errors: Any = result.errors
    if not isinstance(errors, list):
        return OutcomeUnknown(f"{domain}: {errors}")
    codes = {str((error.get("extensions") or {}).get("code", "")) for error in errors}
    message = "; ".join(str(error.get("message")) for error in errors)
    if "THROTTLED" in codes:
        return Throttled(_bucket_wait_s(cost))
    if codes & UNKNOWN:
        return OutcomeUnknown(f"{domain}: {message}")
    for code, status in UNAVAILABLE.items():
        if code in codes:
            return ShopUnavailable(f"{domain}: {code}: {message}", status)
    if "" in codes or any(part is not None for part in (result.data or {}).values()):
        # An error without a code, or beside a payload, does not say that nothing was carried out.
        return OutcomeUnknown(f"{domain}: {message}")
    return CallRefused(f"{domain}: {', '.join(sorted(codes))}: {message}", codes)


def _bucket_wait_s(cost: Mapping[str, Any] | None) -> float:
    """Until the bucket has what the call asks for; at least the second that Shopify recommends."""
    if not cost:
        return 1.0
    status = cost["throttleStatus"]
    missing = float(cost["requestedQueryCost"]) - float(status["currentlyAvailable"])
    return max(1.0, missing / float(status["restoreRate"]))


PRINTED_DOCUMENTS = 64


class _Request(GraphQLRequest):
    """A call of a document, whose text is printed once for all of them: it takes as long as the rest."""

    def __init__(self, document: GraphQLRequest, variable_values: Any) -> None:
        super().__init__(document, variable_values=variable_values)
        self._text = _printed(document)

    @property
    def payload(self) -> dict[str, Any]:
        """The body of the call."""
        body = {"query": self._text}
        return {**body, "variables": self.variable_values} if self.variable_values else body


@lru_cache(maxsize=PRINTED_DOCUMENTS)
def _printed(document: GraphQLRequest) -> str:
    return print_ast(document.document)


def _name_of(document: GraphQLRequest) -> str:
    """The name of a document's operation: ``Adjust``."""
    operation = get_operation_ast(document.document)
    return operation.name.value if operation is not None and operation.name is not None else "unnamed"


def level_read(told: Mapping[str, Any], *, tracked: bool) -> LevelRead:
    """A level as the shop tells it. Not every quantity has a time of its own (``InventoryQuantity``)."""
    quantities = {one["name"]: one for one in told["quantities"]}
    changed_at = quantities["available"]["updatedAt"] or told["updatedAt"]
    return LevelRead(
        available=quantities["available"]["quantity"],
        committed=quantities["committed"]["quantity"],
        active=told["isActive"],
        tracked=tracked,
        updated_at=told["updatedAt"],
        changed_ms=int(datetime.fromisoformat(changed_at).timestamp() * 1000),
    )


def _level(node: Mapping[str, Any] | None) -> LevelRead | None:
    if not node:
        return None
    level = node["inventoryLevel"]
    return level_read(level, tracked=node["tracked"]) if level else LevelRead(active=False)


def _number(gid: str) -> int:
    return int(gid.rsplit("/", 1)[1].partition("?")[0])


def _legacy_id(node: Mapping[str, Any] | None) -> int | None:
    return int(node["legacyResourceId"]) if node else None


def _line(node: Mapping[str, Any]) -> OrderLine:
    variant = node["variant"]
    return OrderLine(
        id=_number(node["id"]),
        quantity=node["quantity"],
        current_quantity=node["currentQuantity"],
        fulfillable_quantity=node["unfulfilledQuantity"],
        variant_id=_legacy_id(variant),
        sku=node["sku"] or None,
        variant_inventory_management="shopify" if variant and variant["inventoryItem"]["tracked"] else None,
    )


def _fulfillment(node: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> Fulfillment:
    fields = {
        "id": int(node["legacyResourceId"]),
        "status": node["status"].lower(),
        "created_at": node["createdAt"],
        "updated_at": node["updatedAt"],
        "location_id": _legacy_id(node["location"]),
        "line_items": [
            FulfillmentLine(id=_number(line["lineItem"]["id"]), quantity=line["quantity"] or 0)
            for line in lines
        ],
    }
    return msgspec.convert(fields, Fulfillment)


def _refund(order_id: int, node: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> Refund:
    """A refund; where the schema allows none, its instant is the last change, and a line has no id."""
    fields = {
        "id": int(node["legacyResourceId"]),
        "order_id": order_id,
        "created_at": node["createdAt"] or node["updatedAt"],
        "return": ReturnRef(id=_number(node["return"]["id"])) if node["return"] else None,
        "refund_line_items": [
            RefundLine(
                id=_number(line["id"]) if line["id"] else None,
                line_item_id=_number(line["lineItem"]["id"]),
                quantity=line["quantity"],
                restock_type=line["restockType"].lower(),
                location_id=_legacy_id(line["location"]),
            )
            for line in lines
        ],
    }
    return msgspec.convert(fields, Refund)


def _order(
    order_id: int,
    told: Mapping[str, Any],
    lines: list[OrderLine],
    fulfillments: list[Fulfillment],
    refunds: list[Refund],
    dispositions: list[Disposition],
) -> ReadOrder:
    fields = {
        "id": order_id,
        "created_at": told["createdAt"],
        "updated_at": told["updatedAt"],
        "cancelled_at": told["cancelledAt"],
        "test": told["test"],
        "source_name": told["sourceName"],
        "location_id": _legacy_id(told["retailLocation"]),
        "line_items": lines,
        "fulfillments": fulfillments,
        "refunds": refunds,
        "dispositions": dispositions,
    }
    return msgspec.convert(fields, ReadOrder)


def _disposed(return_id: int, line: Mapping[str, Any]) -> list[Disposition]:
    """The dispositions of a reverse fulfilment order's line; none when its order line is not known."""
    if line["fulfillmentLineItem"] is None:
        return []
    fields = [
        {
            "id": _number(one["id"]),
            "return_id": return_id,
            "line_item_id": _number(line["fulfillmentLineItem"]["lineItem"]["id"]),
            "restocked": one["type"] == "RESTOCKED",
            "quantity": one["quantity"],
            "location_id": _legacy_id(one["location"]),
            "created_at": one["createdAt"],
        }
        for one in line["dispositions"]
    ]
    return msgspec.convert(fields, list[Disposition])


def _routing(order_id: int, fulfillment_orders: Iterable[Mapping[str, Any]]) -> Routing:
    """Units by line and location; a location that was deleted since cannot hold any."""
    found: dict[str, dict[str, dict[int, int]]] = {"open": {}, "cancelled": {}}
    for one in fulfillment_orders:
        place = _legacy_id(one["assignedLocation"]["location"])
        kind = {**dict.fromkeys(FULFILLABLE, "open"), "CANCELLED": "cancelled"}.get(one["status"])
        if place is None or kind is None:
            continue
        for line in one["lines"]:
            units = line["remainingQuantity" if kind == "open" else "totalQuantity"]
            places = found[kind].setdefault(str(_number(line["lineItem"]["id"])), {})
            if units:
                places[place] = places.get(place, 0) + units
    return Routing(order_id=order_id, open=found["open"], cancelled=found["cancelled"])
