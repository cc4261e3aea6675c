"""The workers for Faust's own command: ``faust -A app.faust_apps:stock worker``, ``tables``, ``agents``.

An app is built from the environment's settings when it is asked for.
"""

from __future__ import annotations

from app.exactly_once import App
from app.services import WORKERS
from app.settings import load_settings


def __getattr__(name: str) -> App:
    """The worker of that name."""
    if name not in WORKERS:
        raise AttributeError(f"module {__name__!r} has no worker {name!r}; there are {', '.join(WORKERS)}")
    return WORKERS[name](load_settings())
