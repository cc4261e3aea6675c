"""The access token of one shop: one that stays, or one of 24 hours that is requested in time.

The client-credentials grant is shopify.dev "Using the client credentials grant": a form with the app's id
and secret is answered with a token and the seconds it lives. There is no refresh token; one asks again.
Tokens are never part of a text: not of an error, not of a log line.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import aiohttp
import msgspec
import structlog
from msgspec import Struct

from app.errors import OutcomeUnknown, Retry
from app.shops import Shop

RENEW_BEFORE_S = 3600.0
"""Before its end: Shopify may be away for an hour and no call goes without a token."""
RETRY_RENEWAL_S = 60.0
"""Between attempts to renew a token that is still good."""
REQUEST_LIMIT_S = 10.0
ERROR_CHARACTERS = 200
"""Of a refusal's body in the error: it has ``error`` and ``error_description``, never a token."""

log = structlog.get_logger(__name__)


class TokenRefused(Retry):
    """The shop gives this app no token: uninstalled, its secret rotated, or the shop is frozen."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Granted(Struct, frozen=True, kw_only=True):
    """The answer to a grant."""

    access_token: str
    expires_in: float  # seconds
    scope: str = ""

    def __repr__(self) -> str:
        return f"Granted(expires_in={self.expires_in!r})"


class Tokens:
    """The token of one shop, requested at most once at a time whoever asks for it."""

    def __init__(
        self,
        shop: Shop,
        *,
        limit_s: float = REQUEST_LIMIT_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shop = shop
        self._limit_s = limit_s
        self._monotonic = monotonic
        self._flight: asyncio.Task[None] | None = None
        self._token = shop.access_token
        self._renew_at = self._ends_at = float("-inf") if shop.client_id else float("inf")

    async def current(self) -> str:
        """A token that should be good.

        Raises:
            TokenRefused: with the HTTP status of the refusal.
            OutcomeUnknown: when nobody answered.
        """
        if self._monotonic() >= self._renew_at:
            try:
                await self._renewed()
            except Retry as error:
                if self._monotonic() >= self._ends_at:
                    raise
                self._put_off(error)
        return self._token

    async def after_refusal(self, refused: str) -> str | None:
        """Another token after the shop refused this one with 401; None when there can be no other.

        Raises:
            TokenRefused, OutcomeUnknown: as ``current``.
        """
        if not self._shop.client_id:
            return None
        if self._token == refused:
            await self._renewed()
        return self._token

    async def _renewed(self) -> None:
        """Wait for the request under way, or make one: all that wait share its end, good or bad."""
        if self._flight is None:
            self._flight = asyncio.create_task(self._renew(), name=f"token of {self._shop.domain}")
            self._flight.add_done_callback(self._landed)
        await asyncio.shield(self._flight)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flight = None
        if not flight.cancelled():
            flight.exception()  # those who wait have it; nobody may be left

    def _put_off(self, error: Retry) -> None:
        """The old token is still good: the next attempt comes a little later."""
        self._renew_at = min(self._ends_at, self._monotonic() + RETRY_RENEWAL_S)
        log.warning("a token could not be renewed yet", shop=self._shop.domain, error=str(error))

    async def _renew(self) -> None:
        asked_at = self._monotonic()
        granted = await self._request()
        lives_s = granted.expires_in
        self._token = granted.access_token
        self._ends_at = asked_at + lives_s
        self._renew_at = self._ends_at - min(RENEW_BEFORE_S, lives_s / 2)
        log.debug("a token was granted", shop=self._shop.domain, lives_s=lives_s)

    async def _request(self) -> Granted:
        shop = self._shop
        form = {
            "grant_type": "client_credentials",
            "client_id": shop.client_id,
            "client_secret": shop.client_secret,
        }
        timeout = aiohttp.ClientTimeout(total=self._limit_s)
        url = f"{shop.api_url}/admin/oauth/access_token"
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(url, data=form, allow_redirects=False) as response,
            ):
                return _granted(shop.domain, response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OutcomeUnknown(f"{shop.domain}: no token: {type(error).__name__}: {error}") from None


def _granted(domain: str, status: int, body: bytes) -> Granted:
    if status == 429 or status >= 500:
        raise OutcomeUnknown(f"{domain}: no token: HTTP {status}")
    if status != 200:
        told = body[:ERROR_CHARACTERS].decode(errors="replace")
        # invalid_client comes as 400 in OAuth's own words; for us both mean that nobody lets us in.
        raise TokenRefused(f"{domain}: no token: HTTP {status}: {told}", 401 if status == 400 else status)
    try:
        granted = msgspec.json.decode(body, type=Granted)
    except msgspec.MsgspecError:
        raise OutcomeUnknown(f"{domain}: no token: HTTP 200 with a body that is not a grant") from None
    if not granted.access_token or granted.expires_in <= 0:
        raise OutcomeUnknown(f"{domain}: no token: a grant without a token or a life")
    return granted
