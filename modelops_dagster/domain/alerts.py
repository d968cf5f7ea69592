"""Alerts: what happened, said so that it can be read on a phone, and which events share one message."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, get_args

from pydantic import Field

from modelops_dagster.domain.frameworks import FrameworkRelease
from modelops_dagster.domain.hub import Release
from modelops_dagster.domain.values import Value
from modelops_dagster.domain.verdicts import Verdict

AlertKind = Literal[
    "new_release", "verdict", "failure", "deadline_at_risk", "framework_update", "parked", "canary", "preempted"
]
Severity = Literal["info", "warning", "critical"]
KINDS: tuple[AlertKind, ...] = get_args(AlertKind)

MAX_TITLE = 80  # characters; what a lock screen shows
MAX_LINE = 160
MAX_LINES = 5
GROUP_ABOVE = 3  # so many alerts of one kind at once are still messages of their own

DEADLINE = timedelta(hours=24)
WARN_AFTER = timedelta(hours=20)

_RANK: Mapping[Severity, int] = {"info": 0, "warning": 1, "critical": 2}
_PLURAL: Mapping[AlertKind, str] = {
    "new_release": "new releases",
    "verdict": "verdicts",
    "failure": "failures",
    "deadline_at_risk": "deadlines at risk",
    "framework_update": "framework updates",
    "parked": "models parked",
    "canary": "canaries rolled back",
    "preempted": "research jobs preempted",
}


class Alert(Value):
    """One event that somebody is told about, once."""

    kind: AlertKind
    subject: str = Field(description="repo_id of the model, or owner/name of the framework")
    title: str
    lines: tuple[str, ...] = ()
    url: str | None = Field(default=None, description="where to read on")
    severity: Severity = "info"
    dedupe_key: str = Field(description="names the event; a second alert with the same key is not sent")
    at: datetime = Field(description="UTC")


class Message(Value):
    """What one channel is given: one alert, or many of one kind."""

    message_id: str = Field(description="the same for every attempt, so that a receiver can tell a repetition")
    title: str
    lines: tuple[str, ...]
    url: str | None
    severity: Severity
    alerts: tuple[Alert, ...]

    @property
    def text(self) -> str:
        """Title, lines and link, one under the other."""
        return "\n".join([self.title, *self.lines, *([self.url] if self.url else [])])


def alert(
    kind: AlertKind,
    subject: str,
    title: str,
    lines: Sequence[str] = (),
    *,
    dedupe_key: str,
    at: datetime,
    url: str | None = None,
    severity: Severity = "info",
) -> Alert:
    """An alert cut to what a phone shows: a short title, at most five lines."""
    return Alert(
        kind=kind,
        subject=subject,
        title=_cut(title, MAX_TITLE),
        lines=tuple(_cut(line, MAX_LINE) for line in lines if line.strip())[:MAX_LINES],
        url=url,
        severity=severity,
        dedupe_key=f"{kind}:{dedupe_key}",
        at=at,
    )


def new_release(repo_id: str, commit_hash: str, *, at: datetime, url: str, known: Release | None = None) -> Alert:
    """A commit that is being onboarded. `known` is what the Hub said about it, where that was read already."""
    lines = [f"commit {commit_hash[:12]}"]
    if known is not None:
        lines.append(", ".join(known.architectures) or "architecture not stated")
        parameters = f"{known.parameters / 1e9:.2g} B parameters, " if known.parameters else ""
        lines.append(f"{parameters}{known.weight_bytes / 1e9:.3g} GB, licence {known.license or 'not stated'}")
        if known.gated:
            lines.append(f"gated ({known.gated})")
    return alert(
        "new_release", repo_id, f"New: {repo_id}", lines, dedupe_key=f"{repo_id}@{commit_hash}", at=at, url=url
    )


def verdict_reached(verdict: Verdict, *, url: str | None = None) -> Alert:
    """The outcome, the sentence, and the criteria that decided."""
    deciding = [c for c in verdict.criteria if c.tier == "required" and c.outcome != "pass"]
    shown = [
        f"{c.suite}.{c.metric}: {'missing' if c.value is None else f'{c.value:.3g}'}, bar {c.rule}" for c in deciding
    ]
    more = [f"and {len(shown) - 3} more"] if len(shown) > 3 else []
    return alert(
        "verdict",
        verdict.repo_id,
        f"{verdict.outcome.upper()}: {verdict.repo_id}",
        [verdict.reason, *shown[:3], *more],
        dedupe_key=verdict.verdict_id,
        at=verdict.decided_at,
        url=url,
        severity="info" if verdict.outcome == "pass" else "warning",
    )


def run_failed(
    subject: str, *, run_id: str, step: str | None, sentence: str, code: str | None, at: datetime, url: str
) -> Alert:
    """A run that ended in failure and is not started again; a parked model is a kind of its own.

    Args:
        subject: repo_id, or the job's name where no model is concerned.
        code: of the product's error, when the step ended in one.
    """
    if code == "model_parked":
        first, _, reasons = sentence.partition(": ")
        lines = [line.strip() for line in reasons.split("; ")] if reasons else [first]
        return alert(
            "parked", subject, f"Parked: {subject}", lines, dedupe_key=run_id, at=at, url=url, severity="warning"
        )
    lines = [f"step {step}" if step else "the run's process", sentence]
    return alert(
        "failure", subject, f"Failed: {subject}", lines, dedupe_key=run_id, at=at, url=url, severity="critical"
    )


def canary_rolled_back(alias: str, endpoint: str, sentence: str, *, at: datetime) -> Alert:
    """A canary that the gateway rolled back by itself, with the numbers."""
    return alert(
        "canary",
        alias,
        f"Canary rolled back: {alias}",
        [f"endpoint {endpoint}", sentence],
        dedupe_key=f"{alias}:{endpoint}:{at.isoformat()}",
        at=at,
        severity="warning",
    )


def job_preempted(job_id: str, owner: str, command: str, *, by: str, lost_gpu_hours: float, at: datetime) -> Alert:
    """A research job that made room for something more important, and what that cost it."""
    return alert(
        "preempted",
        owner,
        f"Preempted: {owner}'s {job_id}",
        [command, f"made room for {by}", f"{lost_gpu_hours:.2f} GPU-hours lost", "it resumes when there is room"],
        dedupe_key=f"{job_id}:{at.isoformat()}",
        at=at,
        severity="warning",
    )


def preview_withdrawn(alias: str, dead: Mapping[str, str], route_gone: bool, *, at: datetime) -> Alert:
    """Endpoints that were taken out of an alias because they are dead, and why each is."""
    rest = "nothing answers the alias any more" if route_gone else "what else stands behind the alias goes on"
    return alert(
        "failure",
        alias,
        f"Preview withdrawn: {alias}",
        [*(f"endpoint {name} {why}" for name, why in dead.items()), rest],
        dedupe_key=f"{alias}:{','.join(sorted(dead))}:{at.isoformat()}",
        at=at,
        severity="critical",
    )


def framework_updated(
    release: FrameworkRelease, *, retried: Sequence[str], notes: Sequence[str], at: datetime
) -> Alert:
    """A newer framework, and the models that are tried again because of it."""
    lines = [f"released {release.published_at:%Y-%m-%d}"] if release.published_at else []
    if retried:
        names = ", ".join(retried[:3]) + (f" and {len(retried) - 3} more" if len(retried) > 3 else "")
        lines.append(f"tried again: {names}")
    else:
        lines.append("no model waits for it")
    return alert(
        "framework_update",
        release.framework,
        f"{release.framework} {release.version}",
        [*lines, *notes],
        dedupe_key=f"{release.framework}@{release.version}",
        at=at,
        url=release.url or None,
    )


DeadlineState = Literal["on_time", "at_risk", "missed"]


def deadline_state(detected_at: datetime, now: datetime, has_verdict: bool) -> DeadlineState:
    """Where a model stands against its 24 hours from detection to verdict; from 20 hours on it is at risk."""
    if has_verdict or now - detected_at < WARN_AFTER:
        return "on_time"
    return "at_risk" if now - detected_at < DEADLINE else "missed"


def deadline_at_risk(
    repo_id: str, commit_hash: str, *, detected_at: datetime, now: datetime, has_verdict: bool, url: str | None = None
) -> Alert | None:
    """A warning from 20 hours after detection on, and another one when 24 have passed; None while there is time."""
    state = deadline_state(detected_at, now, has_verdict)
    if state == "on_time":
        return None
    hours = (now - detected_at).total_seconds() / 3600
    left = (DEADLINE - (now - detected_at)).total_seconds() / 3600
    title = f"Late: {repo_id}" if state == "missed" else f"{left:.1f} h left: {repo_id}"
    return alert(
        "deadline_at_risk",
        repo_id,
        title,
        [f"no verdict {hours:.1f} h after detection, the deadline is {DEADLINE.total_seconds() / 3600:.0f} h",
         f"commit {commit_hash[:12]}"],
        dedupe_key=f"{repo_id}@{commit_hash}:{state}",
        at=now,
        url=url,
        severity="critical" if state == "missed" else "warning",
    )  # fmt: skip


def group(alerts: Sequence[Alert]) -> list[Message]:
    """Messages for the alerts of one tick: one each, or one for all of a kind when there are more than three."""
    messages: list[Message] = []
    for kind in KINDS:
        same = [a for a in alerts if a.kind == kind]
        if len(same) <= GROUP_ABOVE:
            messages.extend(message([a]) for a in same)
        else:
            messages.append(message(same))
    return messages


def message(alerts: Sequence[Alert]) -> Message:
    """One message about one or more alerts of one kind."""
    first = alerts[0]
    digest = hashlib.sha256("\n".join(a.dedupe_key for a in alerts).encode()).hexdigest()[:24]
    severity = max((a.severity for a in alerts), key=lambda s: _RANK[s])
    if len(alerts) == 1:
        title, lines, url = first.title, first.lines, first.url
    else:
        title = f"{len(alerts)} {_PLURAL[first.kind]}"
        rest = len(alerts) - (MAX_LINES - 1)
        shown = alerts if len(alerts) <= MAX_LINES else alerts[: MAX_LINES - 1]
        lines = tuple(a.title for a in shown) + ((f"and {rest} more",) if len(alerts) > MAX_LINES else ())
        url = None
    return Message(message_id=digest, title=title, lines=lines, url=url, severity=severity, alerts=tuple(alerts))


def _cut(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


class AlertCursor(Value):
    """The alert sensor's state between two ticks."""

    runs_after: datetime = Field(description="failed runs updated before are done with")
    created_after: datetime = Field(description="runs created before are done with")
    verdicts_after: dict[str, int] = Field(
        default_factory=dict, description="storage id of the last verdict taken, by asset key with slashes"
    )
    undecided: dict[str, datetime] = Field(
        default_factory=dict, description="when each repo_id@commit_hash without a verdict was detected"
    )


def watch_deadlines(
    undecided: Mapping[str, datetime], now: datetime, url: Callable[[str], str]
) -> tuple[dict[str, datetime], list[Alert]]:
    """Alerts for the revisions that are late, and those that are still to be watched: a missed one is told once.

    Args:
        undecided: by repo_id@commit_hash.
        url: of a repo_id's page.
    """
    late: list[Alert] = []
    still: dict[str, datetime] = {}
    for revision, detected_at in undecided.items():
        repo_id, _, commit_hash = revision.partition("@")
        found = deadline_at_risk(
            repo_id, commit_hash, detected_at=detected_at, now=now, has_verdict=False, url=url(repo_id)
        )
        if found is not None:
            late.append(found)
        if deadline_state(detected_at, now, has_verdict=False) != "missed":
            still[revision] = detected_at
    return still, late
