"""The files for containers and services mean what they say. No container engine is needed."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.running_app import ROOT
from support.scripted_engine import ScriptedEngine

from qwen_vl.config import load_settings
from qwen_vl.metrics import Measured, Metrics

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
APP = COMPOSE["services"]["app"]
DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text(encoding="utf-8"))


def steps(name: str) -> list[str]:
    """What follows an instruction of the Dockerfile, in its order."""
    plain = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return re.findall(rf"^\s*{name} (.*)$", plain, re.MULTILINE)


def variables(words: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(words))


# --- the image ---


def test_the_image_runs_as_nobody_special_and_can_be_looked_after() -> None:
    assert steps("USER") == ["demo"]
    assert "useradd --uid 1000" in steps("RUN")[0]
    assert steps("VOLUME") == ["/data"]
    assert "/health" in DOCKERFILE.partition("HEALTHCHECK")[2]
    assert steps("ARG") == ["TORCH=cpu"]


def test_the_image_takes_in_what_is_there_and_its_ignore_file_lets_through() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines  # all else stays outside
    assert all((ROOT / name).exists() for name in kept)
    for copied in steps("COPY"):
        *sources, _ = copied.split()
        assert all(any(name.startswith(source) for name in kept) for source in sources)


def test_the_images_settings_are_settings_and_it_writes_to_its_volume() -> None:
    told = variables(steps("ENV")[0])
    settings = load_settings([], told)
    assert settings.host == "0.0.0.0"
    assert settings.job_file.startswith("/data/")
    assert told["HF_HOME"].startswith("/data/")


# --- compose ---


def test_the_composed_app_asks_the_composed_server() -> None:
    environ = {**APP["environment"], "QWEN_VL_API_KEY": "secret"}
    settings = load_settings([], environ)
    (url,) = settings.base_url
    assert urlsplit(url).hostname in COMPOSE["services"]
    assert APP["read_only"] is True
    assert APP["cap_drop"] == ["ALL"]


def test_prometheus_has_the_key_and_a_name_that_is_allowed() -> None:
    jobs = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    (ours,) = (job for job in jobs["scrape_configs"] if job["job_name"] == "qwen-vl")
    (target,) = ours["static_configs"][0]["targets"]
    assert target.partition(":")[0] in APP["environment"]["QWEN_VL_ALLOWED_HOST"]
    secret = ours["authorization"]["credentials_file"].rpartition("/")[2]
    assert COMPOSE["secrets"][secret] == {"environment": "QWEN_VL_API_KEY"}
    assert secret in COMPOSE["services"]["prometheus"]["secrets"]


def test_every_file_that_is_mounted_is_there() -> None:
    mounts = [mount for one in COMPOSE["services"].values() for mount in one.get("volumes", [])]
    names = [mount.partition(":")[0] for mount in mounts]
    assert [name for name in names if name.startswith(".") and not (ROOT / name).exists()] == []
    assert {name for name in names if not name.startswith(".")} == set(COMPOSE["volumes"])


# --- the dashboard ---


def figures() -> Iterator[tuple[str, set[str]]]:
    """(family, names of its figures) of everything in /metrics."""
    metrics = Metrics()
    Measured(ScriptedEngine(), metrics)
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    for family in text_string_to_metric_families(metrics.text().decode()):
        if not family.name.endswith("_created"):  # when a counter began
            yield family.name, {family.name + end for end in suffixes.get(family.type, ("",))}


@pytest.fixture(scope="module")
def names() -> set[str]:
    return {name for _, names in figures() for name in names}


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_every_panel_shows_figures_that_are_there(panel: dict[str, Any], names: set[str]) -> None:
    assert panel["targets"]
    for target in panel["targets"]:
        asked = set(re.findall(r"\b(?:qwen_vl|process)_\w+", target["expr"]))
        assert asked
        assert asked <= names


def test_every_figure_of_ours_has_a_panel() -> None:
    told = " ".join(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
    ours = [(family, names) for family, names in figures() if family.startswith("qwen_vl_")]
    assert [family for family, names in ours if not any(name in told for name in names)] == []


# --- services without containers ---


def test_the_service_has_variables_that_are_settings_and_time_to_end() -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    text = (DEPLOY / "qwen-vl.service").read_text(encoding="utf-8")
    unit.read_string(text)
    (first, *_) = re.findall(r"^Environment=(.*)$", text, re.MULTILINE)
    settings = load_settings([], variables(first))
    assert settings.job_file.startswith(f"/var/lib/{unit['Service']['StateDirectory']}/")
    assert int(unit["Service"]["TimeoutStopSec"]) > settings.shutdown_seconds


@pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile"])
def test_the_proxies_flags_are_flags(name: str) -> None:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    (flags,) = re.findall(r"The demo's side: (.*)", text)
    load_settings([*shlex.split(flags), "--root-path", "/demo"], {})
    assert "127.0.0.1:7860" in text
