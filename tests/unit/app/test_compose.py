"""The compose file, checked by compose itself and against the settings."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.services import SERVICES
from app.settings import Settings

ROOT = Path(__file__).parents[3]


def compose_command() -> list[str] | None:
    """``docker-compose``, or the plugin of the docker client."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        return ["docker", "compose"] if plugin.returncode == 0 else None
    return None


@pytest.mark.skipif(
    compose_command() is None, reason="neither docker-compose nor docker compose is installed"
)
def test_compose_accepts_the_file() -> None:
    command = compose_command()
    assert command is not None
    done = subprocess.run(
        [*command, "-f", str(ROOT / "docker-compose.yml"), "config"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == {"kafka", "topics", "simulator", *SERVICES}


def test_every_service_runs_from_the_image_and_with_known_settings() -> None:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    known = {
        str(field.validation_alias or f"SKUSTREAM_{name.upper()}")
        for name, field in Settings.model_fields.items()
    }
    for name in SERVICES:
        assert services[name]["command"] == ["run", name]
        assert set(services[name]["environment"]) <= known
        assert (
            f":{Settings.model_fields[f'{name}_port'].default}/readyz"
            in services[name]["healthcheck"]["test"][-1]
        )
