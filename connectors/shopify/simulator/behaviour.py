"""How Shopify treats the app at one shop: what it may see, whether it is open, which versions there are."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta, Struct

API_VERSION = "2026-10"
VERSIONS = ("2026-07", "2026-10")
"""The versions that are simulated. They do not differ in anything that the schema here has."""

VERSION = re.compile(r"^\d{4}-\d{2}$")

SCOPES = (
    "read_orders", "write_inventory", "read_inventory", "read_products", "read_locations",
    "read_fulfillments", "read_returns", "read_merchant_managed_fulfillment_orders",
    "read_assigned_fulfillment_orders", "read_third_party_fulfillment_orders",
)  # fmt: skip
"""What an app like ours is granted (facts 9)."""

TOKEN_LIFE_S = 86_399.0
"""What Shopify says of a token of the client-credentials grant: 24 hours."""

Positive = Annotated[float, Meta(gt=0.0)]
Door = Literal["open", "inactive", 402, 403, 404, 423]
"""402 frozen, 403 forbidden, 404 gone, 423 locked; ``inactive`` is told inside of HTTP 200 (facts 4)."""


class Behaviour(Struct, frozen=True, kw_only=True):
    """The state of one shop towards the app, changed through the admin API."""

    scopes: tuple[str, ...] = SCOPES
    door: Door = "open"
    door_until: float | None = None  # epoch seconds; then it is open again
    serves: str | None = None  # the version in the answer's header, whatever was asked for
    clock_skew_s: float = 0.0  # added to the Date header
    token_life_s: Positive = TOKEN_LIFE_S
    bulk_at_once: Annotated[int, Meta(ge=1)] = 5  # one in the versions before 2026-01
    bulk_objects_s: Positive = 20_000.0  # speed of a bulk operation, in root objects a second

    def door_at(self, now: float) -> Door:
        """The state of the shop at an instant."""
        return "open" if self.door_until is not None and now >= self.door_until else self.door

    def version(self, asked: str) -> str | None:
        """What answers; a version that is gone falls forward to the oldest (facts 0). None: no such one."""
        if self.serves is not None:
            return self.serves
        if asked == "unstable" or asked in VERSIONS:
            return asked
        return VERSIONS[0] if VERSION.match(asked) and asked < VERSIONS[0] else None
