"""When an organisation is read next: at its interval, sooner when the Hub pushed, later when the read failed."""

from collections.abc import Collection, Mapping

from pydantic import Field

from modelops_dagster.domain.values import Value

FIRST_RETRY_S = 30.0
LONGEST_PAUSE_INTERVALS = 6


class OrgSchedule(Value):
    """How one organisation's reads went. Losing it costs nothing but reads that were not due."""

    due_at: float = Field(description="seconds since the epoch")
    failures: int = Field(default=0, description="reads in a row that failed")
    problem: str = Field(default="", description="why the last one did; empty when it did not")


def due_orgs(
    orgs: Collection[str], schedule: Mapping[str, OrgSchedule], nudged: Collection[str], now: float, interval_s: float
) -> list[str]:
    """Organisations to read now: the nudged, then the longest overdue, so that a cut-off tick is resumed.

    A due time further away than any pause can be comes from a clock that was set back, and counts as due.
    """
    latest = now + longest_pause_s(interval_s)

    def due_at(org: str) -> float:
        known = schedule.get(org)
        return known.due_at if known is not None and known.due_at <= latest else 0.0

    due = sorted((o for o in orgs if o in nudged or due_at(o) <= now), key=lambda o: (due_at(o), o))
    return [o for o in due if o in nudged] + [o for o in due if o not in nudged]


def after_read(now: float, interval_s: float, *, waits: bool = False) -> OrgSchedule:
    """The next read, after a good one. `waits`: the tick's time was over before every new commit was looked at."""
    return OrgSchedule(due_at=now if waits else now + interval_s)


def after_failure(before: OrgSchedule | None, now: float, interval_s: float, problem: str) -> OrgSchedule:
    """The next read, after one that failed: soon at first, then twice as late each time."""
    failures = (before.failures if before is not None else 0) + 1
    pause_s = min(FIRST_RETRY_S, interval_s) * 2.0 ** min(failures - 1, 30)
    return OrgSchedule(due_at=now + min(pause_s, longest_pause_s(interval_s)), failures=failures, problem=problem)


def longest_pause_s(interval_s: float) -> float:
    return LONGEST_PAUSE_INTERVALS * interval_s
