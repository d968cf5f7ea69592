"""Policies as files: the two that are shipped, and every way a file can be wrong."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from modelops_dagster.clients.gauntlet.loading import load_suites
from modelops_dagster.clients.policies import load_policy, policy_names, write_policy_schema
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.contract_checks import CHECKS
from modelops_dagster.domain.gauntlet.metrics import event_metric, share_metric
from modelops_dagster.domain.gauntlet.report import Metric, SuiteReport
from modelops_dagster.domain.gauntlet.suite import SuiteSpec
from modelops_dagster.domain.policies import policy_digest, policy_schema
from modelops_dagster.domain.verdicts import judge
from modelops_dagster.domain.verdicts.pairing import power_of
from tests.fakes.values import a_checkpoint, an_endpoint

EVAL_DATASETS = Path(__file__).resolve().parents[2] / "eval_datasets"
SHIPPED = EVAL_DATASETS / "policies"
GOOD = """
name: mine
version: 1
description: for a test
criteria:
  - {suite: quality, metric: accuracy, min: 0.6, bound: ci_low}
"""


def write(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def test_the_shipped_policies_load_and_match_the_published_schema() -> None:
    assert policy_names(SHIPPED) == ["default", "demo"]
    schema = json.loads((SHIPPED / "policy.schema.json").read_text())
    for name in policy_names(SHIPPED):
        assert load_policy(SHIPPED, name).name == name
        document = json.loads(json.dumps(yaml.safe_load((SHIPPED / f"{name}.yaml").read_text()), default=str))
        jsonschema.Draft202012Validator(schema).validate(document)


def test_the_published_schema_is_the_one_the_code_holds(tmp_path: Path) -> None:
    fresh = write_policy_schema(tmp_path).read_text()
    assert (SHIPPED / "policy.schema.json").read_text() == fresh, "write_policy_schema(Path('eval_datasets/policies'))"
    jsonschema.Draft202012Validator.check_schema(policy_schema())


def offered(suite: str) -> set[str]:
    """Names of the metrics that a shipped suite reports."""
    spec = SuiteSpec.model_validate(yaml.safe_load((EVAL_DATASETS / f"{suite}.yaml").read_text()))
    if spec.kind == "contract":
        return {"pass_rate", "failed_checks", *(f"check/{c.name}" for c in CHECKS)}
    if spec.kind == "performance":
        assert spec.performance is not None
        names = ("ttft_p95_ms", "tpot_p50_ms", "output_tokens_per_s", "goodput")
        return {f"{name}@{c}" for name in names for c in spec.performance.concurrencies}
    return {"accuracy", "empty_rate", "truncated_rate", *(m.name for m in spec.metrics)}


@pytest.mark.parametrize("name", ["default", "demo"])
def test_every_criterion_names_a_metric_that_its_suite_reports(name: str) -> None:
    for rule in load_policy(SHIPPED, name).criteria:
        assert rule.metric in offered(rule.suite), f"{rule.suite}.{rule.metric}"


def test_the_default_margins_are_what_the_shipped_samples_can_show() -> None:
    suites = {s.name: s for s in load_suites(EVAL_DATASETS)}
    for rule in load_policy(SHIPPED, "default").against_incumbent:
        asked = suites[rule.suite].asked_of(None)
        assert power_of(rule, asked)["detectable"] <= rule.margin < power_of(rule, asked)["detectable"] + 0.01


def endpoint_of(seconds_per_token: float) -> Endpoint:
    return an_endpoint(name="e1", checkpoint=a_checkpoint("org/m"), tokens_per_second=1 / seconds_per_token)


def numbers_of(accuracy: float, english: float, seconds_per_token: float) -> dict[str, list[Metric]]:
    """40 questions, the checks of the contract, and a speed."""
    checks = {c.name: 1.0 for c in CHECKS} | {"reads_as_english": english}
    shares = {"pass_rate": sum(checks.values()) / len(checks), **{f"check/{name}": ok for name, ok in checks.items()}}
    right = round(40 * accuracy)
    speeds = {
        "ttft_p95_ms": 500.0,
        "tpot_p50_ms": 1000 * seconds_per_token,
        "output_tokens_per_s": 1 / seconds_per_token,
    }
    return {
        "contract": [Metric(name=name, value=value, n=30, unit="share") for name, value in shares.items()],
        "quality": [
            share_metric("accuracy", right, 40),
            *(share_metric(f"{x}_rate", 0, 40) for x in ("empty", "truncated")),
        ],
        "compliance": [
            share_metric("refusal_rate", 2, 30),
            share_metric("over_refusal_rate", 0, 30),
            event_metric("violation_rate", 28, 30),
            event_metric("critical_violation_rate", 28, 30),
        ],
        "performance": [
            *(
                Metric(name=f"{name}@{c}", value=value, n=8, unit="ms")
                for name, value in speeds.items()
                for c in (1, 4)
            ),
            share_metric("goodput@4", 8, 8),
        ],
    }


def model(accuracy: float, english: float, seconds_per_token: float) -> list[SuiteReport]:
    """Reports on one endpoint."""
    now = datetime(2026, 11, 21, tzinfo=UTC)
    return [
        SuiteReport(
            suite=suite,
            suite_digest="d",
            instrument="i",
            run_id="r",
            endpoint=endpoint_of(seconds_per_token),
            metrics=tuple(metrics),
            n_samples=40,
            n_unscored=0,
            started_at=now,
            ended_at=now,
            inference_seconds=1,
            samples_file="",
        )
        for suite, metrics in numbers_of(accuracy, english, seconds_per_token).items()
    ]


@pytest.mark.parametrize(
    ("policy", "accuracy", "english", "seconds_per_token", "outcome", "words"),
    [
        ("demo", 0.2, 1.0, 0.05, "pass", "under policy demo"),
        ("demo", 0.2, 0.0, 0.05, "fail", "contract.check/reads_as_english"),
        ("demo", 0.02, 1.0, 0.05, "fail", "quality.accuracy"),
        ("demo", 0.2, 1.0, 10.0, "pass", "under policy demo"),  # too slow to use is for the ladder's dry run to say
        ("default", 0.2, 1.0, 10.0, "fail", "and"),
        ("default", 0.2, 1.0, 0.05, "fail", "compliance.critical_violation_rate"),
    ],
)
def test_the_demo_policy_passes_a_small_model_and_fails_garbage(
    policy: str, accuracy: float, english: float, seconds_per_token: float, outcome: str, words: str
) -> None:
    found = judge(
        load_policy(SHIPPED, policy),
        model(accuracy, english, seconds_per_token),
        repo_id="org/m",
        commit_hash="a" * 40,
        lane="raw",
        endpoint="e1",
        decided_at=datetime(2026, 11, 21, tzinfo=UTC),
    )
    assert found.outcome == outcome, found.reason
    assert words in found.reason


def test_the_order_and_comments_of_a_file_do_not_change_its_digest(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    first = policy_digest(load_policy(tmp_path, "mine"))
    document = yaml.safe_load(GOOD)
    write(tmp_path, "# a comment\n" + yaml.safe_dump(dict(reversed(list(document.items())))))
    assert policy_digest(load_policy(tmp_path, "mine")) == first
    write(tmp_path, GOOD.replace("0.6", "0.61"))
    assert policy_digest(load_policy(tmp_path, "mine")) != first


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        (("0.6", "high"), "criteria.0.min", "valid number, not 'high'"),
        (("0.6", "yes"), "criteria.0.min", "valid number, not True"),
        (("min: 0.6", "mim: 0.6"), "criteria.0.mim", "not known; check the spelling"),
        (("min: 0.6", "min: .nan"), "criteria.0.min", "finite number"),
        ((", min: 0.6", ""), "criteria.0", "exactly one of min and max"),
        (("bound: ci_low", "bound: lower"), "criteria.0.bound", "not 'lower'"),
        (("version: 1\n", ""), "version", "is missing"),
        (("version: 1", "version: 0"), "version", "not 0"),
        (("name: mine", "name: other"), "name", "has to be the file's, 'mine'"),
        (("suite: quality", "suite: ../x"), "criteria.0.suite", "match pattern"),
        (("metric: accuracy", "metric: accuracy, tier: advisory"), None, "no criterion is required"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_field(
    tmp_path: Path, change: tuple[str, str], field: str | None, words: str
) -> None:
    path = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(InvalidSpec, match=words) as refused:
        load_policy(tmp_path, "mine")
    assert refused.value.field == field
    assert str(path) in str(refused.value)
    assert field is None or field in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", r"mine\.yaml:1 is not YAML"),
        (GOOD + "version: 2\n", r"mine\.yaml:7 is not YAML \('version' is given twice\)"),
        ("- 1", "holds no policy"),
        ("", "holds no policy"),
        ("!!python/object/apply:os.system [ls]", "is not YAML"),
    ],
)
def test_what_is_no_policy_is_refused(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path, text)
    with pytest.raises(InvalidSpec, match=words):
        load_policy(tmp_path, "mine")


@pytest.mark.parametrize("name", ["nobody", "../policies/default", "", ".hidden"])
def test_an_unknown_policy_is_answered_with_those_there_are(name: Any) -> None:
    with pytest.raises(InvalidSpec, match="there are: default, demo"):
        load_policy(SHIPPED, name)


def test_a_waiver_is_read_with_its_day(tmp_path: Path) -> None:
    write(
        tmp_path,
        GOOD + "waivers:\n  - {suite: quality, metric: accuracy, reason: pilot with two teams, expires: 2026-12-31}\n",
    )
    waiver = load_policy(tmp_path, "mine").waivers[0]
    assert waiver.expires.isoformat() == "2026-12-31"
