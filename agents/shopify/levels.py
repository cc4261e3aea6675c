"""Follows what shops tell of their levels: knows echoes, reads what is unexplained, finds hand edits."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import structlog
from msgspec.structs import replace

from agents.shopify import metrics
from agents.source import payload_of
from app.exactly_once import SourceRecord, Transaction
from app.records import Drift, Envelope, LevelChange, LevelRead, encode, headers, listing_key
from tables import edits, pushes
from tables.edits import Edit
from tables.pushes import PushState

if TYPE_CHECKING:
    from agents.shopify.pump import Pump
    from agents.shopify.writer import Writer

log = structlog.get_logger(__name__)

decode_envelope = msgspec.json.Decoder(Envelope).decode
decode_change = msgspec.json.Decoder(LevelChange).decode


class Levels:
    """Decides over the writer's table ``pushes``; see ``tables.edits``."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def take(self, transaction: Transaction, source: SourceRecord) -> None:
        """Take a level that a shop tells. One that nobody lists is nothing to us."""
        envelope = decode_envelope(payload_of(source, Envelope))
        change = decode_change(envelope.body)
        listing = listing_key(envelope.shop, change.inventory_item_id, change.location_id)
        key = self._writer.own_key(source, envelope.shop, listing)
        state = transaction.get(self._writer.pushes, key)
        if state is None:
            return
        told = edits.take_level(state, change, transaction.now_ms)
        result = "explained" if told.noticed is None else "unexplained"
        transaction.after_commit(metrics.LEVELS.labels(envelope.shop, result).inc)
        if told is state:
            return
        if told.noticed is not None and self._writer.shadows(state.target):
            told = pushes.forget(told)  # somebody else writes this listing: what it shows is theirs
        self._writer.put(transaction, told)

    def look(
        self,
        transaction: Transaction,
        pump: Pump,
        state: PushState,
        level: LevelRead,
        version: int,
    ) -> None:
        """Take a read of a listing with an unexplained level."""
        looked = edits.look(
            state,
            level,
            version,
            now_ms=transaction.now_ms,
            confirm_s=self._writer.hand_edit_s,
            heard=pump.looks.heard(state.target.key),
        )
        state = looked.state
        if looked.unheard is not None:
            pump.looks.hear(state.target.key, looked.unheard)
        if looked.edit is not None:
            state = self._follow(transaction, state, looked.edit)
        if state.inactive:
            state = self._follow_inactive(transaction, state, level, found=looked.deactivated)
        if looked.again_s is not None:
            pump.looks.later(state.target.key, looked.again_s)
        self._writer.put(transaction, state)

    def _follow(self, transaction: Transaction, state: PushState, edit: Edit) -> PushState:
        """Follow the shop's policy about hand edits, exactly once: all of it is in one transaction."""
        target = state.target
        policy = self._writer.clients.shops[target.shop].hand_edits
        now = _moment(transaction)
        followed = edits.follow(state, edit, policy)
        if policy == "import":
            movement = edits.import_of(followed, edit, now)
            head = headers(movement, movement.id)
            transaction.emit("stock.movements", movement.key.encode(), encode(movement), head)
        elif policy == "report":
            self._tell(transaction, edits.drift_of(state, edit, now), target.correlation_id)
        transaction.after_commit(metrics.EDITS.labels(target.shop, policy).inc)
        log.warning("a hand edit was found", listing=target.key, units=edit.units, policy=policy)
        return followed

    def _follow_inactive(
        self, transaction: Transaction, state: PushState, level: LevelRead, *, found: bool
    ) -> PushState:
        """Only `overrule` activates a level that somebody deactivated (``found`` now); others leave it."""
        policy = self._writer.clients.shops[state.target.shop].hand_edits
        if policy == "overrule":
            return replace(state, left=False)
        if not found:
            return state
        drift = edits.deactivated_of(state, level, policy, _moment(transaction))
        self._tell(transaction, drift, state.target.correlation_id)
        log.warning("a level was deactivated by hand", listing=state.target.key, policy=policy)
        return replace(state, left=True)

    def _tell(self, transaction: Transaction, drift: Drift, correlation_id: str) -> None:
        head = headers(drift, correlation_id)
        transaction.emit("shopify.drift", drift.key.encode(), encode(drift), head, drift.shop.encode())


def _moment(transaction: Transaction) -> datetime:
    return datetime.fromtimestamp(transaction.now_ms / 1000, UTC)
