"""The judgement on a quantized checkpoint: bars by scheme and size, and what no bar excuses."""

import math

import pytest
from pydantic import ValidationError

from modelops_dagster.domain.recovery import Figures, Findings, RecoveryPolicy, judge_recovery

SMALL = {
    "schemes": ["W8A8", "FP8_DYNAMIC"],
    "perplexity_ratio": {"warn": 1.015, "block": 1.06},
    "mean_kl": {"warn": 0.03, "block": 0.1},
    "top1_agreement": {"warn": 0.92, "block": 0.85},
}
LARGE = {**SMALL, "min_parameters_billion": 7, "perplexity_ratio": {"warn": 1.005, "block": 1.02}}
POLICY = RecoveryPolicy.model_validate(
    {"name": "p", "version": 1, "description": "d", "texts": "t.jsonl", "rules": [SMALL, LARGE]}
)


def figures(ratio: float = 1.0, kl: float = 0.001, top1: float = 0.97) -> Figures:
    return Figures(
        perplexity_original=20,
        perplexity=20 * ratio,
        perplexity_ratio=ratio,
        perplexity_ratio_low=ratio - 0.01,
        perplexity_ratio_high=ratio + 0.01,
        mean_kl=kl,
        kl_p99=kl * 5,
        top1_agreement=top1,
    )


def findings(measured: Figures | None = None, **changes: object) -> Findings:
    values = {
        "problems": (),
        "loads": True,
        "measured": measured or figures(),
        "noise": figures(),
        "n_tokens": 3000,
        "n_windows": 12,
        "dtypes": {"I8": 210},
        "size_ratio": 0.6,
        "parameters": 135_000_000,
        **changes,
    }
    return Findings.model_validate(values)


@pytest.mark.parametrize(
    ("measured", "outcome", "words"),
    [
        (figures(), "pass", "100.0 % of the perplexity was kept"),
        (figures(ratio=1.02), "warn", "perplexity_ratio 1.020 is beyond 1.015"),
        (figures(ratio=1.07), "block", "perplexity_ratio 1.070 is beyond 1.06"),
        (figures(kl=0.05), "warn", "mean_kl"),
        (figures(kl=0.2), "block", "mean_kl"),
        (figures(top1=0.9), "warn", "top1_agreement"),
        (figures(top1=0.5), "block", "top1_agreement"),
        (figures(ratio=math.nan), "block", "perplexity_ratio nan"),
        (figures(top1=math.nan), "block", "top1_agreement nan"),
        (figures(ratio=0.98), "pass", "102.0 %"),
    ],
)
def test_each_figure_has_two_bars(measured: Figures, outcome: str, words: str):
    found, reason, criteria = judge_recovery(POLICY, findings(measured), "W8A8")
    assert found == outcome
    assert words in reason
    assert [c.figure for c in criteria] == ["perplexity_ratio", "mean_kl", "top1_agreement"]


def test_a_large_model_is_held_to_narrower_bars():
    measured = figures(ratio=1.03)
    assert judge_recovery(POLICY, findings(measured), "W8A8")[0] == "warn"
    assert judge_recovery(POLICY, findings(measured, parameters=8_000_000_000), "W8A8")[0] == "block"


def test_what_is_broken_is_stopped_by_every_policy():
    lenient = POLICY.model_copy(update={"rules": ()})
    broken = findings(problems=("it does not load: RuntimeError",), loads=False, measured=None, noise=None)
    for policy in (POLICY, lenient):
        assert judge_recovery(policy, broken, "W8A8")[:2] == ("block", "it does not load: RuntimeError")
    assert judge_recovery(lenient, findings(figures(ratio=2)), "W8A8")[0] == "pass"
    assert judge_recovery(lenient, findings(figures(ratio=math.nan)), "W8A8")[0] == "block"


def test_what_was_not_measured_is_never_a_pass():
    unknown = Findings.model_validate(
        {**findings().model_dump(), "measured": None, "noise": None, "unmeasured": "architecture not known"}
    )
    assert judge_recovery(POLICY, unknown, "W8A8")[:2] == ("warn", "not measured: architecture not known")
    few, reason, _ = judge_recovery(POLICY, findings(n_tokens=100), "W8A8")
    assert few == "warn"
    assert "only 100 tokens" in reason


def test_bars_in_the_wrong_order_are_refused():
    rule = {**SMALL, "top1_agreement": {"warn": 0.8, "block": 0.9}}
    with pytest.raises(ValidationError, match="block has to lie beyond warn"):
        RecoveryPolicy.model_validate({**POLICY.model_dump(), "rules": [rule]})
