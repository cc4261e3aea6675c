"""Bulk operations: a query that Shopify runs by itself, and its rows, one at a time.

Facts: shopify.dev "Perform bulk operations with the GraphQL Admin API". At most five run at once for an app
and a shop; the result is a file of JSON lines under a URL that is good for a week. A row of a nested
connection names its parent in ``__parentId`` and need not be near it. The file is no snapshot: objects are
read one after another while the operation runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import aiohttp
import msgspec
import structlog
from gql import GraphQLRequest
from msgspec import Struct
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from app.errors import OutcomeUnknown, Rejected, Retry, Undecodable
from connectors.shopify import documents
from connectors.shopify.client import ShopClient, ShopUnavailable, Throttled, UserFault

POLL_S = (0.5, 1.0, 2.0, 4.0, 8.0, 10.0)
"""Pauses between two questions how far it is, the last one for ever: a small catalogue takes seconds."""
OPERATION_LIMIT_S = 6 * 3600.0
"""Shopify itself gives an operation ten days; a catalogue of a million levels takes well under an hour."""
SLOT_LIMIT_S = 3600.0
"""How long to wait while five other operations of this app are running."""
SLOT_PAUSE_S = 10.0
TRIES = 6
"""Of one call or one download, before the error is the caller's."""
MAX_ROW_BYTES = 1 << 20
"""A row is one object with its scalars; ours have a few hundred bytes."""
DOWNLOAD_LIMIT_S = 60.0
"""Without a byte; the whole download may take as long as it needs."""
BUSY = frozenset({"OPERATION_IN_PROGRESS", "LIMIT_REACHED"})
RUNNING = frozenset({"CREATED", "RUNNING", "CANCELING"})

Row = dict[str, Any]
Sleep = Callable[[float], Awaitable[None]]

log = structlog.get_logger(__name__)


class BulkBusy(Retry):
    """All bulk operations that the shop allows at once are somebody else's, for longer than we wait."""


class BulkFailed(Retry):
    """The operation ended without its whole result (failed, expired or canceled), or took too long."""


class BulkDenied(ShopUnavailable):
    """The operation ended with ACCESS_DENIED: a scope is missing for something that the query asks."""


class BulkRefused(Rejected):
    """The shop does not run this query; the message has its reasons."""


class Ended(Struct, frozen=True, kw_only=True, rename="camel"):
    """An operation as it was last seen."""

    id: str
    status: str
    error_code: str | None = None
    object_count: str | int | None = None
    url: str | None = None
    partial_data_url: str | None = None


async def run(client: ShopClient, query: str, *, sleep: Sleep = asyncio.sleep) -> AsyncIterator[Row]:
    """The rows of a query, as they are downloaded; memory holds one at a time.

    What a failed operation had found by then is given before the error is raised, so that nobody takes a
    part for the whole.

    Raises:
        BulkBusy, BulkFailed, BulkDenied, BulkRefused: see there.
        Retry: the shop, or the place of the file, did not answer often enough.
        Undecodable: the file is not JSON lines.
    """
    ended = await _ended(client, await _start(client, query, sleep), sleep)
    url = ended.url or ended.partial_data_url
    if url:  # a query that finds nothing has none
        async for row in _rows(url, sleep):
            yield row
    if ended.status != "COMPLETED":
        raise _failure(client.shop.domain, ended)


def gid_kind(gid: str) -> str:
    """The type in a GID, such as ``InventoryLevel``."""
    return gid.rsplit("/", 2)[-2]


def gid_number(gid: str) -> int:
    """The number in a GID."""
    return int(gid.rsplit("/", 1)[1].partition("?")[0])


async def _start(client: ShopClient, query: str, sleep: Sleep) -> str:
    waited_s = 0.0
    while True:
        data = await _call(client, documents.BULK_START, {"query": query}, sleep)
        answer = data["bulkOperationRunQuery"]
        faults = msgspec.convert(answer["userErrors"], list[UserFault])
        if not faults:
            return str(answer["bulkOperation"]["id"])
        message = "; ".join(f"{fault.code}: {fault.message}" for fault in faults)
        if not any(fault.code in BUSY for fault in faults):
            raise BulkRefused(f"{client.shop.domain}: bulk operation: {message}")
        if waited_s >= SLOT_LIMIT_S:
            raise BulkBusy(f"{client.shop.domain}: no bulk operation free for {waited_s:.0f} s: {message}")
        await sleep(SLOT_PAUSE_S)
        waited_s += SLOT_PAUSE_S


async def _ended(client: ShopClient, operation_id: str, sleep: Sleep) -> Ended:
    waited_s, polls = 0.0, 0
    while waited_s < OPERATION_LIMIT_S:
        pause_s = POLL_S[min(polls, len(POLL_S) - 1)]
        await sleep(pause_s)
        waited_s, polls = waited_s + pause_s, polls + 1
        data = await _call(client, documents.BULK_POLL, {"id": operation_id}, sleep)
        if data["bulkOperation"] is None:
            raise BulkFailed(f"{client.shop.domain}: bulk operation {operation_id} is not known any more")
        seen = msgspec.convert(data["bulkOperation"], Ended)
        if seen.status not in RUNNING:
            return seen
    with suppress(Retry, Rejected):  # it holds one of five places; the shop gives up after ten days
        await client.call(documents.BULK_CANCEL, {"id": operation_id})
    raise BulkFailed(f"{client.shop.domain}: bulk operation {operation_id} ran for over {waited_s:.0f} s")


async def _rows(url: str, sleep: Sleep) -> AsyncIterator[Row]:
    """The rows of the file; after a broken connection it is read again, past what was given."""
    given = 0
    failures = 0
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=DOWNLOAD_LIMIT_S, sock_read=DOWNLOAD_LIMIT_S)
    # Not the API's session: the file is elsewhere and must not be sent our token.
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            try:
                number = 0
                async for line in _lines(session, url):
                    number += 1
                    if number > given:
                        yield _row(line)
                        given = number
                return
            except (aiohttp.ClientError, TimeoutError) as error:
                failures += 1
                if failures == TRIES:
                    raise OutcomeUnknown(f"bulk result: {type(error).__name__} after {given} rows") from error
                # Not the error itself: its text has the signed URL, with which anybody may read the result.
                status = getattr(error, "status", None)
                log.warning(
                    "the download of a bulk result broke off",
                    rows=given,
                    error=type(error).__name__,
                    status=status,
                )
                await sleep(POLL_S[min(failures, len(POLL_S) - 1)])


async def _lines(session: aiohttp.ClientSession, url: str) -> AsyncIterator[bytes]:
    rest = b""
    async with session.get(url, raise_for_status=True) as response:
        async for chunk in response.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in filter(None, lines):
                yield line
            if len(rest) > MAX_ROW_BYTES:
                raise Undecodable(f"bulk result: a row of over {MAX_ROW_BYTES} bytes: {rest[:80]!r}")
    if rest:
        yield rest


def _row(line: bytes) -> Row:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Undecodable(f"bulk result: not a JSON object: {line[:80]!r}: {error}") from None


def _failure(domain: str, ended: Ended) -> Exception:
    message = (
        f"{domain}: bulk operation {ended.id} ended {ended.status}"
        f" ({ended.error_code or 'no error code'}) after {ended.object_count or 0} objects"
    )
    return BulkDenied(message) if ended.error_code == "ACCESS_DENIED" else BulkFailed(message)


async def _call(
    client: ShopClient, document: GraphQLRequest, variables: Mapping[str, Any], sleep: Sleep
) -> Mapping[str, Any]:
    """A call, made again while the shop is busy.

    Started twice because an answer was lost, an operation is only work for nothing.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception(_passes),
        wait=_pause_s,
        stop=stop_after_attempt(TRIES),
        sleep=sleep,
        reraise=True,
    )
    return await retrying(client.call, document, variables)


def _passes(error: BaseException) -> bool:
    return isinstance(error, Retry) and not isinstance(error, ShopUnavailable)


def _pause_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, Throttled):
        return error.wait_s
    return POLL_S[min(state.attempt_number, len(POLL_S) - 1)]
