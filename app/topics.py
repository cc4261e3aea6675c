"""Every topic of skustream, in one place; created by ``skustream topics apply``, never repaired silently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code
from msgspec import Struct

from app.errors import Misconfigured, TopicMismatch
from app.settings import Settings, unavailable

log = structlog.get_logger(__name__)

DAY_MS = 24 * 60 * 60 * 1000
PRODUCE, PRODUCE_SINCE_3_7 = 0, 10
"""The key of Kafka's Produce API and its version since 3.7 (KIP-951); brokers tell none of their own."""
WEBHOOK_BYTES = 8 << 20
"""Webhooks can be megabytes; the receiver's body limit is the same."""
COMPACTION_LAG_MS = 10 * 60 * 1000
"""Position and changelog segments roll this often, so that compaction gets at them."""


class Kept(StrEnum):
    """How long a topic keeps its records."""

    RETENTION = "retention"  # settings.retention_days
    WEEK = "week"
    DEAD_LETTERS = "dead-letters"  # settings.dead_letter_retention_days
    FOREVER = "forever"
    COMPACTED = "compacted"  # the last value of each key


class TopicSpec(Struct, frozen=True, kw_only=True):
    """A topic as declared: what its key is and how long its records are kept."""

    name: str
    key: str
    kept: Kept
    max_message_bytes: int = 1 << 20

    def configs(self, settings: Settings) -> dict[str, str]:
        """The topic's configuration entries."""
        configs = {
            "max.message.bytes": str(self.max_message_bytes),
            "min.insync.replicas": str(settings.min_insync_replicas),
        }
        if self.kept is Kept.COMPACTED:
            kept = {"segment.ms": str(COMPACTION_LAG_MS), "delete.retention.ms": str(DAY_MS)}
            return configs | {"cleanup.policy": "compact", **kept}
        days = {
            Kept.RETENTION: settings.retention_days,
            Kept.WEEK: 7,
            Kept.DEAD_LETTERS: settings.dead_letter_retention_days,
        }.get(self.kept)
        retention = "-1" if days is None else str(days * DAY_MS)
        return configs | {"cleanup.policy": "delete", "retention.ms": retention}


class Difference(Struct, frozen=True, kw_only=True):
    """What ``apply`` would do about a topic, or why it refuses."""

    topic: str
    action: str  # "create" or "mismatch"
    detail: str


_STOCK, _LISTING = "{sku}@{location}", "{shop}/{item}/{location_id} by {shop}"
_TARGET = "{shop}/{item}/{location_id}/{sku}@{location} by {shop}"

TOPICS: tuple[TopicSpec, ...] = (
    TopicSpec(
        name="shopify.orders", key="{shop}/{order_id}", kept=Kept.RETENTION, max_message_bytes=WEBHOOK_BYTES
    ),
    TopicSpec(name="shopify.levels", key=_LISTING, kept=Kept.WEEK),
    TopicSpec(name="shopify.catalog", key="{shop}", kept=Kept.RETENTION, max_message_bytes=WEBHOOK_BYTES),
    TopicSpec(name="stock.listings", key=_STOCK, kept=Kept.COMPACTED),
    TopicSpec(name="stock.listing-changes", key=_STOCK, kept=Kept.RETENTION),
    TopicSpec(name="stock.movements", key=_STOCK, kept=Kept.RETENTION),
    TopicSpec(name="stock.levels", key=_STOCK, kept=Kept.COMPACTED),
    TopicSpec(name="stock.ledger", key=_STOCK, kept=Kept.FOREVER),
    TopicSpec(name="stock.alerts", key=_STOCK, kept=Kept.RETENTION),
    TopicSpec(name="shopify.targets", key=_TARGET, kept=Kept.COMPACTED),
    TopicSpec(name="shopify.pushes", key=_LISTING, kept=Kept.RETENTION),
    TopicSpec(name="shopify.drift", key=_LISTING, kept=Kept.RETENTION),
    TopicSpec(name="shopify.corrections", key=_LISTING, kept=Kept.WEEK),
    TopicSpec(name="shopify.controls", key="{shop}", kept=Kept.WEEK),
    TopicSpec(name="shopify.redactions", key="{shop}/{nonce}", kept=Kept.WEEK),
    TopicSpec(name="skustream.stock.seen", key="digest of the movement id", kept=Kept.COMPACTED),
    TopicSpec(
        name="skustream.orders.orders",
        key="{shop}/{order_id}",
        kept=Kept.COMPACTED,
        max_message_bytes=WEBHOOK_BYTES,
    ),
    TopicSpec(name="skustream.orders.unmapped", key="{shop}/{order_id}", kept=Kept.COMPACTED),
    TopicSpec(name="skustream.orders.lookups", key="{shop}/{kind}/{number}", kept=Kept.COMPACTED),
    TopicSpec(name="skustream.orders.reads", key="{shop}/{order_id}", kept=Kept.COMPACTED),
    TopicSpec(name="skustream.shopify.pushes", key=_LISTING, kept=Kept.COMPACTED),
    TopicSpec(name="skustream.shopify.intents", key="{shop}/{intent}", kept=Kept.COMPACTED),
    TopicSpec(name="skustream.reconcile.united", key=_STOCK, kept=Kept.COMPACTED),
    TopicSpec(name="skustream.reconcile.items", key="{shop}/{item} by {shop}", kept=Kept.COMPACTED),
    TopicSpec(name="skustream.reconcile.item_reads", key="{shop}/{item} by {shop}", kept=Kept.COMPACTED),
    TopicSpec(name="skustream.reconcile.id_reads", key="{shop}", kept=Kept.COMPACTED),
    TopicSpec(name="skustream.reconcile.drift", key=_LISTING, kept=Kept.COMPACTED),
    TopicSpec(name="skustream.reconcile.subscribed", key="{shop}", kept=Kept.COMPACTED),
    TopicSpec(name="skustream.reconcile.caught_up", key="{shop}", kept=Kept.COMPACTED),
    TopicSpec(name="skustream.reconcile.noticed", key="{shop}/{order_id} by {shop}", kept=Kept.COMPACTED),
    TopicSpec(name="skustream.shopify.paused", key="{shop}", kept=Kept.COMPACTED),
    *(
        TopicSpec(name=f"skustream.{service}.positions", key="lane", kept=Kept.COMPACTED)
        for service in ("orders", "stock", "shopify", "reconcile")
    ),
    *(
        TopicSpec(
            name=f"dead-letters.{service}",
            key="the record's own",
            kept=Kept.DEAD_LETTERS,
            max_message_bytes=2 * WEBHOOK_BYTES,
        )
        for service in ("receiver", "orders", "stock", "shopify", "reconcile")
    ),
)


async def plan(settings: Settings, topics: Iterable[TopicSpec] = TOPICS) -> list[Difference]:
    """What differs between the declaration and the cluster.

    Raises:
        BrokerUnavailable: when no broker answers; names the bootstrap servers.
    """
    admin = await _admin(settings)
    try:
        described = {entry["topic"]: entry for entry in await admin.describe_topics()}
        existing = [spec for spec in topics if spec.name in described]
        configs = await _configs(admin, [spec.name for spec in existing])
        missing = [
            Difference(
                topic=spec.name, action="create", detail=f"{settings.partitions} partitions, {spec.kept}"
            )
            for spec in topics
            if spec.name not in described
        ]
        mismatches = [
            difference
            for spec in existing
            for difference in _mismatches(spec, settings, described[spec.name], configs[spec.name])
        ]
        return missing + mismatches
    finally:
        await admin.close()


async def apply(settings: Settings, topics: Iterable[TopicSpec] = TOPICS) -> list[Difference]:
    """Create the missing topics; returns what was created.

    Raises:
        TopicMismatch: when a topic exists with another shape; nothing is created then.
        BrokerUnavailable: when no broker answers.
    """
    specs = {spec.name: spec for spec in topics}
    differences = await plan(settings, specs.values())
    mismatches = [difference.detail for difference in differences if difference.action == "mismatch"]
    if mismatches:
        raise TopicMismatch("; ".join(mismatches))
    new = [
        NewTopic(
            difference.topic,
            settings.partitions,
            settings.replication_factor,
            topic_configs=specs[difference.topic].configs(settings),
        )
        for difference in differences
    ]
    if new:
        await _create(settings, new)
    return differences


async def require(settings: Settings, names: Iterable[str]) -> None:
    """Check that topics are there as declared, before a service starts on them.

    Raises:
        TopicMismatch: naming the topics that are missing or differ, and the command that creates them.
        BrokerUnavailable: when no broker answers.
    """
    wanted = set(names)
    differences = await plan(settings, [spec for spec in TOPICS if spec.name in wanted])
    if differences:
        found = "; ".join(f"{one.topic}: {one.action} {one.detail}" for one in differences)
        raise TopicMismatch(f"topics are not as declared; see 'skustream topics plan': {found}")


async def _create(settings: Settings, new: list[NewTopic]) -> None:
    admin = await _admin(settings)
    try:
        answer = await admin.create_topics(new)
    finally:
        await admin.close()
    for topic, code, *detail in answer.topic_errors:
        if code:
            raise Misconfigured(f"topic {topic} was not created: {for_code(code).__name__} {detail}")


async def _admin(settings: Settings) -> AIOKafkaAdminClient:
    admin = AIOKafkaAdminClient(**settings.kafka_options())
    try:
        await admin.start()
    except (KafkaError, OSError) as error:
        await admin.close()
        raise unavailable(settings, error) from None
    return admin


async def tell_old_brokers(settings: Settings) -> None:
    """Log a warning when a broker is older than 3.7: it may keep a dead worker's transaction open for ever.

    Since then brokers verify that a transaction is going on before they append to it (KIP-890). Without that
    a late request of a dead producer can begin one that nobody ends, and ``read_committed`` readers wait.

    Raises:
        BrokerUnavailable: when no broker answers.
    """
    admin = await _admin(settings)
    try:
        client = admin._client
        connections = [await client._get_conn(broker.nodeId) for broker in client.cluster.brokers()]
        old = any(is_old(connection._versions) for connection in connections if connection is not None)
    finally:
        await admin.close()
    if old:
        log.warning(
            "a broker is older than Kafka 3.7: a dead worker's transaction may stay open for ever (KIP-890)",
            bootstrap_servers=settings.bootstrap_servers,
        )


def is_old(versions: Mapping[int, tuple[int, int]]) -> bool:
    """Whether the API versions (lowest and highest by API key) are those of a broker older than 3.7."""
    return versions.get(PRODUCE, (0, 0))[1] < PRODUCE_SINCE_3_7


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    answers = await admin.describe_configs(resources)
    return {
        resource[3]: {entry[0]: entry[1] for entry in resource[4]}
        for answer in answers
        for resource in answer.resources
    }


def _mismatches(
    spec: TopicSpec, settings: Settings, described: Mapping[str, Any], configs: Mapping[str, str]
) -> list[Difference]:
    found = len(described["partitions"])
    problems = []
    if found != settings.partitions:
        problems.append(f"{settings.partitions} partitions (SKUSTREAM_PARTITIONS), the cluster has {found}")
    policy = spec.configs(settings)["cleanup.policy"]
    if configs.get("cleanup.policy") != policy:
        problems.append(f"cleanup.policy {policy}, the cluster has {configs.get('cleanup.policy')}")
    return [
        Difference(topic=spec.name, action="mismatch", detail=f"topic {spec.name}: declared {problem}")
        for problem in problems
    ]
