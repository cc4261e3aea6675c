"""Bulk operations against a small server: starting, waiting, streaming, and every way of ending."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web

from app.errors import OutcomeUnknown, Undecodable
from app.local_kafka import free_port
from app.shops import Shop
from connectors.shopify import bulk
from connectors.shopify.bulk import BulkBusy, BulkDenied, BulkFailed, BulkRefused
from connectors.shopify.client import ShopClient

pytestmark = pytest.mark.asyncio
OPERATION = "gid://shopify/BulkOperation/1"
ROWS = [{"id": f"gid://shopify/InventoryItem/{number}", "sku": f"S-{number}"} for number in range(300)]


class Server:
    """Answers as a shop with one bulk operation would, from what the test has put here."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.busy = 0  # starts that are refused first
        self.refusal: dict[str, Any] | None = None
        self.polls = ["RUNNING", "RUNNING"]
        self.end: dict[str, Any] = {"status": "COMPLETED", "url": f"{self.url}/file"}
        self.file = b"".join(msgspec.json.encode(row) + b"\n" for row in ROWS)
        self.breaks = 0  # downloads that break off half way
        self.started = self.cancelled = self.downloads = 0
        self.tokens: list[str | None] = []
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def graphql(self, request: web.Request) -> web.Response:
        query = (await request.json())["query"]
        if "bulkOperationRunQuery" in query:
            return self._data("bulkOperationRunQuery", self._started())
        if "bulkOperationCancel" in query:
            self.cancelled += 1
            return self._data("bulkOperationCancel", {"bulkOperation": None, "userErrors": []})
        state = {"status": self.polls.pop(0)} if self.polls else self.end
        return self._data("bulkOperation", {"id": OPERATION, "objectCount": "300", **state})

    def _started(self) -> dict[str, Any]:
        busy = {"code": "OPERATION_IN_PROGRESS", "field": None, "message": "5 are running"}
        if self.busy:
            self.busy -= 1
            return {"bulkOperation": None, "userErrors": [busy]}
        if self.refusal:
            return {"bulkOperation": None, "userErrors": [self.refusal]}
        self.started += 1
        return {"bulkOperation": {"id": OPERATION, "status": "CREATED"}, "userErrors": []}

    async def download(self, request: web.Request) -> web.StreamResponse:
        self.downloads += 1
        self.tokens.append(request.headers.get("X-Shopify-Access-Token"))
        response = web.StreamResponse(headers={"Content-Length": str(len(self.file))})
        await response.prepare(request)
        broken = self.breaks > 0
        self.breaks -= 1
        await response.write(self.file[: len(self.file) // 2] if broken else self.file)
        if broken and request.transport is not None:
            request.transport.close()
        return response

    @staticmethod
    def _data(name: str, value: Any) -> web.Response:
        return web.json_response({"data": {name: value}})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    port = free_port()
    made = Server(port)
    app = web.Application()
    app.router.add_post("/admin/api/{version}/graphql.json", made.graphql)
    app.router.add_get("/file", made.download)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield made
    await runner.cleanup()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[ShopClient]:
    shop = Shop(
        domain="sim.myshopify.com",
        api_url=server.url,
        access_token="example-token",
        webhook_secrets=("example-secret",),
        default_location_id=1,
    )
    made = ShopClient(shop)
    yield made
    await made.close()


async def rows_of(client: ShopClient, server: Server) -> list[bulk.Row]:
    return [row async for row in bulk.run(client, "{ inventoryItems }", sleep=server.sleep)]


async def test_the_rows_come_after_the_operation_and_without_our_token(
    client: ShopClient, server: Server
) -> None:
    assert await rows_of(client, server) == ROWS
    assert server.slept == list(bulk.POLL_S[:3])
    assert server.tokens == [None]


async def test_nothing_found_is_no_rows(client: ShopClient, server: Server) -> None:
    server.end = {"status": "COMPLETED", "url": None}
    assert await rows_of(client, server) == []


async def test_while_others_run_it_waits_and_at_last_says_so(
    client: ShopClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "SLOT_LIMIT_S", 100.0)
    server.busy = 3
    assert await rows_of(client, server) == ROWS
    assert server.slept[:3] == [bulk.SLOT_PAUSE_S] * 3
    server.busy = 10_000
    with pytest.raises(BulkBusy, match="OPERATION_IN_PROGRESS: 5 are running"):
        await rows_of(client, server)


async def test_a_query_that_the_shop_refuses_is_named(client: ShopClient, server: Server) -> None:
    message = "Bulk queries must contain at least one connection."
    server.refusal = {"code": "INVALID", "field": ["query"], "message": message}
    with pytest.raises(BulkRefused, match=f"INVALID: {message}"):
        await rows_of(client, server)


@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        ({"status": "FAILED", "errorCode": "INTERNAL_SERVER_ERROR"}, BulkFailed, "FAILED .INTERNAL_SERVER"),
        ({"status": "FAILED", "errorCode": "TIMEOUT"}, BulkFailed, "FAILED .TIMEOUT"),
        ({"status": "FAILED", "errorCode": "ACCESS_DENIED"}, BulkDenied, "FAILED .ACCESS_DENIED"),
        ({"status": "EXPIRED"}, BulkFailed, "EXPIRED .no error code"),
        ({"status": "CANCELED"}, BulkFailed, "CANCELED .no error code"),
    ],
)
async def test_every_bad_end_is_named_after_what_was_found(
    client: ShopClient, server: Server, end: dict[str, Any], error: type[Exception], message: str
) -> None:
    for partial in (None, f"{server.url}/file"):
        server.end = {**end, "url": None, "partialDataUrl": partial}
        found: list[bulk.Row] = []

        async def collect(found: list[bulk.Row] = found) -> None:
            async for row in bulk.run(client, "{ inventoryItems }", sleep=server.sleep):
                found.append(row)

        with pytest.raises(error, match=message):
            await collect()
        assert found == (ROWS if partial else [])


async def test_an_operation_that_never_ends_is_cancelled(
    client: ShopClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "OPERATION_LIMIT_S", 100.0)
    server.polls = ["RUNNING"] * 10_000
    with pytest.raises(BulkFailed, match="ran for over"):
        await rows_of(client, server)
    assert (server.started, server.cancelled) == (1, 1)


async def test_a_broken_download_goes_on_where_it_was(client: ShopClient, server: Server) -> None:
    server.breaks = 2
    assert await rows_of(client, server) == ROWS
    assert server.downloads == 3
    server.breaks = bulk.TRIES
    with pytest.raises(OutcomeUnknown, match=r"after 1\d\d rows"):
        await rows_of(client, server)


async def test_a_file_that_is_not_json_lines_is_refused(
    client: ShopClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for broken in (b'{"id": 1', b"<html>\n", b"[1]\n"):
        server.file = broken
        with pytest.raises(Undecodable, match="not a JSON object"):
            await rows_of(client, server)
    monkeypatch.setattr(bulk, "MAX_ROW_BYTES", 1024)
    server.file = b'{"id": "' + b"x" * 300_000 + b'"}\n'
    with pytest.raises(Undecodable, match="a row of over 1024 bytes"):
        await rows_of(client, server)
