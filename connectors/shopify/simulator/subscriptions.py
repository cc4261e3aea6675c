"""Webhook subscriptions: which topics of a shop go where, and the mutations that change that (facts 5.1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import replace

from connectors.shopify.simulator.behaviour import API_VERSION
from connectors.shopify.simulator.model import TOPICS, Subscription, gid
from connectors.shopify.simulator.paging import Records
from connectors.shopify.simulator.reads import version_view
from connectors.shopify.simulator.search import Fields, instant, search
from connectors.shopify.simulator.views import View, number_of, utc_time
from connectors.shopify.simulator.world import ShopState, World

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""Shopify refuses plain HTTP and internal hosts; a simulator that runs beside its receiver allows these."""

TAKEN = "Address for this topic has already been taken"
TOPIC_OF = {topic.replace("/", "_").upper(): topic for topic in TOPICS}
"""By the name in the schema."""


class Subscriptions:
    """The subscriptions of one shop, as the API shows and changes them."""

    def __init__(self, world: World, shop: ShopState) -> None:
        self._world = world
        self._shop = shop

    def root(self) -> View:
        """The fields of QueryRoot."""
        return {
            "webhookSubscription": lambda info, id: self.by_id(id),  # noqa: A006
            "webhookSubscriptions": self._records().connection,
        }

    def mutations(self) -> View:
        """The fields of Mutation."""
        return {
            "webhookSubscriptionCreate": lambda info, **args: self._create(**args),
            "webhookSubscriptionUpdate": lambda info, **args: self._update(**args),
            "webhookSubscriptionDelete": lambda info, id: self._delete(id),  # noqa: A006
        }

    def by_id(self, value: str) -> View | None:
        """The subscription with this GID."""
        found = self._shop.subscriptions.get(number_of("WebhookSubscription", value) or 0)
        return None if found is None or not found.by_api else subscription_view(found)

    # The names of the arguments are those of the schema.
    def _create(self, topic: str, webhookSubscription: Mapping[str, Any]) -> View:  # noqa: N803
        told, now = TOPIC_OF[topic], self._world.clock()
        made = _changed(
            Subscription(id=self._world.new_id(), topic=told, uri="", created_at=now, updated_at=now),
            webhookSubscription,
        )
        errors = self._errors(made)
        if errors:
            return {"webhookSubscription": None, "userErrors": errors}
        self._shop.subscriptions[made.id] = made
        return {"webhookSubscription": subscription_view(made), "userErrors": []}

    def _update(self, id: str, webhookSubscription: Mapping[str, Any]) -> View:  # noqa: A002, N803
        found = self._shop.subscriptions.get(number_of("WebhookSubscription", id) or 0)
        if found is None:
            return {"webhookSubscription": None, "userErrors": [_absent()]}
        changed = replace(_changed(found, webhookSubscription), updated_at=self._world.clock())
        errors = self._errors(changed)
        if errors:
            return {"webhookSubscription": None, "userErrors": errors}
        self._shop.subscriptions[found.id] = changed
        return {"webhookSubscription": subscription_view(changed), "userErrors": []}

    def _delete(self, id: str) -> View:  # noqa: A002  # the argument's name in the schema
        number = number_of("WebhookSubscription", id) or 0
        if self._shop.subscriptions.pop(number, None) is None:
            return {"deletedWebhookSubscriptionId": None, "userErrors": [_absent()]}
        return {"deletedWebhookSubscriptionId": gid("WebhookSubscription", number), "userErrors": []}

    def _errors(self, made: Subscription) -> list[View]:
        told = _address_error(made.uri)
        same = [
            each
            for each in self._shop.subscriptions.values()
            if (each.topic, each.uri) == (made.topic, made.uri) and each.id != made.id and each.by_api
        ]
        told = told or (TAKEN if same else None)
        return [] if told is None else [_error(told)]

    def _records(self) -> Records[Subscription]:
        mine = self._shop.subscriptions

        def fields(each: Subscription) -> Fields:
            times = {"created_at": instant(each.created_at), "updated_at": instant(each.updated_at)}
            return {"topic": each.topic, "uri": each.uri, "format": each.format, **times}

        return Records(
            all=lambda: [each for each in mine.values() if each.by_api],
            get=mine.get,
            id=lambda each: each.id,
            fields=fields,
            show=subscription_view,
            sorts={"CREATED_AT": lambda each: int(each.created_at)},
            keep=_asked_for,
        )


def _asked_for(each: Subscription, args: Mapping[str, Any]) -> bool:
    uri, topics = args.get("uri") or args.get("callbackUrl"), args.get("topics")
    return (
        uri in (None, each.uri)
        and (topics is None or each.topic in {TOPIC_OF[name] for name in topics})
        and args.get("format") in (None, each.format)
    )


def subscription_view(each: Subscription) -> View:
    """A subscription; the version of its bodies is the app's own, whatever the call's was (facts 5.1)."""
    return {
        "__typename": "WebhookSubscription",
        "id": gid("WebhookSubscription", each.id),
        "legacyResourceId": str(each.id),
        "topic": each.topic.replace("/", "_").upper(),
        "uri": each.uri,
        "callbackUrl": each.uri,
        "format": each.format,
        "filter": each.filter,
        "includeFields": list(each.include_fields),
        "metafieldNamespaces": list(each.metafield_namespaces),
        "name": each.name,
        "apiVersion": version_view(API_VERSION),
        "createdAt": utc_time(each.created_at),
        "updatedAt": utc_time(each.updated_at),
    }


def rendered(each: Subscription, body: bytes) -> bytes | None:
    """What a subscription is sent of a body: its fields only; None when its filter leaves it out."""
    if each.filter is None and not each.include_fields:
        return body
    whole = json.loads(body)
    if each.filter is not None and not search(each.filter)(whole):
        return None
    return json.dumps(_only(whole, each.include_fields)).encode() if each.include_fields else body


def _only(whole: Any, names: tuple[str, ...]) -> Any:
    """A part of a body; ``line_items.id`` reaches into objects and lists."""
    if isinstance(whole, list):
        return [_only(each, names) for each in whole]
    if not isinstance(whole, dict):
        return whole
    inner: dict[str, list[str]] = {}
    for name in names:
        first, _, rest = name.partition(".")
        inner.setdefault(first, []).extend([rest] if rest else [])
    return {
        name: _only(whole[name], tuple(rest)) if rest else whole[name]
        for name, rest in inner.items()
        if name in whole
    }


def _changed(found: Subscription, given: Mapping[str, Any]) -> Subscription:
    """The subscription with what an input names; a name that is absent keeps its value."""
    names = {
        "filter": "filter", "format": "format", "includeFields": "include_fields", "name": "name",
        "metafieldNamespaces": "metafield_namespaces", "callbackUrl": "uri", "uri": "uri",
    }  # fmt: skip
    values = {names[name]: value for name, value in given.items() if name in names}
    for name in ("include_fields", "metafield_namespaces"):
        if name in values:
            values[name] = tuple(values[name] or ())
    return replace(found, **{**values, "uri": values.get("uri") or found.uri})


def _address_error(uri: str) -> str | None:
    parts = urlsplit(uri)
    host = parts.hostname or ""
    if parts.scheme in ("pubsub", "arn"):
        return None
    if not host:
        return "Address is invalid"
    if parts.scheme != "https" and host not in LOOPBACK:
        return f"Address protocol {parts.scheme}:// is not supported"
    if host.endswith((".myshopify.com", ".shopify.com", ".internal", ".local")):
        return "Address cannot be a Shopify or an internal domain"
    return None


def _error(message: str) -> View:
    return {"field": ["webhookSubscription", "callbackUrl"], "message": message}


def _absent() -> View:
    return {"field": ["id"], "message": "Webhook subscription does not exist"}
