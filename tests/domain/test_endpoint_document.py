"""Specs as people write them: the examples in docs/, other tools' names, and the published schema."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from modelops_dagster.domain.endpoint_spec import EndpointSpec
from modelops_dagster.domain.endpoint_spec.complaints import invalid_spec
from modelops_dagster.domain.endpoint_spec.document import EndpointDocument
from modelops_dagster.domain.endpoint_spec.this_machine import refusal_here

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "docs" / "examples").glob("endpoint_*.yaml"))
FOUND = {
    "checkpoint": "/store/org/name/abc",
    "checkpoint_digest": "sha256:0",
    "engine": "vllm",
    "served_model_name": "org/name@abc",
}
NEED_A_CLUSTER = {"endpoint_async", "endpoint_imported_container", "endpoint_two_nodes"}


def document(**fields: Any) -> EndpointDocument:
    return EndpointDocument.model_validate({"name": "small", "model": "acme/small", **fields})


def complaint(**fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        document(**fields)
    return invalid_spec(caught.value).sentence


def test_there_is_an_example_of_every_kind():
    assert len(EXAMPLES) >= 8
    read = [EndpointDocument.model_validate(yaml.safe_load(path.read_text())) for path in EXAMPLES]
    assert {d.deployment.type for d in read} == {"engine", "container", "none"}
    assert any(d.nodes > 1 for d in read)
    assert any(d.scale_to_zero for d in read)
    assert any(d.async_deployment_type == "ASYNC" for d in read)
    assert any("--tensor-parallel-size" in d.engine_args and d.gpus == 8 for d in read)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_example_holds(path: Path):
    given = yaml.safe_load(path.read_text())
    whole = EndpointDocument.model_validate(given)
    spec = whole.spec(**FOUND) if whole.loads else whole.spec()
    assert EndpointSpec.model_validate_json(spec.model_dump_json()) == spec
    assert (refusal_here(spec) is not None) == (path.stem in NEED_A_CLUSTER)
    assert "Kubernetes" in path.read_text() or path.stem not in NEED_A_CLUSTER


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_the_published_schema_takes_every_example(path: Path):
    given = yaml.safe_load(path.read_text())
    published = jsonschema.Draft202012Validator(EndpointDocument.model_json_schema())
    published.validate(given)
    for wrong in ({"gpus": "all"}, {"colour": "red"}, {"cpu_request": "two"}):
        with pytest.raises(jsonschema.ValidationError):
            published.validate({**given, **wrong})


def test_names_of_other_tools_mean_the_same():
    theirs = document(
        min_pod_replicas=0, max_pod_replicas=4, scale_to_zero_enabled=True, cluster="west", node_groups=["a"],
        price_per_hour=2,
    )  # fmt: skip
    ours = document(
        min_replicas=0, max_replicas=4, scale_to_zero=True, cluster="west", nodegroups=["a"], usd_per_hour=2
    )
    assert theirs == ours
    assert document(replicas=3) == document(min_replicas=3, max_replicas=3)
    assert document(model="https://huggingface.co/acme/small") == document()
    assert document(version="0123456") == document(model="acme/small@0123456")


def test_utilization_is_a_short_form_of_an_autoscaler():
    kept = document(target_utilization=0.7, gpus=1, max_replicas=2).autoscale_config
    assert kept is not None
    assert [(t.metric, t.target) for t in kept.targets] == [("gpu", 70.0)]
    other = document(target_utilization=0.5).autoscale_config
    assert other is not None
    assert other.targets[0].metric == "cpu"


def test_metrics_of_other_tools_are_read_in_our_units():
    given = [{"metric": "cpu_usage", "target": 0.7}, {"metric": "request_rate", "target": 120}]
    kept = document(autoscale_config={"targets": given}, max_replicas=2).autoscale_config
    assert kept is not None
    assert [(t.metric, t.target) for t in kept.targets] == [("cpu", 70.0), ("throughput", 2.0)]
    extra = {"metric": "cpu_usage", "target": 0.7, "scale_up_threshold": 0.8}
    assert "scale_up_threshold is not a field" in complaint(autoscale_config={"targets": [extra]})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"min_replicas": 1, "min_pod_replicas": 1}, "min_pod_replicas and min_replicas are the same thing"),
        ({"replicas": 2, "max_replicas": 3}, "replicas is a fixed number"),
        ({"model": "acme/small@0123456", "version": "0123456"}, "version is the commit of model"),
        ({"model": None}, "model is missing: give org/name@commit, or the path of a checkpoint"),
        ({"target_utilization": 7}, "must be a share above 0 and up to 1"),
        ({"target_utilization": 0.5, "autoscale_config": {"targets": []}}, "short form of autoscale_config"),
        ({"model": "https://elsewhere.example/acme/small"}, "write org/name@commit"),
        ({"checkpoint": "relative/path"}, "not an absolute path"),
        ({"deployment": {"type": "container", "image": "a/b:1"}, "model": None}, "which model name the container"),
    ],
)
def test_what_does_not_hold_is_one_sentence(fields: dict[str, Any], said: str):
    assert said in complaint(**fields)
