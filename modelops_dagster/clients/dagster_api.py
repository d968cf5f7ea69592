"""Dagster over GraphQL: what the CLI asks of a running instance, without importing Dagster."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import httpx

from modelops_dagster.domain.errors import InvalidSpec, ModelOpsError, NotRunning
from modelops_dagster.domain.lanes import decide_job, lane_job

LOCATION = "modelops_dagster"
REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": LOCATION}
PARTITIONS = "models"
ENDED = frozenset({"SUCCESS", "FAILURE", "CANCELED"})

ADD_PARTITION = """
mutation($key: String!, $name: String!, $selector: RepositorySelector!) {
  addDynamicPartition(partitionKey: $key, partitionsDefName: $name, repositorySelector: $selector) {
    __typename ... on PythonError { message } ... on UnauthorizedError { message }
  }
}"""
LAUNCH = """
mutation($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
RUN = """
query($id: ID!) {
  runOrError(runId: $id) {
    __typename
    ... on Run {
      runId status startTime endTime creationTime
      tags { key value }
      stepStats { stepKey status startTime endTime }
    }
  }
}"""
RUNS = """
query($filter: RunsFilter!) {
  runsOrError(filter: $filter, limit: 20) {
    __typename ... on Runs { results { runId status jobName creationTime startTime endTime tags { key value } } }
    ... on PythonError { message }
  }
}"""
EVENTS = """
query($id: ID!, $after: String) {
  logsForRun(runId: $id, afterCursor: $after, limit: 1000) {
    __typename
    ... on EventConnection {
      cursor
      hasMore
      events {
        __typename
        ... on MessageEvent { message timestamp stepKey level }
        ... on ExecutionStepFailureEvent { error { message } failureMetadata { description } }
        ... on RunFailureEvent { error { message } }
      }
    }
  }
}"""
LOCATIONS = """
query {
  workspaceOrError {
    __typename
    ... on Workspace { locationEntries {
        name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } }
  }
  instance { daemonHealth { allDaemonStatuses { daemonType healthy } } }
}"""
SENSOR = """
query($selector: SensorSelector!) {
  sensorOrError(sensorSelector: $selector) {
    __typename
    ... on Sensor { sensorState { status ticks(limit: 5) { status timestamp endTimestamp skipReason cursor
      error { message } runIds } } }
  }
}"""


class StepTime(NamedTuple):
    """When one step of a run started and ended, in seconds since the epoch; None while it has not."""

    step: str
    status: str
    started: float | None
    ended: float | None


class RunState(NamedTuple):
    """A run as the instance reports it."""

    run_id: str
    status: str
    started: float | None
    ended: float | None
    tags: dict[str, str]
    steps: tuple[StepTime, ...]


class LogEvent(NamedTuple):
    """One line of a run's event log. `failure` holds the sentence of a step that failed."""

    step: str | None
    level: str
    message: str
    kind: str
    failure: str | None


class DagsterClient:
    """The instance behind one Dagster UI.

    Every call raises NotRunning when nothing answers there.
    """

    def __init__(self, url: str, timeout_s: float = 30) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.Client(timeout=timeout_s)

    def _ask(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = self._http.post(f"{self._url}/graphql", json={"query": query, "variables": variables or {}})
            body = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise NotRunning(
                f"Dagster does not answer at {self._url}: start the platform with `modelops up`."
            ) from error
        if not isinstance(body, dict) or not (body.get("data") or body.get("errors")):
            # a UI that is still starting, or another program that took the port
            raise NotRunning(
                f"What answers at {self._url} is not Dagster yet (HTTP {answer.status_code}): wait until `modelops up` "
                "says that everything is ready, then try again."
            )
        if body.get("errors"):
            raise ModelOpsError(f"Dagster refused a query: {body['errors'][0]['message']}")
        data: dict[str, Any] = body["data"]
        return data

    def problem(self) -> str | None:
        """None when the code location is loaded and the daemons are healthy; otherwise what is missing."""
        data = self._ask(LOCATIONS)
        entries = data["workspaceOrError"].get("locationEntries", [])
        entry = next((e for e in entries if e["name"] == LOCATION), None)
        if entry is None or entry["loadStatus"] != "LOADED":
            return "the code location is still loading"
        loaded = entry["locationOrLoadError"]
        if loaded["__typename"] == "PythonError":
            return f"the code location does not load: {loaded['message'].strip().splitlines()[-1]}"
        health = data["instance"]["daemonHealth"]["allDaemonStatuses"]
        sick = sorted(d["daemonType"] for d in health if d["healthy"] is False)
        return f"waiting for the daemons {', '.join(sick)}" if sick else None

    def add_model(self, repo_id: str) -> None:
        """Add the partition; a key that exists already is fine."""
        data = self._ask(ADD_PARTITION, {"key": repo_id, "name": PARTITIONS, "selector": REPOSITORY})
        result = data["addDynamicPartition"]
        if result["__typename"] not in {"AddDynamicPartitionSuccess", "DuplicateDynamicPartitionError"}:
            raise ModelOpsError(f"Dagster could not add the partition {repo_id!r}: {result.get('message')}")

    def launch_onboard(self, repo_id: str, ref: str, accept: Sequence[str] = ()) -> str:
        """Queue the onboard run of one revision and return its run id; `accept`: findings that are not to block it."""
        config = {"ref": ref, "accept": list(accept)}
        return self._launch(repo_id, lane_job("raw"), {"ops": {"release": {"config": config}}})

    def launch_lane(self, repo_id: str, lane: str) -> str:
        """Queue the run of a quantized lane, on the weights that are there, and return its run id."""
        return self._launch(repo_id, lane_job(lane), {})

    def launch_decision(self, repo_id: str, lane: str) -> str:
        """Queue the run that decides about a model again from what is stored, and return its run id."""
        return self._launch(repo_id, decide_job(lane), {})

    def deciding(self, repo_id: str, lane: str) -> str | None:
        """The id of a run that is about to decide, or decides, about a model again; None when there is none."""
        result = self._ask(RUNS, {"filter": {"tags": [{"key": "dagster/partition", "value": repo_id}]}})["runsOrError"]
        runs = [r for r in result.get("results", []) if r["jobName"] == decide_job(lane) and r["status"] not in ENDED]
        return str(runs[0]["runId"]) if runs else None

    def launch_job(self, job: str, config: dict[str, Any]) -> str:
        """Queue a run of a job that is about no single model, and return its run id."""
        return self._launch("", job, config)

    def _launch(self, repo_id: str, job: str, config: dict[str, Any]) -> str:
        partition = [{"key": "dagster/partition", "value": repo_id}, {"key": "dagster/priority", "value": "4"}]
        params = {
            "selector": {**REPOSITORY, "jobName": job},
            "runConfigData": config,
            "executionMetadata": {
                "tags": [*(partition if repo_id else []), {"key": "modelops/source", "value": "cli"}]
            },
            "mode": "default",
        }
        result = self._ask(LAUNCH, {"params": params})["launchRun"]
        if result["__typename"] == "LaunchRunSuccess":
            return str(result["run"]["runId"])
        detail = result.get("message") or "; ".join(e["message"] for e in result.get("errors", []))
        of = f" for {repo_id!r}" if repo_id else ""
        raise InvalidSpec(f"Dagster did not accept the run of {job}{of}: {detail or result['__typename']}")

    def run(self, run_id: str) -> RunState | None:
        """One run, or None when the instance does not know it."""
        result = self._ask(RUN, {"id": run_id})["runOrError"]
        if result["__typename"] != "Run":
            return None
        return RunState(
            result["runId"],
            result["status"],
            result["startTime"],
            result["endTime"],
            {t["key"]: t["value"] for t in result["tags"]},
            tuple(StepTime(s["stepKey"], s["status"], s["startTime"], s["endTime"]) for s in result["stepStats"]),
        )

    def runs(self, repo_id: str) -> list[RunState]:
        """The newest runs of one model, newest first."""
        tags = [{"key": "dagster/partition", "value": repo_id}]
        result = self._ask(RUNS, {"filter": {"tags": tags}})["runsOrError"]
        return [
            RunState(
                r["runId"],
                r["status"],
                r["startTime"],
                r["endTime"],
                {t["key"]: t["value"] for t in r["tags"]},
                (),
            )
            for r in result.get("results", [])
        ]

    def events(self, run_id: str, after: str | None = None) -> tuple[list[LogEvent], str | None]:
        """The run's events after a cursor, and the next cursor."""
        result = self._ask(EVENTS, {"id": run_id, "after": after})["logsForRun"]
        out = []
        for e in result.get("events", []):
            error = e.get("error") or {}
            failure = None
            if e["__typename"] in {"ExecutionStepFailureEvent", "RunFailureEvent"}:
                described = (e.get("failureMetadata") or {}).get("description")
                failure = described or _last_line(error.get("message") or e.get("message") or "")
            out.append(LogEvent(e.get("stepKey"), e.get("level", ""), e.get("message", ""), e["__typename"], failure))
        return out, result.get("cursor")

    def last_ticks(self, sensor: str) -> list[dict[str, Any]]:
        """The newest ticks of a sensor, newest first."""
        result = self._ask(SENSOR, {"selector": {**REPOSITORY, "sensorName": sensor}})["sensorOrError"]
        ticks: list[dict[str, Any]] = result.get("sensorState", {}).get("ticks", [])
        return ticks

    def follow(
        self, run_id: str, on_event: Callable[[LogEvent], None], timeout_s: float = 86400, poll_s: float = 1.0
    ) -> RunState:
        """Call `on_event` for each event until the run has ended; a retry of a crashed run is followed in its stead.

        Raises:
            NotRunning: the instance went away, or the run did not end within `timeout_s`.
        """
        cursor: str | None = None
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            events, cursor = self.events(run_id, cursor)
            for event in events:
                on_event(event)
            state = self.run(run_id)
            if state is None:
                raise NotRunning(f"Dagster no longer knows run {run_id!r}: look at {self._url}/runs.")
            if state.status in ENDED and not events:
                successor = self._retry_of(state)
                if successor is None:
                    return state
                run_id, cursor = successor, None
            time.sleep(poll_s)
        raise NotRunning(f"run {run_id} did not end within {timeout_s:.0f} s: look at {self._url}/runs/{run_id}.")

    def _retry_of(self, state: RunState) -> str | None:
        """The automatic retry of a run whose process died, if the daemon has made one or is about to."""
        if state.tags.get("dagster/will_retry") != "true" or state.status != "FAILURE":
            return None
        for _ in range(60):
            child = (self.run(state.run_id) or state).tags.get("dagster/auto_retry_run_id")
            if child:
                return child
            time.sleep(1)
        return None


def _last_line(message: str) -> str:
    """The sentence of a failure message, without the class name in front."""
    line = message.strip().splitlines()[-1] if message.strip() else "no message"
    head, _, rest = line.partition(": ")
    return rest if rest and "." in head and " " not in head else line
