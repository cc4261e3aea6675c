"""Every setting of skustream: one typed object, read once from the environment (and ``.env``)."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import BrokerUnavailable, Misconfigured

PREFIX = "SKUSTREAM_"


class Settings(BaseSettings):
    """The settings. Variables have the prefix ``SKUSTREAM_``; Kafka's own keep their usual names."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, populate_by_name=True, extra="ignore")

    bootstrap_servers: str = Field("127.0.0.1:9092", validation_alias="KAFKA_BOOTSTRAP_SERVERS")
    """Kafka brokers, comma-separated host:port."""
    security_protocol: str = Field(
        "PLAINTEXT",
        validation_alias="KAFKA_SECURITY_PROTOCOL",
        pattern="^(PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)$",
    )
    """PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
    sasl_mechanism: str = Field("PLAIN", validation_alias="KAFKA_SASL_MECHANISM")
    """PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."""
    sasl_username: str | None = Field(None, validation_alias="KAFKA_SASL_USERNAME")
    sasl_password: SecretStr | None = Field(None, validation_alias="KAFKA_SASL_PASSWORD")
    ssl_cafile: Path | None = Field(None, validation_alias="KAFKA_SSL_CAFILE")
    """CA certificates that sign the brokers' certificates; the system's by default."""

    data_dir: Path = Path(".skustream/data")
    """Local stores; each worker needs one of its own."""
    shops_file: Path = Path("shops.yaml")
    """The shops and where their secrets are: see shops.example.yaml."""
    partitions: int = Field(8, ge=1, le=1024)
    """Partitions of every topic of the pipeline; fixed once the topics exist."""
    replication_factor: int = Field(1, ge=1, le=9)
    min_insync_replicas: int = Field(1, ge=1, le=9)
    retention_days: int = Field(30, ge=1)
    """How long movements, webhooks, pushes and alerts are kept."""
    dead_letter_retention_days: int = Field(90, ge=1)
    seen_days: int = Field(120, ge=1)
    """How long a movement id is remembered: longer than any topic or dead letter can bring it back."""
    session_timeout_s: float = Field(10.0, ge=6.0, le=300.0)
    """How long a dead worker keeps its partitions."""
    standby_replicas: int = Field(0, ge=0, le=9)
    """Further workers that keep a copy of each lane's stores: a failover then restores only their tail."""
    instance_id: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,249}$")
    """A name of this worker that outlives it (static membership): a restart within the session timeout moves
    no partition. Unique among the workers of a service.
    """
    max_refusals: int = Field(5, ge=1)
    """How often a listing may be refused by its shop before it goes to the dead-letter topic."""
    hand_edit_s: float = Field(600.0, ge=1.0)
    """How long a level that nothing explains must stay the same before it is taken for a hand edit: longer
    than Shopify's webhooks are late. What has reached Kafka, or the catch-up can find, is waited for besides.
    """
    low_water: int = Field(0, ge=0)
    """Alert `low` at this many available units; 0 is off."""
    reconcile_sweep_s: float = Field(3600.0, ge=60.0)
    """How often every listing is compared with its shop, in seconds."""
    reconcile_sample_s: float = Field(60.0, ge=1.0)
    """How often 50 listings of each shop are compared, in turn; what nothing explains comes first."""
    reconcile_settle_s: float = Field(900.0, ge=0.0)
    """How long a webhook, or the reading of missed orders, may take; nothing younger is corrected."""
    reconcile_quiet_s: float = Field(30.0, ge=0.0)
    """How long nothing may have happened to a listing that is corrected: some reads are behind by as much."""
    reconcile_max_units: int = Field(10, ge=0)
    """The largest unexplained difference, in units, that is corrected without `skustream reconcile apply`."""
    catch_up_s: float = Field(180.0, ge=1.0, le=86_400.0)
    """How often each shop is asked for changed orders, to find those whose webhooks never came."""
    public_url: str | None = Field(None, pattern=r"^https?://[^/\s]+(/[^\s?#]*)?$")
    """Where Shopify reaches the receiver, e.g. https://hooks.example.com: shops are kept subscribed to it.
    Unset, subscriptions are not looked after (an app's own configuration may have them).
    """
    receiver_host: str = "127.0.0.1"
    receiver_port: int = Field(8080, ge=1, le=65535)
    orders_port: int = Field(8081, ge=1, le=65535)
    stock_port: int = Field(8082, ge=1, le=65535)
    shopify_port: int = Field(8083, ge=1, le=65535)
    reconcile_port: int = Field(8084, ge=1, le=65535)
    simulator_port: int = Field(8090, ge=1, le=65535)
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    log_json: bool = False

    def kafka_options(self) -> dict[str, Any]:
        """The connection arguments of every aiokafka client."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.endswith("SSL"):
            cafile = str(self.ssl_cafile) if self.ssl_cafile else None
            options["ssl_context"] = ssl.create_default_context(cafile=cafile)
        if self.security_protocol.startswith("SASL"):
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = (
                self.sasl_password.get_secret_value() if self.sasl_password else None
            )
        return options


def unavailable(settings: Settings, error: Exception) -> BrokerUnavailable:
    """What to tell when no client can be started; a broker hangs up on wrong credentials without a word."""
    what = f"no Kafka broker answers at {settings.bootstrap_servers} (KAFKA_BOOTSTRAP_SERVERS)"
    if settings.security_protocol.startswith("SASL"):
        what += ", or it refuses KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
    elif settings.security_protocol == "PLAINTEXT":
        what += ", or it does not speak PLAINTEXT (KAFKA_SECURITY_PROTOCOL)"
    return BrokerUnavailable(f"{what}: {error}")


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Raises:
        Misconfigured: naming an unknown ``SKUSTREAM_`` variable, or a variable with a bad value.
    """
    known = {
        PREFIX + name.upper() for name, field in Settings.model_fields.items() if not field.validation_alias
    }
    names = os.environ if environment is None else environment
    unknown = sorted(name for name in names if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise Misconfigured(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    try:
        return Settings()
    except ValidationError as error:
        raise Misconfigured("; ".join(_problem(problem) for problem in error.errors())) from None


def _problem(problem: Mapping[str, Any]) -> str:
    name = str(problem["loc"][0])
    variable = name if name.startswith("KAFKA_") else PREFIX + name.upper()
    return f"setting {variable}: {problem['msg']}, got {problem['input']!r}"
