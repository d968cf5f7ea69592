"""A quantized copy that passed gets a name of its own and leaves the released weights where they are."""

from datetime import UTC, datetime

import pytest

from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gateway import is_alias
from modelops_dagster.domain.hub import ModelRevision, require_repo_id
from modelops_dagster.domain.lanes import LANES, lane_alias
from modelops_dagster.domain.registration import next_route
from modelops_dagster.domain.verdicts import Verdict
from tests.fakes.values import a_checkpoint, a_verdict, an_endpoint

AT = datetime(2026, 1, 2, tzinfo=UTC)
REVISION = ModelRevision(repo_id="acme/one", commit_hash="a" * 40)


def endpoint(lane: str) -> Endpoint:
    return an_endpoint(name=f"one-{lane}", checkpoint=a_checkpoint("acme/one"))


def verdict(lane: str, outcome: str) -> Verdict:
    return a_verdict(outcome, repo_id="acme/one", lane=lane, decided_at=AT)


def test_each_lane_has_an_alias_that_no_repository_can_have():
    aliases = [lane_alias("acme/one", lane.name) for lane in LANES]
    assert aliases == ["acme/one", "acme/one:fp8", "acme/one:awq", "acme/one:int8"]
    for alias in aliases:
        assert is_alias(alias)
    with pytest.raises(InvalidSpec):
        require_repo_id(aliases[1])


@pytest.mark.parametrize("outcome", ["pass", "hold"])
def test_a_quantized_lane_goes_to_its_own_alias(outcome: str):
    raw = next_route(None, verdict("raw", "pass"), endpoint("raw"), AT)
    quantized = next_route(None, verdict("int8", outcome), endpoint("int8"), AT)
    assert raw is not None
    assert quantized is not None
    assert (raw.alias, quantized.alias) == ("acme/one", "acme/one:int8")
    assert [t.endpoint for t in quantized.targets] == ["one-int8"]
    assert next_route(None, verdict("int8", "fail"), endpoint("int8"), AT) is None
