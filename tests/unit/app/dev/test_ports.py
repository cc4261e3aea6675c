"""Two stacks on one machine never share a port, also while nobody listens on it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from aiohttp import web

from app.dev.ports import PortClaims
from app.dev.supervisor import ProcessState, report
from app.local_kafka import free_port


def test_a_claimed_port_is_nobody_elses_until_it_is_released(tmp_path: Path) -> None:
    ours, theirs, wanted = PortClaims(tmp_path), PortClaims(tmp_path), free_port()
    assert ours.claim(wanted) == wanted
    assert theirs.claim(wanted) != wanted
    ours.release()
    assert theirs.claim(wanted) == wanted
    theirs.release()


def test_a_port_that_somebody_listens_on_is_not_claimed(tmp_path: Path) -> None:
    claims = PortClaims(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert claims.claim(port) != port
    claims.release()


def test_ports_without_a_wish_are_all_different(tmp_path: Path) -> None:
    claims = PortClaims(tmp_path)
    ports = [claims.claim() for _ in range(50)]
    claims.release()
    assert len(set(ports)) == len(ports)


@pytest.mark.parametrize(("ours", "health"), [(True, "ok"), (False, "not ours")])
async def test_whoever_else_answers_at_a_process_address_is_not_taken_for_it(ours: bool, health: str) -> None:
    async def healthz(request: web.Request) -> web.Response:
        return web.json_response({"ok": True, "pid": os.getpid(), "lanes": [0]})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        pid = os.getpid() if ours else 1
        found = await report(ProcessState(name="stock", url=f"http://127.0.0.1:{port}", pid=pid))
        assert found.health.startswith(health)
    finally:
        await runner.cleanup()
