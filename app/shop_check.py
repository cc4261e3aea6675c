"""Whether a shop is as skustream needs it: one finding for each thing, broken ones named."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from msgspec import Struct

from app.errors import Rejected, Retry
from app.shops import Shop
from connectors.shopify import documents
from connectors.shopify.client import ShopClient
from connectors.shopify.shop_facts import ShopFacts, ShopLocation, shop_facts
from connectors.shopify.subscriptions import differences

CLOCK_SKEW_S = 30.0
"""Half the age of what the order catch-up looks at: beyond it our limits on age are no longer true."""

NEEDED_SCOPES = {
    "read_orders": "orders and refunds cannot be read",
    "read_inventory": "levels cannot be read",
    "write_inventory": "stock cannot be written",
    "read_products": "variants cannot be read",
    "read_locations": "locations cannot be read",
    "read_returns": "restocked returns stay unseen",
    "read_merchant_managed_fulfillment_orders": "the locations that orders are assigned to stay unseen",
}
"""What every shop must grant, and what is lost without it; Shopify's schema says what a type needs."""
ADVISED_SCOPES = {
    "read_all_orders": "orders older than 60 days stay unseen",
    "read_assigned_fulfillment_orders": "orders at locations of a fulfilment service of this app stay unseen",
    "read_third_party_fulfillment_orders": "orders at locations of other fulfilment services stay unseen",
}
"""What only some shops need."""


class Finding(Struct, frozen=True, kw_only=True):
    """One thing about a shop."""

    check: str  # access, scopes, version, clock, budget, locations or webhooks
    ok: bool
    told: str


async def check_shop(
    shop: Shop, uri: str | None, *, clock: Callable[[], float] = time.time
) -> tuple[list[Finding], ShopFacts | None]:
    """Ask a shop and judge what it says; the facts are None when it does not let us in.

    Args:
        shop: its entry of the shops file.
        uri: where its webhooks should go; None: anywhere will do.
        clock: epoch seconds.
    """
    client = ShopClient(shop)
    try:
        facts = await shop_facts(client, clock)
    except (Retry, Rejected) as error:
        return [Finding(check="access", ok=False, told=str(error))], None
    finally:
        await client.close()
    return findings(shop, facts, uri), facts


def findings(shop: Shop, facts: ShopFacts, uri: str | None) -> list[Finding]:
    """What the facts mean for a shop's entry of the shops file."""
    return [
        *_access(shop, facts),
        *_scopes(facts),
        *_version(facts),
        *_clock(facts),
        *_budget(facts),
        *_locations(shop, facts),
        *_webhooks(facts, uri),
    ]


def _good(check: str, told: str) -> Finding:
    return Finding(check=check, ok=True, told=told)


def _broken(check: str, told: str) -> Finding:
    return Finding(check=check, ok=False, told=told)


def _access(shop: Shop, facts: ShopFacts) -> Iterator[Finding]:
    kind = "client credentials" if shop.client_id else "access token"
    if facts.domain.lower() == shop.domain:
        yield _good("access", f"let in with its {kind}")
    else:
        yield _broken(
            "access", f"the shop's own name is {facts.domain}, the shops file calls it {shop.domain}: its "
            "webhooks would be refused",
        )  # fmt: skip


def _scopes(facts: ShopFacts) -> Iterator[Finding]:
    granted = facts.scopes | {f"read_{one[6:]}" for one in facts.scopes if one.startswith("write_")}
    lacking = [scope for scope in NEEDED_SCOPES if scope not in granted]
    for scope in lacking:
        yield _broken("scopes", f"{scope} is not granted: {NEEDED_SCOPES[scope]}")
    if not lacking:
        yield _good("scopes", f"all {len(NEEDED_SCOPES)} that are needed are granted")
    for scope, lost in ADVISED_SCOPES.items():
        if scope not in granted:
            yield _good("scopes", f"without {scope}, {lost}")


def _version(facts: ShopFacts) -> Iterator[Finding]:
    asked, served = documents.API_VERSION, facts.served_version
    if served in ("", asked):
        yield _good("version", f"API version {asked}" + ("" if served else " (the shop does not say)"))
    else:
        yield _broken("version", f"asked for API version {asked}, answered with {served}")


def _clock(facts: ShopFacts) -> Iterator[Finding]:
    skew_s = facts.skew_s
    if skew_s is None:
        yield _good("clock", "not checked: the shop does not say its time")
    elif abs(skew_s) > CLOCK_SKEW_S:
        way = "ahead of" if skew_s > 0 else "behind"
        yield _broken(
            "clock", f"the shop's clock is {abs(skew_s):g} s {way} ours, the limit is {CLOCK_SKEW_S:g} s"
        )
    else:
        yield _good("clock", f"the shop's clock is within {CLOCK_SKEW_S:g} s of ours")


def _budget(facts: ShopFacts) -> Iterator[Finding]:
    if facts.restore_rate > 0:
        yield _good(
            "budget", f"bucket of {facts.bucket_points:g} points, fills {facts.restore_rate:g} a second"
        )
    else:
        yield _broken("budget", "the shop's answers do not say its cost bucket")


def _locations(shop: Shop, facts: ShopFacts) -> Iterator[Finding]:
    if isinstance(facts.locations, str):
        yield _broken("locations", f"cannot be read: {facts.locations}")
        return
    there = {one.id: one for one in facts.locations}
    faults = list(_location_faults(shop, there))
    for fault in faults:
        yield _broken("locations", fault)
    if not faults:
        default = there[shop.default_location_id]
        yield _good("locations", f"default {default.id} {default.name!r}, {len(shop.locations)} mapped")


def _location_faults(shop: Shop, there: dict[int, ShopLocation]) -> Iterator[str]:
    roles = {shop.default_location_id: ["default_location_id"]}
    for number in shop.locations:
        roles.setdefault(number, []).append(f"locations ({shop.locations[number]})")
    for number in shop.shadow_locations:
        roles.setdefault(number, []).append("shadow_locations")
    known = ", ".join(f"{one.id} {one.name!r}" for one in there.values() if one.active) or "none"
    for number, fields in roles.items():
        name = f"{', '.join(fields)}: location {number}"
        if number not in there:
            yield f"{name} does not exist; active are {known}"
        elif not there[number].active and "default_location_id" in fields:
            yield f"{name} {there[number].name!r} is not active; active are {known}"


def _webhooks(facts: ShopFacts, uri: str | None) -> Iterator[Finding]:
    found = facts.subscriptions
    if isinstance(found, str):
        yield _broken("webhooks", f"subscriptions cannot be read: {found}")
        return
    if not found and uri is None:
        yield _good(
            "webhooks", "no subscription was made through the API; an app's configuration is not told"
        )
        return
    faults = differences(found, uri)
    for one in faults:
        yield _broken("webhooks", f"{one.wanted.topic}: {one.what}")
    if not faults:
        where = f"to {uri}" if uri else "(where to is not checked: SKUSTREAM_PUBLIC_URL is not set)"
        yield _good("webhooks", f"all topics subscribed {where}")
