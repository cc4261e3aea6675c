"""The least an aiohttp server can do with a webhook: read the body, answer 200. The receiver's baseline.

Environment: PORT.
"""

from __future__ import annotations

import os

from aiohttp import web


async def _take(request: web.Request) -> web.Response:
    await request.read()
    return web.Response()


if __name__ == "__main__":
    server = web.Application()
    server.router.add_post("/webhooks/shopify", _take)
    web.run_app(server, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=None, print=None)
