"""The composition root: builds each service from the settings."""

from __future__ import annotations

from collections.abc import Callable

import agents.stock
from app.dead_letters import dead_letter
from app.exactly_once import App
from app.settings import Settings


def stock(settings: Settings) -> App:
    """The inventory adjuster."""
    app = _app("stock", settings, settings.stock_port)
    rules = agents.stock.Rules(seen_days=settings.seen_days, low_water=settings.low_water)
    agents.stock.register(app, rules)
    return app


SERVICES: dict[str, Callable[[Settings], App]] = {"stock": stock}
"""The services that are Faust workers, by name."""


def _app(service: str, settings: Settings, port: int) -> App:
    return App(
        service,
        kafka_options=settings.kafka_options(),
        data_dir=settings.data_dir,
        partitions=settings.partitions,
        encode_dead_letter=dead_letter,
        web_port=port,
        web_host=settings.receiver_host,
        session_timeout_s=settings.session_timeout_s,
    )
