"""The shops file: which shops there are, where their API is, and where their secrets are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from app.errors import Misconfigured


class Shop(Struct, frozen=True, kw_only=True):
    """One shop. Secrets are never part of its text."""

    domain: str  # "example.myshopify.com"
    api_url: str  # base of the Admin API, without a slash at the end
    access_token: str
    webhook_secrets: tuple[str, ...]  # any of them may have signed: rotation
    default_location_id: int  # where a web order is taken to be allocated

    def __repr__(self) -> str:
        return f"Shop({self.domain!r})"


def load_shops(path: Path) -> dict[str, Shop]:
    """The shops of a shops file, by domain.

    A secret is given as ``name`` itself, or as ``name_env`` (a variable) or ``name_file`` (a path).

    Raises:
        Misconfigured: naming the file, the shop and the field.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise Misconfigured(f"setting SKUSTREAM_SHOPS_FILE: cannot read {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise Misconfigured(f"{path} is not YAML: {error}") from None
    entries = document.get("shops") if isinstance(document, dict) else None
    if not isinstance(entries, dict):
        raise Misconfigured(f"{path}: expected a mapping 'shops' of domain to shop")
    shops = [_shop(path, str(domain).lower(), entry) for domain, entry in entries.items()]
    return {shop.domain: shop for shop in shops}


_SECRETS = ("access_token", "webhook_secret")
_FIELDS = frozenset(
    {"api_url", "default_location_id", "webhook_secrets"}
    | {f"{name}{source}" for name in _SECRETS for source in ("", "_env", "_file")}
)


def _shop(path: Path, domain: str, entry: Any) -> Shop:
    where = f"{path}: shop {domain}"
    if not isinstance(entry, dict):
        raise Misconfigured(f"{where}: expected a mapping of its fields, got {entry!r}")
    unknown = sorted(str(name) for name in entry.keys() - _FIELDS)
    if unknown:
        raise Misconfigured(
            f"{where}: unknown field {', '.join(unknown)}; known are {', '.join(sorted(_FIELDS))}"
        )
    secrets = entry.get("webhook_secrets") or [_secret(where, entry, "webhook_secret")]
    fields = {
        "domain": domain,
        "api_url": str(entry.get("api_url", f"https://{domain}")).rstrip("/"),
        "access_token": _secret(where, entry, "access_token"),
        "webhook_secrets": secrets,
        "default_location_id": entry.get("default_location_id"),
    }
    try:
        return msgspec.convert(fields, Shop)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"{where}: {error}") from None


def _secret(where: str, entry: Mapping[str, Any], name: str) -> str:
    if name in entry:
        return str(entry[name])
    variable, file = entry.get(f"{name}_env"), entry.get(f"{name}_file")
    if variable is not None:
        if variable not in os.environ:
            raise Misconfigured(f"{where}: {name}_env names {variable}, which is not set")
        return os.environ[variable]
    if file is not None:
        try:
            return Path(file).read_text().strip()
        except OSError as error:
            raise Misconfigured(f"{where}: {name}_file {file}: {error.strerror}") from None
    raise Misconfigured(f"{where}: needs {name}, {name}_env or {name}_file")
