"""Every error of skustream, in one tree; the families say what the caller can do.

SkustreamError
├── Misconfigured      an operator must change a setting, a topic or a file
│   ├── TopicMismatch
│   ├── PositionMissing
│   └── UnknownShop
├── Retry              the world is not ready; the same call may work later
│   ├── BrokerUnavailable
│   └── OutcomeUnknown     the call may have been carried out: same key, same body
├── Rejected           this input can never work; it goes to the dead-letter topic
│   ├── Undecodable
│   ├── UnknownSchema
│   └── Unmapped
├── Stale              somebody else owns this now, or went further
│   ├── LaneLost
│   ├── StoreLocked
│   └── StoreBroken
└── Bug                one of our own assertions failed; never caught outside the lane
"""

from __future__ import annotations


class SkustreamError(Exception):
    """The root of every error that skustream raises on purpose."""


class Misconfigured(SkustreamError):
    """An operator must change a setting, a topic or a file; the message names it."""


class TopicMismatch(Misconfigured):
    """A topic exists with another shape than declared; nothing is repaired silently."""


class PositionMissing(Misconfigured):
    """A lane has state but no recorded source position; starting would replay or skip input."""


class UnknownShop(Misconfigured):
    """A record or a call names a shop that the shops file does not have."""


class Retry(SkustreamError):
    """The world is not ready; the same call may work later."""


class BrokerUnavailable(Retry):
    """No Kafka broker answered at the configured bootstrap servers."""


class OutcomeUnknown(Retry):
    """A call may or may not have been carried out: resend the same body under the same key."""


class Rejected(SkustreamError):
    """This input can never work as it is; it goes to the dead-letter topic with its origin."""


class Undecodable(Rejected):
    """The bytes are not the record that the topic documents."""


class UnknownSchema(Rejected):
    """The record's schema header names a newer major version, or another record, than we read."""


class Unmapped(Rejected):
    """An order line has no listing; it is evaluated again when the mapping appears."""


class Stale(SkustreamError):
    """Somebody else owns this now, or went further than what we hold."""


class LaneLost(Stale):
    """A lane's partition moved to another worker, or its transaction was fenced."""


class StoreLocked(Stale):
    """Another process has the store open; the message names it where the system tells."""


class StoreBroken(Stale):
    """The store's files are not a database of this version: half written, damaged, or of other values."""


class Bug(SkustreamError):
    """One of our own assertions failed."""
