"""Access tokens of all shops: one that stays, and those of the client-credentials grant (facts 9)."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from connectors.shopify.simulator.world import ShopState, World

KEPT = 16
"""Issued tokens that a shop remembers: a client needs two while one replaces the other."""


class Tokens:
    """Who may call which shop."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ends: dict[str, dict[str, float]] = {}  # by shop: token to the end of its life

    def grant(self, shop: ShopState, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """The status and body of the answer to a request for a token."""
        if form.get("grant_type") != "client_credentials":
            return 400, {"error": "unsupported_grant_type"}
        config = shop.config
        named = _same(form.get("client_id", ""), config.client_id)
        if not named or not _same(form.get("client_secret", ""), config.client_secret):
            return 401, {"error": "invalid_client", "error_description": "Client authentication failed"}
        life_s = shop.behaviour.token_life_s
        token = f"shpat_{self._world.random.getrandbits(128):032x}"
        issued = self._ends.setdefault(config.domain, {})
        issued[token] = self._world.clock() + life_s
        while len(issued) > KEPT:
            del issued[next(iter(issued))]
        return 200, {
            "access_token": token,
            "scope": ",".join(shop.behaviour.scopes),
            "expires_in": int(life_s) if life_s >= 1 else life_s,
        }

    def valid(self, shop: ShopState, token: str) -> bool:
        """Whether the shop lets in who has this token."""
        if _same(token, shop.config.access_token):
            return True
        return self._ends.get(shop.config.domain, {}).get(token, 0.0) > self._world.clock()

    def expire(self, shop: ShopState) -> int:
        """End the life of all issued tokens now; how many there were."""
        return len(self._ends.pop(shop.config.domain, {}))


def _same(given: str, wanted: str) -> bool:
    return bool(wanted) and hmac.compare_digest(given.encode(), wanted.encode())
