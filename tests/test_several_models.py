"""Several models behind one API, as `--engine ray --ray-model` has them; for Ray: test_ray.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.gated import gated
from support.scripted_engine import READY, TEXT_ONLY, ScriptedEngine

from qwen_vl.config import Settings, for_one_replica, load_settings, models_on_cluster

SMALL, LARGE = READY.model_id, "Qwen/Qwen3-Scripted-Large"
BOTH = replace(READY, others=(replace(READY, model_id=LARGE, family=TEXT_ONLY),))


def asked(model: str | None, path: str = "/v1/chat/completions") -> tuple[int, str, ScriptedEngine]:
    """-> (status, the model that the answer names or the refusal, the engine)."""
    engine = ScriptedEngine("Hello", status=BOTH)
    more = {} if model is None else {"model": model}
    said = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
        "/v1/completions": {"prompt": "Hello"},
        "/v1/responses": {"input": "Hello"},
    }[path]
    with gated(engine) as client:
        reply = client.post(path, json={**said, **more}).json()
    told = reply["error"]["message"] if reply.get("error") else reply["model"]
    return 404 if reply.get("error") else 200, told, engine


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize("named", [SMALL, LARGE])
def test_the_model_that_a_request_names_is_asked_and_told(named: str, path: str) -> None:
    status, told, engine = asked(named, path)
    assert (status, told) == (200, named)
    assert engine.requests[-1][1].model == named


def test_a_request_that_names_none_goes_to_the_first() -> None:
    _, told, engine = asked(None)
    assert told == engine.requests[-1][1].model == SMALL


def test_a_name_that_none_of_them_has_is_refused_with_their_names() -> None:
    status, told, _ = asked("gpt-4o")
    assert status == 404
    assert SMALL in told
    assert LARGE in told


def test_where_one_model_runs_any_name_is_that_ones() -> None:
    with gated(ScriptedEngine("Hello")) as client:
        body = {"messages": [{"role": "user", "content": "Hello"}], "model": "gpt-4o"}
        assert client.post("/v1/chat/completions", json=body).json()["model"] == SMALL


def test_all_of_them_are_listed_with_what_they_read() -> None:
    with gated(ScriptedEngine("Hello", status=BOTH)) as client:
        listed = client.get("/v1/models").json()["data"]
        assert [one["id"] for one in listed] == [SMALL, LARGE]
        assert [one["input_modalities"] for one in listed] == [["text", "image"], ["text"]]
        assert client.get(f"/v1/models/{LARGE}").json()["id"] == LARGE
        assert client.get("/health").json()["others"] == {LARGE: "ready"}


def test_each_model_has_settings_of_its_own() -> None:
    flags = "--engine ray --model small --replica-gpus 1 --ray-model large=4 --ray-model other"
    models = models_on_cluster(load_settings(flags.split(), {}))
    assert [(one.model, one.replica_gpus) for one in models] == [
        ("small", 1.0),
        ("large", 4.0),
        ("other", 1.0),
    ]
    assert for_one_replica(models[1]) == Settings(model="large", threads=1)


@pytest.mark.parametrize("told", ["large=many", "=2", "small"])
def test_a_model_that_makes_no_sense_is_refused(told: str) -> None:
    with pytest.raises(SystemExit):
        load_settings(["--engine", "ray", "--model", "small", "--ray-model", told], {})


def test_further_models_go_with_ray_alone() -> None:
    with pytest.raises(SystemExit):
        load_settings(["--ray-model", "large"], {})
