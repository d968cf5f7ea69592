"""framework_releases, tick by tick, on an instance of its own: alerts, retries, and nothing twice."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from modelops_dagster.assets.partitions import models
from modelops_dagster.assets.release import ReleaseConfig
from modelops_dagster.clients.alerts import Outbox
from modelops_dagster.clients.engine_install import MARKER_NAME
from modelops_dagster.clients.lineage import write_value
from modelops_dagster.domain.alerts import Alert
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import Parked
from modelops_dagster.domain.engines import RungResult
from modelops_dagster.domain.retries import FrameworkCursor
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.platform import EngineResource, GauntletResource
from modelops_dagster.resources.watch import AlertResource, FrameworkResource
from modelops_dagster.sensors.frameworks import MAX_RETRIES_PER_TICK, framework_sensor
from tests.fakes.github import GitHub
from tests.fakes.values import a_checkpoint, an_endpoint

VLLM, HF = "vllm-project/vllm", "huggingface/transformers"
COMMIT = "a" * 40
ENGINE = """name: vllm-cpu
summary: fake
version: {version}
accelerators: [cpu]
python: ">=3.11"
platforms: [linux-x86_64]
command: ["{{env}}/bin/python"]
"""


@dg.asset(partitions_def=models)
def release(config: ReleaseConfig, gauntlet: GauntletResource) -> None:
    """Takes the same configuration as the real chain."""
    del config, gauntlet


REPOSITORY = dg.Definitions(
    assets=[release],
    jobs=[dg.define_asset_job("onboard", selection=[release])],
    resources={"gauntlet": GauntletResource(eval_datasets="/e", policy_name="default", work="/w")},
).get_repository_def()


class Ticks:
    """One home, one sensor, and the daemon's part: the cursor goes from tick to tick."""

    def __init__(self, home: Path, github: GitHub) -> None:
        self.home, self.github = home, github
        self.cursor: str | None = None
        (home / "dagster").mkdir()
        self.instance = dg.DagsterInstance.local_temp(str(home / "dagster"))
        self.sensor = framework_sensor("onboard", 600)

    def tick(self) -> list[dg.RunRequest]:
        resources = {
            "frameworks": FrameworkResource(
                repos=[VLLM, HF], api_url=self.github.url, web_url=self.github.url, index_url=""
            ),
            "engines": EngineResource(
                engines=str(self.home / "engines"),
                cache=str(self.home / "cache"),
                accelerator="cpu",
                max_context=2048,
                min_tokens_per_second=1.0,
            ),
            "lineage": LineageResource(root=str(self.home / "lineage")),
            "alerts": AlertResource(folder=str(self.home / "alerts"), config_path=str(self.home / "alerts.yaml")),
        }
        with (
            dg.partition_loading_context(dynamic_partitions_store=self.instance),
            dg.build_sensor_context(
                instance=self.instance, cursor=self.cursor, resources=resources, repository_def=REPOSITORY
            ) as context,
        ):
            found = self.sensor.evaluate_tick(context)
        self.cursor = found.cursor if found.cursor is not None else self.cursor
        self.said = found.skip_message
        return list(found.run_requests or [])

    @property
    def alerts(self) -> list[Alert]:
        return [d.alert for d in Outbox(self.home / "alerts").recent(datetime.now(UTC))]

    def standing(self, repo_id: str, *ladder: RungResult) -> None:
        last = ladder[-1].rung
        endpoint = an_endpoint(checkpoint=checkpoint(repo_id), engine="transformers", rung=last, ladder=ladder)
        self.instance.add_dynamic_partitions("models", [repo_id])
        write_value(self.home / "lineage", "raw/endpoint", repo_id, "r", endpoint)

    def parked(self, repo_id: str, *ladder: RungResult) -> None:
        self.instance.add_dynamic_partitions("models", [repo_id])
        value = Parked(checkpoint=checkpoint(repo_id), ladder=ladder, parked_at=datetime.now(UTC))
        write_value(self.home / "lineage", "raw/parked", repo_id, "r", value)

    def install(self, version: str) -> None:
        """An engine whose environment is there, as far as the registry looks."""
        folder = self.home / "engines" / "vllm-cpu"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "engine.yaml").write_text(ENGINE.format(version=version))
        (folder / "requirements.lock").write_text(f"vllm=={version}\n")
        registry = EngineResource(
            engines=str(folder.parent), cache=str(self.home / "cache"), accelerator="cpu", max_context=9,
            min_tokens_per_second=1.0,
        ).registry()  # fmt: skip
        target = registry.target("vllm-cpu")
        (target / "bin").mkdir(parents=True)
        (target / "bin" / "python").touch()
        (target / MARKER_NAME).write_text("{}")
        self.version = registry.installed_versions()["vllm-cpu"]


def checkpoint(repo_id: str) -> Checkpoint:
    return a_checkpoint(repo_id, COMMIT, architectures=("NewForCausalLM",))


def rung(label: str, reason: str | None = None, version: str = "") -> RungResult:
    return RungResult.model_validate({"rung": label, "reason": reason, "engine_version": version})


@pytest.fixture
def ticks(tmp_path: Path) -> Iterator[Ticks]:
    with GitHub().running() as github:
        for repo in (VLLM, HF):
            github.publish(repo, "v1.0.0")
        yield Ticks(tmp_path, github)


def test_the_first_tick_is_the_baseline(ticks: Ticks):
    ticks.parked("acme/new", rung("vllm-cpu", "unsupported_architecture"))
    assert (ticks.tick(), ticks.alerts) == ([], [])
    assert ticks.said == "No new release; waiting for a newer engine: 1 model."


def test_a_newer_engine_tries_the_waiting_models_again_at_low_priority(ticks: Ticks):
    ticks.standing("acme/lower", rung("vllm-cpu", "unsupported_architecture"), rung("transformers"))
    ticks.standing("acme/top", rung("vllm-cpu"))
    ticks.standing("acme/large", rung("vllm-cpu", "out_of_memory"), rung("transformers"))
    ticks.parked("acme/parked", rung("vllm-cpu", "needs_newer_transformers"))
    ticks.tick()
    ticks.github.publish(VLLM, "v1.1.0")
    requests = ticks.tick()
    assert [r.partition_key for r in requests] == ["acme/lower", "acme/parked"]
    assert requests[0].run_key == f"acme/lower@{COMMIT}+{VLLM}@1.1.0"
    assert requests[0].run_config == {"ops": {"release": {"config": {"ref": COMMIT}}}}
    assert requests[0].tags["dagster/priority"] == "-5"
    assert requests[0].tags["modelops/retry"] == f"{VLLM} 1.1.0"
    (told,) = ticks.alerts
    assert (told.title, told.lines[-1]) == (f"{VLLM} 1.1.0", "tried again: acme/lower, acme/parked")
    assert ticks.tick() == []
    assert len(ticks.alerts) == 1


def test_a_retry_goes_under_the_policy_of_the_first_run(ticks: Ticks):
    ticks.parked("acme/new", rung("vllm-cpu", "unsupported_architecture"))
    config = {
        "ops": {"release": {"config": {"ref": COMMIT}}},
        "resources": {"gauntlet": {"config": {"policy_name": "strict", "eval_datasets": "/e", "work": "/w"}}},
    }
    tags = {"dagster/partition": "acme/new", "modelops/commit_hash": COMMIT, "modelops/policy": "strict"}
    ticks.instance.create_run_for_job(
        REPOSITORY.get_job("onboard"), run_config=config, tags={**tags, "modelops/lanes": "raw"}
    )
    ticks.tick()
    ticks.github.publish(VLLM, "v1.1.0")
    (request,) = ticks.tick()
    assert request.run_config == config
    assert (request.tags["modelops/policy"], request.tags["modelops/lanes"]) == ("strict", "raw")


def test_only_what_helps(ticks: Ticks):
    ticks.standing("acme/lower", rung("vllm-cpu", "unsupported_architecture"), rung("transformers"))
    ticks.tick()
    ticks.github.publish(HF, "v1.1.0")
    assert ticks.tick() == []
    assert ticks.alerts[0].lines[-1] == "no model waits for it"
    assert ticks.said == f"New: {HF} 1.1.0; no model waits for it."


def test_prereleases_wait_until_they_are_final(ticks: Ticks):
    ticks.parked("acme/new", rung("vllm-cpu", "unsupported_architecture"))
    ticks.tick()
    ticks.github.publish(VLLM, "v1.1.0", prerelease=True)
    assert ticks.tick() == []
    ticks.github.releases[VLLM][0]["prerelease"] = False
    assert [r.run_key for r in ticks.tick()] == [f"acme/new@{COMMIT}+{VLLM}@1.1.0"]


def test_an_engine_installed_later_tries_them_again(ticks: Ticks):
    """The release came first and changed nothing here; the environment that follows does."""
    ticks.install("1.0.0")
    ticks.standing("acme/lower", rung("vllm-cpu", "unsupported_architecture", ticks.version), rung("transformers"))
    ticks.tick()
    ticks.github.publish(VLLM, "v1.1.0")
    assert len(ticks.tick()) == 1
    assert ticks.alerts[0].lines[-1].startswith("installed here: vllm-cpu 1.0.0; a new engine is tried")
    assert ticks.tick() == []
    ticks.install("1.1.0")
    (request,) = ticks.tick()
    assert request.tags["modelops/retry"] == f"vllm-cpu {ticks.version}"
    assert ticks.tick() == []


def test_many_come_in_pieces(ticks: Ticks):
    n = 2 * MAX_RETRIES_PER_TICK + 3
    for number in range(n):
        ticks.parked(f"acme/m{number:03}", rung("vllm-cpu", "unsupported_architecture"))
    ticks.tick()
    ticks.github.publish(VLLM, "v1.1.0")
    requested = [[r.partition_key for r in ticks.tick()] for _ in range(4)]
    assert [len(r) for r in requested] == [MAX_RETRIES_PER_TICK, MAX_RETRIES_PER_TICK, 3, 0]
    assert len({r for tick in requested for r in tick}) == n


def test_a_model_that_was_removed_is_left_alone(ticks: Ticks):
    for repo_id in ("acme/gone", "acme/here"):
        ticks.parked(repo_id, rung("vllm-cpu", "unsupported_architecture"))
    ticks.tick()
    ticks.instance.delete_dynamic_partition("models", "acme/gone")
    ticks.github.publish(VLLM, "v1.1.0")
    assert [r.partition_key for r in ticks.tick()] == ["acme/here"]


def test_an_outage_hides_nothing(ticks: Ticks):
    ticks.parked("acme/new", rung("vllm-cpu", "unsupported_architecture"))
    ticks.tick()
    ticks.github.broken = {"/": (503, b"")}
    ticks.github.publish(VLLM, "v1.1.0")
    assert ticks.tick() == []
    ticks.github.broken = {}
    assert len(ticks.tick()) == 1


def test_an_outage_at_the_first_tick_does_not_make_the_baseline(ticks: Ticks):
    ticks.github.broken = {f"/repos/{VLLM}": (503, b""), f"/{VLLM}": (503, b"")}
    ticks.tick()
    ticks.github.broken = {}
    assert (ticks.tick(), ticks.alerts) == ([], [])
    assert FrameworkCursor.model_validate_json(ticks.cursor or "").frameworks[VLLM].seen == ("1.0.0",)


def test_when_the_alert_cannot_be_written_the_release_is_not_taken_as_seen(ticks: Ticks):
    ticks.parked("acme/new", rung("vllm-cpu", "unsupported_architecture"))
    ticks.tick()
    (ticks.home / "alerts").write_text("a file where the folder belongs")
    ticks.github.publish(VLLM, "v1.1.0")
    assert ticks.tick() == []
    (ticks.home / "alerts").unlink()
    assert len(ticks.tick()) == 1
    assert len(ticks.alerts) == 1
