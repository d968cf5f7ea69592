"""What alerts say, how many share a message, and when a model is late."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from modelops_dagster.domain.alerts import (
    GROUP_ABOVE,
    KINDS,
    MAX_LINE,
    MAX_LINES,
    MAX_TITLE,
    Alert,
    alert,
    deadline_at_risk,
    deadline_state,
    framework_updated,
    group,
    message,
    new_release,
    run_failed,
    verdict_reached,
    watch_deadlines,
)
from modelops_dagster.domain.frameworks import FrameworkRelease
from modelops_dagster.domain.hub import ModelRevision, Release, RepoFile
from modelops_dagster.domain.verdicts import Criterion
from tests.fakes.values import a_verdict

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
COMMIT = "a" * 40


def some(number: int, kind: str = "verdict", severity: str = "info") -> Alert:
    return Alert.model_validate(
        {"kind": kind, "subject": "acme/x", "title": f"t{number}", "severity": severity, "at": NOW}
        | {"dedupe_key": f"{kind}:{number}"}
    )


@given(st.text(), st.lists(st.text(), max_size=20))
def test_an_alert_fits_a_phone(title: str, lines: list[str]):
    found = alert("failure", "acme/x", title, lines, dedupe_key="k", at=NOW)
    assert len(found.title) <= MAX_TITLE
    assert len(found.lines) <= MAX_LINES
    assert all(0 < len(line) <= MAX_LINE and "\n" not in line for line in found.lines)


@given(st.lists(st.sampled_from(KINDS), max_size=60))
def test_every_alert_is_in_exactly_one_message(kinds: list[str]):
    alerts = [some(i, kind) for i, kind in enumerate(kinds)]
    messages = group(alerts)
    assert sorted(a.dedupe_key for m in messages for a in m.alerts) == sorted(a.dedupe_key for a in alerts)
    assert all(len({a.kind for a in m.alerts}) == 1 and len(m.lines) <= MAX_LINES for m in messages)
    assert len({m.message_id for m in messages}) == len(messages)


def test_few_stay_apart_and_many_come_together():
    assert len(group([some(i) for i in range(GROUP_ABOVE)])) == GROUP_ABOVE
    (many,) = group([some(i, severity="critical" if i == 3 else "info") for i in range(7)])
    assert (many.title, many.severity, many.url) == ("7 verdicts", "critical", None)
    assert many.lines == ("t0", "t1", "t2", "t3", "and 3 more")
    (five,) = group([some(i) for i in range(5)])
    assert five.lines == ("t0", "t1", "t2", "t3", "t4")


def test_a_message_is_the_same_at_every_attempt():
    alerts = [some(i) for i in range(5)]
    assert message(alerts) == message(alerts)
    assert message(alerts).message_id != message(alerts[:4]).message_id


def test_a_verdict_says_what_decided():
    criteria = [
        Criterion(suite="s", metric=f"m{i}", tier="required", outcome=outcome, value=0.51234, n=9, rule="lower >= 0.60")
        for i, outcome in enumerate(["pass", "fail", "fail", "hold", "fail"])
    ]
    verdict = a_verdict(
        "fail", verdict_id="v1", reason="fail: four of five.", criteria=tuple(criteria), repo_id="acme/x"
    )
    found = verdict_reached(verdict, url="http://ui")
    assert (found.title, found.severity, found.dedupe_key) == ("FAIL: acme/x", "warning", "verdict:v1")
    assert found.lines[0] == "fail: four of five."
    assert found.lines[1] == "s.m1: 0.512, bar lower >= 0.60"
    assert found.lines[-1] == "and 1 more"


def test_a_release_says_what_is_known():
    bare = new_release("acme/x", COMMIT, at=NOW, url="http://hub/acme/x")
    assert bare.lines == ("commit aaaaaaaaaaaa",)
    release = Release(
        revision=ModelRevision(repo_id="acme/x", commit_hash=COMMIT),
        hub_url="http://hub",
        files=(RepoFile(path="model.safetensors", size_bytes=2_500_000_000),),
        architectures=("LlamaForCausalLM",),
        license="mit",
        parameters=1_240_000_000,
    )
    known = new_release("acme/x", COMMIT, at=NOW, url="http://hub/acme/x", known=release)
    assert known.lines[1:] == ("LlamaForCausalLM", "1.2 B parameters, 2.5 GB, licence mit")
    assert known.dedupe_key == bare.dedupe_key


def test_a_parked_model_is_no_failure():
    sentence = "acme/x is parked, no engine could serve it: vllm: unsupported_architecture (no); transformers: crash."
    parked = run_failed(
        "acme/x", run_id="r", step="raw__endpoint", sentence=sentence, code="model_parked", at=NOW, url="u"
    )
    assert (parked.kind, parked.title) == ("parked", "Parked: acme/x")
    assert parked.lines == ("vllm: unsupported_architecture (no)", "transformers: crash.")
    failed = run_failed("acme/x", run_id="r", step=None, sentence="It died.", code=None, at=NOW, url="u")
    assert (failed.kind, failed.severity) == ("failure", "critical")
    assert failed.lines == ("the run's process", "It died.")


def test_a_framework_says_who_is_tried_again():
    release = FrameworkRelease(framework="vllm-project/vllm", tag="v0.33.0", version="0.33.0", url="u")
    found = framework_updated(release, retried=["a/1", "a/2", "a/3", "a/4"], notes=["installed here: x"], at=NOW)
    assert found.title == "vllm-project/vllm 0.33.0"
    assert found.lines == ("tried again: a/1, a/2, a/3 and 1 more", "installed here: x")


def test_the_deadline():
    def at(hours: float) -> str:
        return deadline_state(NOW, NOW + timedelta(hours=hours), False)

    assert [at(h) for h in (0, 19.99, 20, 23.99, 24, 99)] == [
        "on_time", "on_time", "at_risk", "at_risk", "missed", "missed",
    ]  # fmt: skip
    assert deadline_state(NOW, NOW + timedelta(hours=99), True) == "on_time"
    late = deadline_at_risk(
        "acme/x", COMMIT, detected_at=NOW, now=NOW + timedelta(hours=21.5), has_verdict=False, url="u"
    )
    assert late is not None
    assert (late.title, late.severity) == ("2.5 h left: acme/x", "warning")


def test_a_missed_deadline_is_told_and_no_longer_watched():
    open_ = {f"acme/x@{COMMIT}": NOW - timedelta(hours=25), f"acme/y@{COMMIT}": NOW - timedelta(hours=21)}
    still, late = watch_deadlines({**open_, f"acme/z@{COMMIT}": NOW}, NOW, lambda repo_id: f"http://ui/{repo_id}")
    assert sorted(still) == [f"acme/y@{COMMIT}", f"acme/z@{COMMIT}"]
    assert [a.title for a in late] == ["Late: acme/x", "3.0 h left: acme/y"]
    assert late[0].url == "http://ui/acme/x"
    assert watch_deadlines(still, NOW, str)[1][0].dedupe_key == late[1].dedupe_key
