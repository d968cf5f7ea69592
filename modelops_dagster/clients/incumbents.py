"""Finding the incumbent and its answers: asked beside the candidate, else as they were stored, else not at all."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from modelops_dagster.clients.gauntlet.beside import Beside
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.clients.scores.answers import answers, latest_answers
from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.endpoints import Endpoint, EndpointState, EndpointStatus
from modelops_dagster.domain.errors import EndpointFailed, NotRunning
from modelops_dagster.domain.gateway import RouteTarget
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.incumbents import incumbent_endpoint, incumbent_target, is_answering, lane_of
from modelops_dagster.domain.policies import Policy
from modelops_dagster.domain.verdicts import Arms

WAKE_TIMEOUT_S = 900.0


class FoundIncumbent(NamedTuple):
    """`beside` is None when it cannot be asked, and `note` says why, as a clause."""

    target: RouteTarget | None
    beside: Beside | None
    note: str


class EndpointsPort(Protocol):
    """What is needed of a controller; `client.ModelOpsClient` is the real one."""

    def get(self, name: str) -> EndpointStatus | None: ...

    def start(self, name: str) -> EndpointStatus: ...

    def wait_ready(self, name: str, timeout_s: float, *, queue_limit_s: float) -> EndpointStatus: ...


def find_incumbent(routes: RouteStore, endpoints: EndpointsPort, candidate: Endpoint, policy: Policy) -> FoundIncumbent:
    """What the candidate's alias serves now, and whether it can be asked.

    One that sleeps is woken. It falls asleep again by itself when nobody has asked it for its cool-down period.

    Raises:
        IntegrityError: the alias's route document does not hold.
    """
    alias = candidate.checkpoint.revision.repo_id
    target = incumbent_target(routes.get(alias), candidate.name)
    if target is None:
        return FoundIncumbent(None, None, f"the alias {alias} serves no other endpoint")
    try:
        status = endpoints.get(target.endpoint)
        if status is not None and status.state is EndpointState.SLEEPING:
            endpoints.start(target.endpoint)
            status = endpoints.wait_ready(target.endpoint, WAKE_TIMEOUT_S, queue_limit_s=WAKE_TIMEOUT_S)
    except EndpointFailed as error:
        return FoundIncumbent(target, None, f"the incumbent slept and did not wake: {error.sentence}")
    except NotRunning:
        return FoundIncumbent(target, None, f"the controller cannot say whether the incumbent {target.endpoint} runs")
    if status is None or not is_answering(status):
        state = status.state.value if status else "gone"
        return FoundIncumbent(target, None, f"the incumbent {target.endpoint} is {state}")
    beside = Beside(incumbent_endpoint(target, status, candidate), lane_of(target, alias), policy.primary)
    return FoundIncumbent(target, beside, "")


def gather_arms(
    store: ScoreStore, policy: Policy, reports: Sequence[SuiteReport], target: RouteTarget | None, now: datetime
) -> tuple[Mapping[str, Arms], str]:
    """The rows of both arms for every suite the policy compares, and why there are none.

    Answers that were stored earlier stand in for an incumbent that could not be asked, if they are of the same
    instrument and not older than the policy's `history_days`.
    """
    arms: dict[str, Arms] = {}
    notes: list[str] = []
    for report in reports:
        if report.suite not in policy.compared_suites:
            continue
        who = report.incumbent
        if who is None and target is not None and policy.history_days:
            who = latest_answers(
                store,
                endpoint=target.endpoint,
                commit_hash=target.commit_hash,
                suite=report.suite,
                instrument=report.instrument,
                since=now - timedelta(days=policy.history_days),
            )
        if who is None:
            stored = f", and no answers of it on this instrument are younger than {counted(policy.history_days, 'day')}"
            notes.append((report.incumbent_note or "the incumbent was not asked") + (stored if target else ""))
            continue
        candidate, incumbent = (
            answers(store, run_id, report.suite, endpoint)
            for run_id, endpoint in ((report.run_id, report.endpoint.name), (who.run_id, who.endpoint))
        )
        arms[report.suite] = Arms(candidate, incumbent, who)
    return arms, notes[0] if notes else "no suite that it would be compared on has run"
