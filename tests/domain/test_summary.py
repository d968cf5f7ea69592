"""Values as tables."""

import pytest

from modelops_dagster.domain.engines import RungResult
from modelops_dagster.domain.gauntlet.report import Metric
from modelops_dagster.domain.hub import ModelRevision, Release, RepoFile
from modelops_dagster.domain.summary import (
    criterion_notes,
    files_table,
    interval,
    ladder_table,
    markdown,
    metric_row,
    number,
    verdict_table,
)
from modelops_dagster.domain.verdicts import Criterion, SuiteEvidence
from tests.fakes.values import a_verdict, an_endpoint


def test_numbers_are_short_and_keep_their_unit() -> None:
    assert [number(0.312), number(812.44, "ms"), number(12.34, "tokens/s"), number(None, "ms")] == [
        "0.31",
        "812 ms",
        "12.3 tokens/s",
        None,
    ]
    assert [interval(0.2, 0.4), interval(700, None), interval(None, None)] == ["0.20-0.40", "700-?", None]
    assert metric_row(Metric(name="a", value=None, n=0)) == {
        "metric": "a",
        "value": None,
        "95 % interval": None,
        "n": "0",
    }


def test_what_decided_comes_first() -> None:
    criteria = [
        Criterion(suite="s", metric=f"{tier}_{outcome}", tier=tier, outcome=outcome, value=0.5, n=3, rule=">= 0.60")
        for tier in ("advisory", "required")
        for outcome in ("pass", "hold", "fail")
    ]
    verdict = a_verdict("fail", criteria=tuple(criteria))
    assert [row["criterion"] for row in verdict_table(verdict)] == [
        f"s.{tier}_{outcome}" for tier in ("required", "advisory") for outcome in ("fail", "hold", "pass")
    ]


def test_a_note_that_several_criteria_have_is_told_once() -> None:
    notes = {"accuracy": "few samples", "tpot": "void", "ttft": "void", "empty_rate": ""}
    criteria = tuple(
        Criterion(suite="s", metric=name, tier="required", outcome="hold", value=None, n=0, rule=">= 1", note=note)
        for name, note in notes.items()
    )
    found = criterion_notes(a_verdict("hold", criteria=criteria))
    assert found == ["s.accuracy: few samples", "s.tpot, s.ttft: void"]


def test_a_value_has_the_unit_that_was_measured() -> None:
    latency = Metric(name="ttft_p95_ms@1", value=43.0, n=9, unit="ms")
    share = Metric(name="accuracy", value=0.5, n=9, unit="share")
    criteria = tuple(
        Criterion(suite="s", metric=m.name, tier="required", outcome="pass", value=m.value, n=9, rule="value >= 0")
        for m in (latency, share)
    )
    evidence = SuiteEvidence(
        suite="s", kind="dataset", run_id="r", suite_digest="d", instrument="i", metrics=(latency, share), n_samples=9,
        n_unscored=0,
    )  # fmt: skip
    decided = a_verdict(criteria=criteria, evidence=(evidence,))
    assert [row["value"] for row in verdict_table(decided)] == ["43.0 ms", "0.50"]


def test_the_ladder_tells_why_each_rung_was_left() -> None:
    rungs = (
        RungResult(rung="vllm-cpu", reason="unsupported_architecture", detail="no class X", seconds=41.23),
        RungResult(rung="transformers", seconds=9),
    )
    endpoint = an_endpoint(engine="transformers", ladder=rungs)
    assert [tuple(row.values()) for row in ladder_table(endpoint)] == [
        ("vllm-cpu", "unsupported_architecture", "no class X", "41.2"),
        ("transformers", "serves the model", None, "9.0"),
    ]


@pytest.mark.parametrize("cell", ["a|b", "a\nb", None])
def test_markdown_stays_one_row_per_row(cell: str | None) -> None:
    lines = markdown([{"x": cell, "y": "1"}]).split("\n")
    assert lines[:2] == ["| x | y |", "| --- | --- |"]
    assert len(lines) == 3
    assert markdown([]) == ""


def test_the_largest_files_are_named_and_the_rest_are_counted() -> None:
    files = [RepoFile(path=f"{n}.safetensors", size_bytes=n * 1_000_000, sha256="ab" * 32) for n in range(1, 13)]
    revision = ModelRevision(repo_id="acme/one", commit_hash="0" * 40)
    rows = files_table(Release(revision=revision, hub_url="http://hub", files=tuple(files)))
    assert rows[0] == {"file": "12.safetensors", "MB": "12.000", "sha256": "abababababab"}
    assert rows[-1] == {"file": "2 more", "MB": "3.000", "sha256": None}
    assert len(rows) == 11
