"""Forgetting a shop: who takes part, and which lanes are asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import Misconfigured
from app.exactly_once.partitioner import partition_of
from app.exactly_once.store import PartitionStore
from app.redact import OF_SHOPS, redactions, require_gone
from app.services import WORKERS
from app.settings import Settings
from app.shops import Shop

SHOP = "north.myshopify.com"


@pytest.mark.parametrize("partitions", [1, 3, 8, 64])
def test_every_lane_is_asked_once(partitions: int) -> None:
    asked = [partition_of(one.key.encode(), partitions) for one in redactions(SHOP, partitions)]
    assert sorted(asked) == list(range(partitions))


def test_every_service_with_tables_of_shops_takes_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shops = tmp_path / "shops.yaml"
    shops.write_text(f"shops: {{{SHOP}: {{access_token: t, webhook_secret: s, default_location_id: 5}}}}")
    settings = Settings(shops_file=shops, data_dir=tmp_path)
    services = {topic.split(".")[1] for topic in OF_SHOPS if topic.startswith("skustream.")}
    assert services >= {"orders", "shopify", "reconcile"}
    for service in services:
        assert "shopify.redactions" in WORKERS[service](settings).source_topics, service


def test_a_shop_that_is_still_worked_for_is_refused() -> None:
    shop = Shop(domain=SHOP, api_url="", access_token="t", webhook_secrets=(), default_location_id=5)
    require_gone({SHOP: shop}, "south.myshopify.com")
    with pytest.raises(Misconfigured, match="is in the shops file"):
        require_gone({SHOP: shop}, SHOP)


def test_a_store_is_scanned_from_a_prefix_on(tmp_path: Path) -> None:
    store = PartitionStore(tmp_path / "store")
    keys = [b"a/1", b"b", b"b.x/1", b"b/1", b"b/2", b"c/1"]
    store.write(dict.fromkeys(keys, b"1"), 7)
    assert [key for key, _ in store.scan(b"b")] == [b"b", b"b.x/1", b"b/1", b"b/2"]
    assert [key for key, _ in store.scan(b"b/")] == [b"b/1", b"b/2"]
    assert [key for key, _ in store.scan()] == keys
    assert [key for key, _ in store.scan(b"d")] == []
    store.close()
