"""Ports for services that a test starts itself: whatever else runs on the machine has the usual ones."""

from __future__ import annotations

from app.local_kafka import free_port
from app.services import SERVICES


def own_ports() -> dict[str, str]:
    """The variables of every service's port, each a free one."""
    return {f"SKUSTREAM_{service.upper()}_PORT": str(free_port()) for service in SERVICES}
