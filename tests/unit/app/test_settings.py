"""Settings and the shops file: what is wrong is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.errors import Misconfigured
from app.settings import Settings, load_settings
from app.shops import load_shops

ROOT = Path(__file__).parents[3]


def test_an_unknown_variable_is_named() -> None:
    with pytest.raises(Misconfigured, match="unknown setting SKUSTREAM_PARTITION; known are"):
        load_settings({"SKUSTREAM_PARTITION": "8"})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SKUSTREAM_PARTITIONS", "0"),
        ("SKUSTREAM_PARTITIONS", "many"),
        ("SKUSTREAM_STOCK_PORT", "70000"),
        ("SKUSTREAM_LOG_LEVEL", "loud"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(Misconfigured, match=f"setting {variable}: .*{value}"):
        load_settings()


def test_kafkas_security_settings_reach_every_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "one:9092,two:9092")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "someone")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "example-password")
    settings = load_settings()
    options = settings.kafka_options()
    context = options.pop("ssl_context")
    assert context.verify_mode.name == "CERT_REQUIRED"
    assert options == {
        "bootstrap_servers": "one:9092,two:9092",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "someone",
        "sasl_plain_password": "example-password",
    }
    assert "example-password" not in repr(settings)


def test_the_example_names_every_setting_with_its_default() -> None:
    documented = dict(re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    fields = {
        str(field.validation_alias or f"SKUSTREAM_{name.upper()}"): field.default
        for name, field in Settings.model_fields.items()
    }
    assert documented.keys() == fields.keys()
    for name, text in documented.items():
        default = fields[name]
        shown = "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)
        assert text.lower() == shown.lower(), name


GOOD = "access_token: t, webhook_secret: s, default_location_id: 5"


def shops_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "shops.yaml"
    path.write_text(text)
    return path


def test_secrets_come_from_variables_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "example-token")
    (tmp_path / "secret").write_text("example-secret\n")
    path = shops_file(
        tmp_path,
        f"shops: {{a.myshopify.com: {{access_token_env: TOKEN, webhook_secret_file: {tmp_path}/secret, "
        "default_location_id: 5}}",
    )
    shop = load_shops(path)["a.myshopify.com"]
    assert (shop.access_token, shop.webhook_secrets) == ("example-token", ("example-secret",))
    assert shop.api_url == "https://a.myshopify.com"
    assert "example-token" not in repr(shop)


def test_an_app_has_an_id_and_a_secret_that_also_signs_webhooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_SECRET", "example-secret\n")
    text = (
        "shops: {a.b: {client_id: example-id, client_secret_env: APP_SECRET, default_location_id: 5, "
        "locations: {5: main, 6: store}, hand_edits: import, shadow_locations: [6]}}"
    )
    shop = load_shops(shops_file(tmp_path, text))["a.b"]
    assert (shop.client_id, shop.client_secret, shop.access_token) == ("example-id", "example-secret", "")
    assert shop.webhook_secrets == ("example-secret",)
    assert (shop.locations, shop.hand_edits) == ({5: "main", 6: "store"}, "import")
    assert (shop.shadow, shop.shadow_locations) == (False, {6})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shops: [a]", "expected a mapping 'shops'"),
        ("{", "is not YAML"),
        ("shops: {a.b: {webhook_secret: s, default_location_id: 5}}", "shop a.b: needs access_token"),
        ("shops: {a.b: {access_token_env: NOPE, webhook_secret: s}}", "names NOPE, which is not set"),
        ("shops: {a.b: {access_token: t, webhook_secret: s}}", "default_location_id"),
        ("shops: {a.b: }", "shop a.b: expected a mapping"),
        ("shops: {a.b: {acess_token: t}}", "shop a.b: unknown field acess_token"),
        ("shops: {a.b: {access_token: t, client_id: i}}", "both access_token and client_id"),
        ("shops: {a.b: {client_id: i}}", "needs client_secret, client_secret_env"),
        ("shops: {a.b: {access_token: '', webhook_secret: s}}", "access_token is empty"),
        ("shops: {a.b: {access_token: t, webhook_secrets: []}}", "webhook_secrets is empty"),
        ("shops: {a/b: {access_token: t, webhook_secret: s}}", "'a/b' is not a domain"),
        (f"shops: {{a.b: {{{GOOD}, hand_edits: ignore}}}}", "hand_edits"),
        (f"shops: {{a.b: {{{GOOD}, locations: {{5: 'my place'}}}}}}", "locations"),
        (f"shops: {{a.b: {{{GOOD}, locations: {{main: 5}}}}}}", "locations"),
        (f"shops: {{a.b: {{{GOOD}, shadow: maybe}}}}", "shadow"),
        (f"shops: {{a.b: {{{GOOD}, shadow_locations: [x]}}}}", "shadow_locations"),
        (f"shops: {{a.b: {{{GOOD}}}, A.B: {{{GOOD}}}}}", "shop a.b is there twice"),
    ],
)
def test_a_bad_shops_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(Misconfigured, match=message):
        load_shops(shops_file(tmp_path, text))


def test_a_missing_shops_file_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="SKUSTREAM_SHOPS_FILE"):
        load_shops(tmp_path / "none.yaml")


def test_the_examples_of_the_shops_file_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert len(load_shops(ROOT / "ops" / "docker" / "shops.yaml")) == 2
    for name in ("EXAMPLE_CLIENT_ID", "EXAMPLE_CLIENT_SECRET", "SECOND_SHOP_TOKEN"):
        monkeypatch.setenv(name, "example-value")
    (tmp_path / "secret").write_text("example-secret")
    text = (ROOT / "shops.example.yaml").read_text()
    path = shops_file(tmp_path, text.replace("/run/secrets/second-shop-webhook", str(tmp_path / "secret")))
    assert list(load_shops(path)) == ["example.myshopify.com", "second.myshopify.com"]
