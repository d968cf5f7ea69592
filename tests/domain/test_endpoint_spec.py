"""Every rule of a spec is told at its field, and what holds survives being written down."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelops_dagster.domain.endpoint_spec import EndpointSpec, VolumeClaim
from modelops_dagster.domain.endpoint_spec.changes import (
    CHANGES,
    changed_fields,
    changes_while_running,
    refused_change,
    updated,
)
from modelops_dagster.domain.endpoint_spec.complaints import invalid_spec
from modelops_dagster.domain.endpoint_spec.this_machine import notices_here, refusal_here
from modelops_dagster.domain.errors import Conflict, InvalidSpec

ENGINE = {
    "name": "small",
    "checkpoint": "/store/acme/small/abc",
    "checkpoint_digest": "sha256:0",
    "engine": "vllm",
    "served_model_name": "acme/small@abc",
}
PORTS = {"http": {"port": 8200}}
PROBE = {"path": "/health", "port": 8200}
CONTAINER = {
    "name": "theirs",
    "deployment": {"type": "container", "image": "ghcr.io/acme/server:1"},
    "served_model_name": "m",
    "ports": PORTS,
    "healthcheck": PROBE,
}
API = {"url": "http://host:8080/v1/completions", "model_id": "m"}
EXTERNAL = {"name": "theirs", "deployment": {"type": "none"}, "target": {"api_endpoint": API}}


def spec(base: dict[str, Any] | None = None, **changes: Any) -> EndpointSpec:
    return EndpointSpec.model_validate({**(base or ENGINE), **changes})


def complaint(base: dict[str, Any], **changes: Any) -> InvalidSpec:
    with pytest.raises(ValidationError) as caught:
        spec(base, **changes)
    return invalid_spec(caught.value)


def scaling(*targets: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"targets": list(targets or [{"metric": "concurrency", "target": 8}]), **more}


@pytest.mark.parametrize(
    ("base", "changes", "field", "said"),
    [
        (ENGINE, {"checkpoint": ""}, "checkpoint", "checkpoint is missing."),
        (ENGINE, {"engine": ""}, "engine", "engine is missing."),
        (ENGINE, {"served_model_name": ""}, "served_model_name", "at least 1 character"),
        (ENGINE, {"colour": "red"}, "colour", "is not a field of this document"),
        (ENGINE, {"name": "a"}, "name", "at least 2 characters"),
        (ENGINE, {"name": "-small"}, "name", "start with a letter"),
        (ENGINE, {"name": "small--one"}, "name", "single '-'"),
        (ENGINE, {"model": "small"}, "model", "write org/name@commit"),
        (ENGINE, {"cpu_request": 0}, "cpu_request", "greater than 0"),
        (ENGINE, {"memory_request": -1}, "memory_request", "greater than 0"),
        (ENGINE, {"cpu_request": "two"}, "cpu_request", "write a number of vCPU"),
        (ENGINE, {"memory_limit": "4GB"}, "memory_limit", "16Gi or 512Mi"),
        (ENGINE, {"cpu_request": 4, "cpu_limit": 2}, "cpu_limit", "must be at least cpu_request, which is 4"),
        (ENGINE, {"memory_request": "2Gi", "memory_limit": "512Mi"}, "memory_limit", "at least memory_request"),
        (ENGINE, {"min_replicas": 2}, "max_replicas", "must be at least min_replicas, which is 2"),
        (ENGINE, {"max_replicas": 0}, "max_replicas", "greater than or equal to 1"),
        (ENGINE, {"min_replicas": 0}, "min_replicas", "needs scale_to_zero: true"),
        (ENGINE, {"autoscale_config": {"targets": []}}, "autoscale_config.targets", "at least 1 item"),
        (ENGINE, {"autoscale_config": scaling({"metric": "mood", "target": 1})}, None, "'queue_length'"),
        (ENGINE, {"autoscale_config": scaling({"metric": "gpu", "target": 101})}, None, "cannot be above 100"),
        (
            ENGINE,
            {"autoscale_config": scaling({"metric": "cpu", "target": 9, "percentile": 95})},
            None,
            "percentile is of latency",
        ),
        (ENGINE, {"autoscale_config": scaling({"metric": "latency", "target": 9, "percentile": 99})}, None, "95"),
        (
            ENGINE,
            {"autoscale_config": scaling({"metric": "queue_length", "target": 9})},
            "autoscale_config.targets",
            "only an ASYNC endpoint has",
        ),
        (
            ENGINE,
            {"autoscale_config": scaling(cooldown_period=60)},
            "autoscale_config.cooldown_period",
            "needs scale_to_zero: true",
        ),
        (ENGINE, {"cluster": "west"}, "nodegroups", "node groups of the cluster to be deployed on is expected"),
        (ENGINE, {"nodegroups": ["a"]}, "cluster", "is missing"),
        (ENGINE, {"nodes": 2, "gpus": 9}, "gpus", "multiple of nodes"),
        (ENGINE, {"env_variables": {"A": "1"}}, "env_variables", "use engine_environment"),
        (ENGINE, {"deployment_custom_configuration": {"command": ["a"]}}, None, "is of imported containers"),
        (ENGINE, {"target": {"api_endpoint": API}, "served_model_name": "m"}, "target", "set deployment.type to none"),
        (ENGINE, {"deployment": {"image": "a:1"}}, "deployment.image", "set deployment.type to container"),
        (ENGINE, {"ports": {"grpc": {"port": 9000}}}, "ports.http", "is missing"),
        (ENGINE, {"ports": {**PORTS, "udp": {"port": 1}}}, "ports.udp", "is not a field"),
        (ENGINE, {"healthcheck": {"port": 8200}}, "healthcheck.path", "is missing"),
        (ENGINE, {"healthcheck": {"path": "/health"}}, "healthcheck.port", "is missing"),
        (ENGINE, {"healthcheck": {"path": "health", "port": 1}}, "healthcheck.path", "starts with '/'"),
        (ENGINE, {"healthcheck": {**PROBE, "initialDelaySeconds": -1}}, "healthcheck.initialDelaySeconds", "to 0"),
        (ENGINE, {"healthcheck": {**PROBE, "periodSeconds": 0}}, "healthcheck.periodSeconds", "to 1"),
        (ENGINE, {"healthcheck": {**PROBE, "timeoutSeconds": 0}}, "healthcheck.timeoutSeconds", "to 1"),
        (ENGINE, {"ports": PORTS, "healthcheck": {**PROBE, "port": 1}}, "healthcheck.port", "none of the ports"),
        (ENGINE, {"persistent_volume_claims": [{"mount_path": "data", "size": "5"}]}, None, "not an absolute path"),
        (ENGINE, {"persistent_volume_claims": [{"mount_path": "/a", "size": "0"}]}, None, "whole number of Gi"),
        (ENGINE, {"persistent_volume_claims": [{"mount_path": "/a", "size": 1, "access_mode": "R"}]}, None, "Many"),
        (ENGINE, {"persistent_volume_claims": [{"mount_path": "/a", "size": 1}] * 2}, None, "twice"),
        (
            ENGINE,
            {"advanced_configuration": {"runtime_overrides": {"consumer_count": 3}}},
            "advanced_configuration.runtime_overrides.consumer_count",
            "set async_deployment_type to ASYNC",
        ),
        (ENGINE, {"usd_per_hour": -1}, "usd_per_hour", "to 0"),
        (ENGINE, {"request_timeout_seconds": 0}, "request_timeout_seconds", "greater than 0"),
        (ENGINE, {"visibility": "secret"}, "visibility", "'private'"),
        (ENGINE, {"deployment_tag": "beta"}, "deployment_tag", "'staging'"),
        (ENGINE, {"engine_environment": {"LD_PRELOAD": "/x"}}, "engine_environment", "not a variable of an engine"),
        (CONTAINER, {"deployment": {"type": "container"}}, "deployment.image", "name the image"),
        (CONTAINER, {"deployment": {"type": "container", "image": "a b"}}, "deployment.image", "registry/name:tag"),
        (CONTAINER, {"ports": None}, "ports", "must say which port it listens on"),
        (CONTAINER, {"healthcheck": None}, "healthcheck", "how it is probed"),
        (CONTAINER, {"engine_args": ["--a"]}, "engine_args", "is told what to do by its command"),
        (CONTAINER, {"engine": "vllm"}, "engine", "deployment.type is container"),
        (CONTAINER, {"async_deployment_type": "ASYNC"}, "async_deployment_type", "use SYNC"),
        (CONTAINER, {"deployment_custom_configuration": {"entrypoint": []}}, None, "at least 1 item"),
        (CONTAINER, {"deployment_custom_configuration": {"workingDir": "app"}}, None, "not an absolute path"),
        (CONTAINER, {"env_variables": {"A-B": "1"}}, "env_variables", "is not the name of a variable"),
        (CONTAINER, {"env_variables": {"API_TOKEN": "s3cr3t"}}, "env_variables", "write ${API_TOKEN}"),
        (EXTERNAL, {"target": None}, "target", "give target.api_endpoint.url"),
        (EXTERNAL, {"gpus": 1}, "gpus", "starts nothing; leave it out"),
        (EXTERNAL, {"max_replicas": 3}, "max_replicas", "that somebody else serves"),
        (EXTERNAL, {"checkpoint": "/a"}, "checkpoint", "deployment.type is none"),
        (EXTERNAL, {"served_model_name": "other"}, "served_model_name", "leave it out"),
        (EXTERNAL, {"target": {"api_endpoint": {**API, "url": "host:1"}}}, None, "not a URL such as"),
        (EXTERNAL, {"target": {"api_endpoint": {**API, "url": "http://me:pw@host/v1"}}}, None, "no user name"),
        (EXTERNAL, {"target": {"api_endpoint": {**API, "api_key": "sk-123"}}}, None, "a key in clear"),
        (EXTERNAL, {"target": {"api_endpoint": {**API, "api_key_name": "sk-123"}}}, None, "does not name a variable"),
        (EXTERNAL, {"target": {"api_endpoint": {**API, "api_key_name": "HF_TOKEN"}}}, None, "is never sent"),
        (EXTERNAL, {"target": {"api_endpoint": {**API, "api_key_name": "LITELLM_MASTER_KEY"}}}, None, "never sent"),
    ],
)
def test_what_does_not_hold_is_told_at_its_field(
    base: dict[str, Any], changes: dict[str, Any], field: str | None, said: str
):
    error = complaint(base, **changes)
    assert said in error.sentence
    if field is not None:
        assert error.field == field
    assert error.field is not None
    assert error.sentence.startswith(error.field)


def test_several_problems_are_counted_and_the_place_is_named():
    with pytest.raises(ValidationError) as caught:
        spec(cpu_request=4, cpu_limit=2, cluster="west")
    said = invalid_spec(caught.value, "small.yaml").sentence
    assert said.startswith("small.yaml: cpu_limit is 2 and must be at least")
    assert said.endswith("(1 more does not hold either.)")


@pytest.mark.parametrize("base", [ENGINE, CONTAINER, EXTERNAL])
def test_a_spec_survives_being_written_down(base: dict[str, Any]):
    whole = spec(base, usd_per_hour=1.5, deployment_tag="testing")
    assert EndpointSpec.model_validate_json(whole.model_dump_json()) == whole
    assert EndpointSpec.model_validate(whole.model_dump(mode="json", exclude_defaults=True)) == whole


def test_nobody_is_let_in_unless_a_spec_says_so():
    assert spec().visibility == "private"
    assert spec().deployment_tag == "production"


def test_amounts_are_read_as_kubernetes_writes_them():
    read = spec(cpu_request="500m", cpu_limit="2", memory_request="512Mi", memory_limit="1Ti")
    assert (read.cpu_request, read.cpu_limit, read.memory_request, read.memory_limit) == (0.5, 2.0, 0.5, 1024.0)


def test_parts_are_written_under_the_names_kubernetes_has():
    written = spec(CONTAINER, deployment_custom_configuration={"workingDir": "/app"}).model_dump(mode="json")
    assert written["healthcheck"] == {**PROBE, "initialDelaySeconds": 30, "periodSeconds": 10, "timeoutSeconds": 5}
    assert written["deployment_custom_configuration"]["workingDir"] == "/app"


def test_volumes_get_a_name_from_their_path():
    assert VolumeClaim.model_validate({"mount_path": "/Data/cache", "size": "50Gi"}).volume_name == "pvc-data-cache"
    assert VolumeClaim.model_validate({"mount_path": "/", "size": 5}).volume_name == "pvc-root"
    assert VolumeClaim.model_validate({"mount_path": "/a", "size": 5, "name": "mine"}).volume_name == "mine"


def test_an_endpoint_of_somebody_elses_answers_to_the_name_its_owner_gave_it():
    external = spec(EXTERNAL)
    assert external.is_external
    assert external.served_model_name == "m"
    api = external.target.api_endpoint if external.target else None
    assert api is not None
    assert (api.base_url, api.api) == ("http://host:8080/v1", "completions")
    keyed = spec(EXTERNAL, target={"api_endpoint": {**API, "api_key": "${MY_API_KEY}"}})
    assert keyed.target is not None
    assert keyed.target.api_endpoint.api_key_name == "MY_API_KEY"


# what may change when


def test_the_table_of_changes_covers_every_field():
    assert set(CHANGES) == set(EndpointSpec.model_fields)


@pytest.mark.parametrize("name", ["max_replicas", "usd_per_hour", "priority", "autoscale_config"])
def test_what_may_change_while_it_runs(name: str):
    values = {"max_replicas": 4, "usd_per_hour": 2.0, "priority": "production", "autoscale_config": scaling()}
    new = updated(spec(), {name: values[name]})
    assert changed_fields(spec(), new) == (name,)
    assert changes_while_running(spec(), new)
    assert refused_change(spec(), new, stopped=False) is None


def test_what_needs_a_stop():
    new = updated(spec(), {"engine_args": ["--dtype", "bfloat16"], "gpus": 2})
    said = refused_change(spec(), new, stopped=False)
    assert isinstance(said, Conflict)
    assert "must be Stopped before engine_args, gpus can change" in said.sentence
    assert refused_change(spec(), new, stopped=True) is None
    assert not changes_while_running(spec(), new)


def test_what_never_changes():
    said = refused_change(spec(), updated(spec(), {"checkpoint_digest": "sha256:1"}), stopped=True)
    assert isinstance(said, InvalidSpec)
    assert said.field == "checkpoint_digest"
    assert "make another endpoint" in said.sentence


def test_an_update_names_only_fields_there_are():
    with pytest.raises(InvalidSpec, match="colour is not a field of a spec"):
        updated(spec(), {"colour": "red"})
    with pytest.raises(InvalidSpec, match="max_replicas is 1 and must be at least min_replicas, which is 7"):
        updated(spec(), {"min_replicas": 7})


# this machine


@pytest.mark.parametrize(
    ("base", "changes", "field"),
    [
        (CONTAINER, {}, "deployment.type"),
        (ENGINE, {"cluster": "west", "nodegroups": ["a"]}, "cluster"),
        (ENGINE, {"nodes": 2, "gpus": 16}, "nodes"),
        (ENGINE, {"persistent_volume_claims": [{"mount_path": "/a", "size": 1}]}, "persistent_volume_claims"),
        (ENGINE, {"ports": PORTS}, "ports"),
        (ENGINE, {"ports": {**PORTS, "grpc": {"port": 9000}}}, "ports.grpc"),
        (ENGINE, {"healthcheck": PROBE}, "healthcheck"),
        (ENGINE, {"async_deployment_type": "ASYNC"}, "async_deployment_type"),
        (ENGINE, {"enable_cache": True}, "enable_cache"),
        (ENGINE, {"enable_compression": True}, "enable_compression"),
    ],
)
def test_what_needs_a_cluster_is_refused_on_one_machine(base: dict[str, Any], changes: dict[str, Any], field: str):
    refused = refusal_here(spec(base, **changes))
    assert refused is not None
    assert refused.field == field
    assert "needs the Kubernetes backend" in refused.sentence


def test_what_one_machine_does_not_enforce_is_said():
    limited = spec(cpu_limit=2, memory_limit=4, advanced_configuration={
        "runtime_overrides": {"termination_grace_period_seconds": 45}
    })  # fmt: skip
    assert refusal_here(limited) is None
    told = list(notices_here(limited))
    assert [text.split(":")[0] for text in told] == [
        "cpu_limit, memory_limit",
        "advanced_configuration.runtime_overrides.termination_grace_period_seconds",
    ]
    assert list(notices_here(spec())) == []
    assert refusal_here(spec(EXTERNAL)) is None


_ANYTHING = (
    st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(), max_size=2)
    | st.dictionaries(st.text(), st.text(), max_size=2)
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(EndpointSpec.model_fields)), _ANYTHING, max_size=4))
def test_whatever_is_written_is_a_spec_or_one_sentence(changes: dict[str, Any]):
    try:
        whole = spec(**changes)
    except ValidationError as error:
        assert invalid_spec(error).sentence.endswith((".", ")"))
    else:
        assert EndpointSpec.model_validate_json(whole.model_dump_json()) == whole
