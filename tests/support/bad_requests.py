"""The table of bad requests to the receiver; ``docs/bad-input.md`` shows it, ``test_receiver.py`` tries it."""

from __future__ import annotations

import json
from typing import NamedTuple

SHOP = "receiver.myshopify.com"
AT = "2026-11-02T09:15:03+01:00"
MIB = 1 << 20


def order(order_id: int, **changed: object) -> bytes:
    """The body of an order webhook."""
    fields = {"id": order_id, "created_at": AT, "updated_at": AT, "email": "shopper@example.com"}
    return json.dumps({**fields, **changed}).encode()


class Request(NamedTuple):
    """A webhook with something wrong, and the answer: a status, words of it, and what is stored."""

    what: str
    status: int
    says: str
    body: bytes = order(90)
    topic: str = "orders/create"
    headers: dict[str, str | None] = {}  # noqa: RUF012  # never changed; None leaves the header out
    stored: str = ""  # the topic that has it afterwards

    @property
    def line(self) -> str:
        """The row in the documentation."""
        where = f", stored in `{self.stored}`" if self.stored else ""
        return f"| {self.what} | {self.status}{where} |"


DEAD = "dead-letters.receiver"
BAD_REQUESTS = (
    Request("garbage bytes", 400, "not JSON", b"\xff\x00garbage"),
    Request("empty body", 400, "not JSON", b""),
    Request("JSON cut off", 400, "not JSON", order(90)[:-4]),
    Request("nested a hundred thousand deep", 400, "not JSON", b'{"a":' + b"[" * 100_000),
    Request("JSON, but not an object", 200, "", b"[1]", stored=DEAD),
    Request("`null`", 200, "", b"null", stored=DEAD),
    Request("id missing", 200, "", b'{"created_at": "%b"}' % AT.encode(), stored=DEAD),
    Request("fractional id", 200, "", order(90, id=1.5), stored=DEAD),
    Request("id as text", 200, "", order(90, id="x"), stored=DEAD),
    Request("negative quantity in a line", 200, "", order(91, line_items=[{"id": 1, "quantity": -1}]), stored="shopify.orders"),
    Request("time without an offset", 200, "", order(90, updated_at="2026-11-02T09:15:03"), stored=DEAD),
    Request("times in 1970 and 2100", 200, "", order(92, created_at="1970-01-01T00:00:00Z", updated_at="2100-01-01T00:00:00Z"), stored="shopify.orders"),
    Request("unknown fields", 200, "", order(93, colour="blue"), stored="shopify.orders"),
    Request("unknown Shopify topic", 200, "", order(94), topic="weather/changed", stored="shopify.catalog"),
    Request("malformed topic", 400, "X-Shopify-Topic is not a topic", topic="Orders Create!"),
    Request("header X-Shopify-Topic missing", 400, "X-Shopify-Topic is missing", headers={"X-Shopify-Topic": None}),
    Request("header X-Shopify-Shop-Domain missing", 400, "X-Shopify-Shop-Domain is missing", headers={"X-Shopify-Shop-Domain": None}),
    Request("header X-Shopify-Hmac-Sha256 missing", 400, "X-Shopify-Hmac-Sha256 is missing", headers={"X-Shopify-Hmac-Sha256": None}),
    Request("header X-Shopify-Webhook-Id missing", 400, "X-Shopify-Webhook-Id is missing", headers={"X-Shopify-Webhook-Id": None}),
    Request("unknown shop", 404, "has no shop", headers={"X-Shopify-Shop-Domain": "nobody.myshopify.com"}),
    Request("wrong HMAC", 401, "no secret of this shop", headers={"X-Shopify-Hmac-Sha256": "bm8="}),
    Request("HMAC that is not base64", 401, "no secret of this shop", headers={"X-Shopify-Hmac-Sha256": "%%%"}),
    Request("unreadable X-Shopify-Triggered-At", 200, "", order(95), headers={"X-Shopify-Triggered-At": "soon"}, stored="shopify.orders"),
    Request("9 MiB body of an order, signed", 200, "", order(96, note="x" * 9 * MIB), stored="shopify.orders"),
    Request("9 MiB body without an order's id, signed", 200, "", b"x" * 9 * MIB, stored=DEAD),
    Request("9 MiB body, wrong HMAC", 401, "no secret of this shop", b"x" * 9 * MIB, headers={"X-Shopify-Hmac-Sha256": "bm8="}),
)  # fmt: skip
SLOW_LINES = (
    "| headers that come a byte at a time | connection closed after 10 s |",
    "| body that comes a byte at a time | 503 after 4 s |",
)
