"""Bulk operations: a query without pages that runs by itself and leaves a file of JSON lines (facts 3.1).

Objects are read while the operation runs, a chunk at a time, so its file is not of one instant. With
``groupObjects`` false the children of a chunk follow its parents in no order: readers go by ``__parentId``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from graphql import GraphQLSchema
from msgspec import Struct

from connectors.shopify.simulator.bodies import shop_time
from connectors.shopify.simulator.bulk_query import BulkQuery, NotBulk, Row
from connectors.shopify.simulator.delivery import Sleep
from connectors.shopify.simulator.faults import Faults
from connectors.shopify.simulator.model import LogKind, Webhook, gid
from connectors.shopify.simulator.paging import Records
from connectors.shopify.simulator.rules import UserError, user_error
from connectors.shopify.simulator.search import Fields, instant
from connectors.shopify.simulator.views import View, number_of, utc_time
from connectors.shopify.simulator.world import ShopState, World

CHUNK = 250
"""Root objects that are read at one instant; then the loop is free for others."""

KEPT_S = 7 * 24 * 3600
"""How long a file can be fetched."""

KEPT = 20
"""Operations of a shop whose files are kept in memory, newest first; older ones expire early."""

UNDER_WAY = frozenset({"CREATED", "RUNNING", "CANCELING"})

Submit = Callable[[list[Webhook]], None]
Roots = Callable[[ShopState], Mapping[str, Records[Any]]]


class Operation(Struct, kw_only=True, eq=False):
    """One bulk operation; changed only by the task that runs it and by its cancelling."""

    id: int
    shop: ShopState
    query: str
    grouped: bool
    base_url: str  # of the file
    created_at: float
    status: str = "CREATED"
    error: str | None = None
    completed_at: float | None = None
    objects: int = 0
    roots: int = 0
    lines: list[bytes] = []

    @property
    def gid(self) -> str:
        """Its global id."""
        return gid("BulkOperation", self.id)


class BulkOperations:
    """The bulk operations of all shops."""

    def __init__(
        self,
        world: World,
        schema: GraphQLSchema,
        roots: Roots,
        *,
        faults: Faults,
        submit: Submit,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._world = world
        self._schema = schema
        self._roots = roots
        self._faults = faults
        self._submit = submit
        self._sleep = sleep
        self._operations: dict[str, dict[int, Operation]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop what runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def run(self, shop: ShopState, query: str, grouped: bool, base_url: str) -> View:
        """``bulkOperationRunQuery``: start, or say what is wrong with the query."""
        try:
            parsed = BulkQuery(self._schema, query, self._roots(shop).keys())
        except NotBulk as error:
            return _not_run(user_error(("query",), str(error), "INVALID"))
        busy = [each.gid for each in self._of(shop).values() if each.status in UNDER_WAY]
        if len(busy) >= shop.behaviour.bulk_at_once:
            told = f"A bulk query operation for this app and shop is already in progress: {', '.join(busy)}."
            return _not_run(user_error(None, told, "OPERATION_IN_PROGRESS"))
        operation = Operation(
            id=self._world.new_id(),
            shop=shop,
            query=query,
            grouped=grouped,
            base_url=base_url,
            created_at=self._world.clock(),
            lines=[],
        )
        self._keep(operation)
        task = asyncio.get_running_loop().create_task(self._work(operation, parsed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return {"bulkOperation": self.view(operation), "userErrors": []}

    def cancel(self, shop: ShopState, value: str) -> View:
        """``bulkOperationCancel``; what was read until then can be fetched."""
        operation = self._of(shop).get(number_of("BulkOperation", value) or 0)
        if operation is None:
            error = {"field": ["id"], "message": "Bulk operation does not exist"}
            return {"bulkOperation": None, "userErrors": [error]}
        if operation.status not in UNDER_WAY:
            told = f"A bulk operation cannot be canceled when it is {operation.status.lower()}"
            return {
                "bulkOperation": self.view(operation),
                "userErrors": [{"field": None, "message": told}],
            }
        operation.status = "CANCELING"
        return {"bulkOperation": self.view(operation), "userErrors": []}

    def root(self, shop: ShopState) -> View:
        """The fields of QueryRoot."""
        mine = self._of(shop)

        def newest(info: object, type: str = "QUERY") -> View | None:  # noqa: A002  # the argument's name
            found = [each for each in mine.values() if type == "QUERY"]
            return self.view(found[-1]) if found else None

        return {
            "bulkOperation": lambda info, id: self.by_id(shop, id),  # noqa: A006
            "bulkOperations": self._records(shop).connection,
            "currentBulkOperation": newest,
        }

    def by_id(self, shop: ShopState, value: str) -> View | None:
        """The operation with this GID."""
        found = self._of(shop).get(number_of("BulkOperation", value) or 0)
        return None if found is None else self.view(found)

    def file(self, shop: ShopState, operation_id: int) -> list[bytes] | None:
        """The lines of an operation that has ended; None when there is nothing to fetch."""
        found = self._of(shop).get(operation_id)
        return None if found is None or found.status in UNDER_WAY or self._expired(found) else found.lines

    def view(self, operation: Operation) -> View:
        """An operation as it is now. A result without a line has no URL (facts 3.1 [U])."""
        status = "EXPIRED" if self._expired(operation) else operation.status
        url = f"{operation.base_url}/_bulk/{operation.id}.jsonl" if operation.lines else None
        done = operation.completed_at
        return {
            "__typename": "BulkOperation",
            "id": operation.gid,
            "status": status,
            "errorCode": operation.error,
            "type": "QUERY",
            "query": operation.query,
            "createdAt": utc_time(operation.created_at),
            "completedAt": None if done is None else utc_time(done),
            "objectCount": str(operation.objects),
            "rootObjectCount": str(operation.roots),
            "fileSize": str(sum(map(len, operation.lines))) if status == "COMPLETED" else None,
            "url": url if status == "COMPLETED" else None,
            "partialDataUrl": url if status in ("FAILED", "CANCELED") else None,
        }

    def _of(self, shop: ShopState) -> dict[int, Operation]:
        return self._operations.setdefault(shop.config.domain, {})

    def _records(self, shop: ShopState) -> Records[Operation]:
        def fields(operation: Operation) -> Fields:
            return {
                "status": operation.status.lower(),
                "operation_type": "query",
                "created_at": instant(operation.created_at),
            }

        return Records(
            all=self._of(shop).values,
            get=self._of(shop).get,
            id=lambda operation: operation.id,
            fields=fields,
            show=self.view,
            sorts={
                "CREATED_AT": lambda operation: int(operation.created_at),
                "COMPLETED_AT": lambda operation: int(operation.completed_at or 0),
            },
        )

    def _keep(self, operation: Operation) -> None:
        mine = self._of(operation.shop)
        mine[operation.id] = operation
        for old in [each for each in mine.values() if each.status not in UNDER_WAY][:-KEPT]:
            del mine[old.id]

    def _expired(self, operation: Operation) -> bool:
        done = operation.completed_at
        return done is not None and self._world.clock() - done >= KEPT_S

    async def _work(self, operation: Operation, query: BulkQuery) -> None:
        operation.status = "RUNNING"
        shop = operation.shop
        fails_at = self._faults.bulk_fails_at(shop.config.domain)
        if query.refused(shop.behaviour.scopes):
            return self._end(operation, "FAILED", "ACCESS_DENIED")
        ids = [record_id for (_, record_id), _ in self._records_of(operation, query).select(query.arguments)]
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            await self._sleep(len(chunk) / shop.behaviour.bulk_objects_s)
            if operation.status == "CANCELING":
                break
            if fails_at is not None and start + len(chunk) > fails_at * len(ids):
                return self._end(operation, "FAILED", "INTERNAL_SERVER_ERROR")
            self._read(operation, query, chunk)
        return self._end(operation, "CANCELED" if operation.status == "CANCELING" else "COMPLETED")

    def _records_of(self, operation: Operation, query: BulkQuery) -> Records[Any]:
        return self._roots(operation.shop)[query.root]

    def _read(self, operation: Operation, query: BulkQuery, ids: list[int]) -> None:
        """Add the rows of some root objects, as they are now; what has gone meanwhile is left out."""
        records = self._records_of(operation, query)
        found = [record for record in map(records.get, ids) if record is not None]
        rows: list[Row] = [row for record in found for row in query.rows(records.show(record))]
        if not operation.grouped:
            children = [row for row in rows if "__parentId" in row]
            self._world.random.shuffle(children)
            rows = [row for row in rows if "__parentId" not in row] + children
        operation.roots += len(found)
        operation.objects += len(rows)
        operation.lines += [msgspec.json.encode(row) + b"\n" for row in rows]

    def _end(self, operation: Operation, status: str, error: str | None = None) -> None:
        world, shop = self._world, operation.shop
        operation.status, operation.error, operation.completed_at = status, error, world.clock()
        world.record(LogKind.BULK_ENDED, shop, detail=status.lower(), quantity=operation.objects)
        body = {
            "admin_graphql_api_id": operation.gid,
            "completed_at": shop_time(shop.config, operation.completed_at),
            "created_at": shop_time(shop.config, operation.created_at),
            "error_code": None if error is None else error.lower(),
            "status": status.lower(),
            "type": "query",
        }
        hook = world.webhook(shop, "bulk_operations/finish", world.new_uuid(), msgspec.json.encode(body))
        self._submit([hook])


def _not_run(error: UserError) -> View:
    return {"bulkOperation": None, "userErrors": [error]}
