"""Faust agents with exactly-once micro-batches; knows nothing of stock or shops. See ``docs/engine.md``.

An agent hands each batch to ``App.process``; the lane of its partition decides it record by record in
memory and commits state, output and source position in one Kafka transaction. Only then is the local
store written, so a crash anywhere loses an overlay and nothing else.
"""

from app.exactly_once.app import App
from app.exactly_once.lane import Lane
from app.exactly_once.store import Table
from app.exactly_once.transaction import SourceRecord, Transaction

__all__ = ["App", "Lane", "SourceRecord", "Table", "Transaction"]
