"""Changes of routes on purpose: which endpoint is meant, what entitles it, and swaps on hardware that holds one."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelops_dagster.clients.credentials import CredentialStore
from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.lineage import write_value
from modelops_dagster.clients.rollout import Rollout
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState, EndpointStatus
from modelops_dagster.domain.errors import EndpointFailed, InvalidSpec
from modelops_dagster.domain.gateway import Grant, Route, RouteTarget, litellm_deployments, with_targets
from modelops_dagster.domain.verdicts import Outcome, Verdict
from tests.fakes.values import a_verdict

AT = datetime(2026, 1, 2, tzinfo=UTC)
ALIAS, COMMIT = "acme/tiny", "c" * 40
NOBODY = GatewayClient("http://127.0.0.1:9")


class Machine:
    """Endpoints of a controller whose hardware holds one of them."""

    def __init__(self, *names: str, broken: str = "") -> None:
        self.running = names[0]
        self.names, self.broken, self.log = names, broken, list[str]()

    def get(self, name: str) -> EndpointStatus | None:
        if name not in self.names:
            return None
        runs = name == self.running
        spec = EndpointSpec(
            name=name,
            checkpoint=f"/store/{ALIAS}/{COMMIT}",
            checkpoint_digest="sha256:" + "d" * 64,
            engine="vllm",
            served_model_name="m",
        )
        state = EndpointState.RUNNING if runs else EndpointState.STOPPED
        url = f"http://127.0.0.1:1/{name}/v1" if runs else None
        return EndpointStatus(spec=spec, desired="Running" if runs else "Stopped", state=state, url=url, since=AT)

    def start(self, name: str) -> None:
        assert not self.running, "there is room for one"
        self.log.append(f"start {name}")
        self.running = "" if name == self.broken else name

    def stop(self, name: str) -> None:
        self.log.append(f"stop {name}")
        self.running = "" if self.running == name else self.running

    def wait_ready(self, name: str, timeout_s: float) -> EndpointStatus:
        status = self.get(name)
        assert status is not None
        return status

    def wait_stopped(self, name: str, timeout_s: float) -> None:
        assert self.running != name


def verdict(endpoint: str, outcome: Outcome = "pass") -> Verdict:
    fields = {"repo_id": ALIAS, "commit_hash": COMMIT, "lane": "fp8", "endpoint": endpoint, "decided_at": AT}
    return a_verdict(outcome, verdict_id=f"v-{endpoint}", **fields)


def serving(name: str, *tags: str) -> RouteTarget:
    grant = Grant(verdict_id="v0", at=AT)
    url = f"http://127.0.0.1:1/{name}/v1"
    return RouteTarget(endpoint=name, url=url, served_model_name="m", commit_hash=COMMIT, tags=tags, grant=grant)


@pytest.fixture
def routes(tmp_path: Path) -> RouteStore:
    store = RouteStore(tmp_path / "gateway")
    store.put(with_targets(None, ALIAS, [serving("bf16", "preview")], at=AT), 0)
    return store


@pytest.fixture
def rollout(routes: RouteStore, tmp_path: Path) -> Rollout:
    return Rollout(routes, NOBODY, lineage=tmp_path / "lineage")


def added(target: RouteTarget) -> Callable[[Route | None], Route]:
    return lambda r: with_targets(r, ALIAS, [*(r.targets if r else ()), target], at=AT)


def test_an_endpoint_of_the_controller_is_entitled_by_its_verdict(rollout: Rollout, tmp_path: Path) -> None:
    machine = Machine("new")
    plain = rollout.target(ALIAS, "new", machine)
    assert (plain.commit_hash, plain.tags, plain.grant) == (COMMIT, ("preview",), None)
    with pytest.raises(InvalidSpec, match="no verdict passed 'new'"):
        rollout.change(ALIAS, added(plain))
    write_value(tmp_path / "lineage", "fp8/verdict", ALIAS, "run", verdict("new", "fail"))
    assert rollout.target(ALIAS, "new", machine).grant is None
    write_value(tmp_path / "lineage", "fp8/verdict", ALIAS, "run", verdict("new"))
    passed = rollout.target(ALIAS, "new", machine)
    assert passed.grant == Grant(verdict_id="v-new", at=AT)
    done = rollout.change(ALIAS, added(passed))
    assert (done.route.version, done.served) == (2, False)


def test_an_override_is_recorded_with_its_name_and_reason(rollout: Rollout, routes: RouteStore) -> None:
    override = Grant(reason="needed for the demo", by="kim", at=AT)
    rollout.change(ALIAS, added(rollout.target(ALIAS, "new", Machine("new"), override=override)))
    kept = routes.get(ALIAS)
    assert kept is not None
    assert [t.grant for t in kept.targets][-1] == override


def test_what_nobody_knows_or_does_not_run_is_said(rollout: Rollout) -> None:
    with pytest.raises(InvalidSpec, match="no endpoint 'ghost' behind 'acme/tiny' \\(bf16\\)"):
        rollout.target(ALIAS, "ghost", Machine("new"))
    with pytest.raises(EndpointFailed, match="modelops endpoints start asleep"):
        rollout.target(ALIAS, "asleep", Machine("new", "asleep"))
    with pytest.raises(InvalidSpec, match="the aliases are: acme/tiny"):
        rollout.require("acme/other")


def test_a_swap_without_room_for_both_stops_the_old_one_first(rollout: Rollout) -> None:
    machine, said = Machine("bf16", "fp8"), list[str]()
    override = Grant(reason="measured by hand", by="kim", at=AT)
    done = rollout.recreate(ALIAS, "fp8", machine, grant=override, say=said.append)
    assert machine.log == ["stop bf16", "start fp8"]
    assert [(t.endpoint, t.tags) for t in done.route.targets] == [("fp8", ("preview",))]
    assert said == ["stopping bf16", "starting fp8"]


def test_a_swap_whose_endpoint_does_not_start_brings_the_old_one_back(rollout: Rollout, routes: RouteStore) -> None:
    machine = Machine("bf16", "fp8", broken="fp8")
    override = Grant(reason="measured by hand", by="kim", at=AT)
    with pytest.raises(EndpointFailed, match="answered by bf16 as before"):
        rollout.recreate(ALIAS, "fp8", machine, grant=override, say=lambda _: None)
    assert machine.running == "bf16"
    kept = routes.get(ALIAS)
    assert kept is not None
    assert [t.endpoint for t in kept.targets] == ["bf16"]


def test_nothing_is_stopped_for_an_endpoint_that_may_not_answer(rollout: Rollout) -> None:
    machine = Machine("bf16", "fp8")
    with pytest.raises(InvalidSpec, match="no verdict passed"):
        rollout.recreate(ALIAS, "fp8", machine, say=lambda _: None)
    assert machine.log == []


def test_a_new_endpoint_that_runs_already_has_the_alias_before_the_old_one_is_stopped(
    rollout: Rollout, routes: RouteStore
) -> None:
    class Roomy(Machine):
        """Both run."""

        def get(self, name: str) -> EndpointStatus | None:
            self.running = "" if f"stop {name}" in self.log else name
            return super().get(name)

        def stop(self, name: str) -> None:
            kept = routes.get(ALIAS)
            assert kept is not None
            assert [t.endpoint for t in kept.targets] == ["fp8"]
            super().stop(name)

    machine = Roomy("bf16", "fp8")
    rollout.recreate(ALIAS, "fp8", machine, grant=Grant(verdict_id="v1", at=AT), say=lambda _: None)
    assert machine.log == ["stop bf16"]


def test_an_endpoint_behind_another_alias_goes_on(rollout: Rollout, routes: RouteStore) -> None:
    routes.put(with_targets(None, "team/pinned", [serving("bf16")], at=AT), 0)
    machine = Machine("", "bf16", "fp8")
    rollout.recreate(ALIAS, "fp8", machine, grant=Grant(verdict_id="v1", at=AT), say=lambda _: None)
    assert machine.log == ["start fp8"]


def test_the_verdict_on_a_quantized_copy_is_found_by_the_commit_it_was_made_of(
    rollout: Rollout, tmp_path: Path
) -> None:
    class Derived(Machine):
        """Checkpoints that were made here, in folders of their own."""

        def get(self, name: str) -> EndpointStatus | None:
            status = super().get(name)
            assert status is not None
            spec = status.spec.model_copy(update={"checkpoint": f"/store/{ALIAS}/{COMMIT}-FP8_DYNAMIC-0a1b2c3d4e5f"})
            return status.model_copy(update={"spec": spec})

    write_value(tmp_path / "lineage", "fp8/verdict", ALIAS, "run", verdict("new"))
    found = rollout.target(ALIAS, "new", Derived("new"))
    assert (found.commit_hash, found.grant) == (COMMIT, Grant(verdict_id="v-new", at=AT))


def test_an_endpoint_of_somebody_elses_brings_its_key_price_and_timeout(rollout: Rollout) -> None:
    spec = EndpointSpec.model_validate(
        {
            "name": "theirs",
            "deployment": {"type": "none"},
            "target": {"api_endpoint": {"url": "http://h:1/v1", "model_id": "org/a b", "api_key_name": "A_KEY"}},
            "usd_per_hour": 2,
            "request_timeout_seconds": 30,
        }
    )
    status = EndpointStatus(spec=spec, desired="Running", state=EndpointState.RUNNING, url="http://h:1/v1", since=AT)

    class Theirs(Machine):
        def get(self, name: str) -> EndpointStatus | None:
            return status

    found = rollout.target(ALIAS, "theirs", Theirs("theirs"))
    assert (found.url, found.served_model_name, found.commit_hash) == ("http://h:1/v1", "org/a b", "org-a-b")
    assert (found.credential, found.usd_per_hour, found.timeout_s) == ("A_KEY", 2.0, 30.0)
    (deployment,) = litellm_deployments(with_targets(None, ALIAS, [found], at=AT), {"A_KEY": "sk-1"})
    assert deployment["litellm_params"]["api_key"] == "sk-1"
    assert deployment["litellm_params"]["timeout"] == 30.0


def test_a_key_may_be_a_variable_if_its_name_says_so(tmp_path: Path) -> None:
    variables = {"OPENAI_API_KEY": "sk-variable", "HF_TOKEN": "secret", "HOME": "/root"}
    store = CredentialStore(tmp_path / "credentials", variables.get)
    assert store.read(["OPENAI_API_KEY", "HF_TOKEN", "HOME", "OTHER_KEY"]) == {"OPENAI_API_KEY": "sk-variable"}
    store.put("OPENAI_API_KEY", "sk-kept")
    assert store.get("OPENAI_API_KEY") == "sk-kept"


def test_a_providers_key_is_kept_for_its_owner_only(tmp_path: Path) -> None:
    store = CredentialStore(tmp_path / "secrets/credentials")
    assert store.names() == ()
    store.put("openai", " sk-provider \n")
    assert store.names() == ("openai",)
    assert store.read(["openai", "none", "../openai"]) == {"openai": "sk-provider"}
    assert (tmp_path / "secrets/credentials/openai").stat().st_mode & 0o777 == 0o600
    for name, key in (("../x", "k"), ("x", " "), ("", "k")):
        with pytest.raises(InvalidSpec):
            store.put(name, key)
