"""The shops file: which shops there are, how to reach them, and what may be done there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

from app.errors import Misconfigured
from app.records import LocationCode

HandEdits = Literal["import", "overrule", "report"]
"""What follows when a merchant changes stock in Shopify's admin: `import` takes it as an adjustment of ours,
`overrule` writes our value back, `report` only records the difference.
"""
OrderLocations = Literal["read", "default"]
"""How to know where a web order is to leave from: `read` asks for its fulfilment orders; `default` takes it
to be the default location, which saves the calls where a shop has no other.
"""
ShopifyId = Annotated[int, Meta(gt=0)]

DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")
"""A shop's domain begins Kafka keys that are split at ``/``, so it is nothing but a host name."""
DOMAIN_CHARACTERS = 253
"""The longest host name (RFC 1035)."""
SECRETS = ("access_token", "client_id", "client_secret", "webhook_secret")
"""Fields that may be given as such, as the variable that holds them (``_env``) or as a file (``_file``)."""
PLAIN = ("default_location_id", "order_locations", "locations", "hand_edits", "shadow", "shadow_locations")
FIELDS = frozenset(
    {"api_url", "webhook_secrets", *PLAIN}
    | {f"{name}{source}" for name in SECRETS for source in ("", "_env", "_file")}
)
"""Every field that an entry of the shops file may have."""


class Shop(Struct, frozen=True, kw_only=True):
    """One shop. Secrets are never part of its text.

    It has an access token that does not expire, or the id and secret of an app of the shop's own
    organisation, for which tokens of 24 hours are requested (client-credentials grant).
    """

    domain: str  # "example.myshopify.com"
    api_url: str  # base of the Admin API, without a slash at the end
    access_token: str = ""
    client_id: str = ""
    client_secret: str = ""
    webhook_secrets: tuple[str, ...]  # any of them may have signed: rotation
    default_location_id: ShopifyId  # where a web order is taken to be allocated
    order_locations: OrderLocations = "read"
    locations: dict[ShopifyId, LocationCode] = {}  # Shopify location id to our code, for catalog sync
    hand_edits: HandEdits = "report"
    shadow: bool = False  # everything happens but the writing calls
    shadow_locations: frozenset[ShopifyId] = frozenset()  # the same at these Shopify locations only

    def __repr__(self) -> str:
        return f"Shop({self.domain!r})"


def load_shops(path: Path) -> dict[str, Shop]:
    """The shops of a shops file, by domain.

    A secret is given as ``name`` itself, or as ``name_env`` (a variable) or ``name_file`` (a path).

    Raises:
        Misconfigured: naming the file, the shop and the field.
    """
    shops: dict[str, Shop] = {}
    for name, entry in read_entries(path).items():
        shop = shop_of(f"{path}: shop {name}", str(name).lower(), entry)
        if shop.domain in shops:
            raise Misconfigured(f"{path}: shop {shop.domain} is there twice")
        shops[shop.domain] = shop
    return shops


def read_entries(path: Path) -> dict[str, Any]:
    """The entries of a shops file as they are written, by domain.

    Raises:
        Misconfigured: naming the file.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise Misconfigured(f"setting SKUSTREAM_SHOPS_FILE: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} is not YAML: {error}") from None
    entries = document.get("shops") if isinstance(document, dict) else None
    if not isinstance(entries, dict):
        raise Misconfigured(f"{path}: expected a mapping 'shops' of domain to shop")
    return entries


def shop_of(where: str, domain: str, entry: Any) -> Shop:
    """The shop that an entry describes, with its secrets; ``where`` begins every error.

    Raises:
        Misconfigured: naming the field.
    """
    if len(domain) > DOMAIN_CHARACTERS or not DOMAIN.fullmatch(domain):
        raise Misconfigured(f"{where}: {domain[:80]!r} is not a domain such as example.myshopify.com")
    if not isinstance(entry, dict):
        raise Misconfigured(f"{where}: expected a mapping of its fields, got {type(entry).__name__}")
    unknown = sorted(str(name) for name in entry.keys() - FIELDS)
    if unknown:
        raise Misconfigured(
            f"{where}: unknown field {', '.join(unknown)}; known are {', '.join(sorted(FIELDS))}"
        )
    access = _access(where, entry)
    fields = {
        "domain": domain,
        "api_url": str(entry.get("api_url", f"https://{domain}")).rstrip("/"),
        "default_location_id": None,
        "webhook_secrets": _webhook_secrets(where, entry, access),
        **access,
        **{name: entry[name] for name in PLAIN if name in entry},
    }
    try:
        return msgspec.convert(fields, Shop)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"{where}: {error}") from None


def _access(where: str, entry: Mapping[str, Any]) -> dict[str, str]:
    """A token, or an app's id and secret."""
    token, app_id, app_secret, _ = (_given(entry, name) for name in SECRETS)
    if token and (app_id or app_secret):
        raise Misconfigured(
            f"{where}: has both access_token and client_id or client_secret; give one of them"
        )
    if app_id or app_secret:
        return {name: _secret(where, entry, name) for name in ("client_id", "client_secret")}
    if not token:
        raise Misconfigured(
            f"{where}: needs access_token, access_token_env or access_token_file, or client_id and "
            "client_secret in one of these forms"
        )
    return {"access_token": _secret(where, entry, "access_token")}


def _webhook_secrets(where: str, entry: Mapping[str, Any], access: Mapping[str, str]) -> Any:
    """What signs webhooks: the app's client secret, unless another one is given."""
    if "webhook_secrets" in entry:
        if not entry["webhook_secrets"]:
            raise Misconfigured(f"{where}: webhook_secrets is empty")
        return entry["webhook_secrets"]
    if not _given(entry, "webhook_secret") and "client_secret" in access:
        return [access["client_secret"]]
    return [_secret(where, entry, "webhook_secret")]


def _given(entry: Mapping[str, Any], name: str) -> bool:
    return any(f"{name}{source}" in entry for source in ("", "_env", "_file"))


def _secret(where: str, entry: Mapping[str, Any], name: str) -> str:
    """A secret's value; never empty, because an empty one would sign and open anything."""
    secret = _secret_of(where, entry, name)
    if not secret:
        raise Misconfigured(f"{where}: {name} is empty")
    return secret


def _secret_of(where: str, entry: Mapping[str, Any], name: str) -> str:
    if name in entry:
        return str(entry[name] or "")
    variable, file = entry.get(f"{name}_env"), entry.get(f"{name}_file")
    if variable is not None:
        if variable not in os.environ:
            raise Misconfigured(f"{where}: {name}_env names {variable}, which is not set")
        return os.environ[variable].strip()
    if file is not None:
        try:
            return Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            told = error.strerror if isinstance(error, OSError) else "not text"
            raise Misconfigured(f"{where}: {name}_file {file}: {told}") from None
    raise Misconfigured(f"{where}: needs {name}, {name}_env or {name}_file")
