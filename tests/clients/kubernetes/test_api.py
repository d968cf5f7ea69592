"""Our client against the fake API server: apply with owners of fields, watches that end, and every refusal."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import ApiException

from modelops_dagster.clients.kubernetes.api import KubernetesApi, NoSuchObject, VersionGone, refused
from modelops_dagster.clients.kubernetes.cache import KindCache
from modelops_dagster.domain.errors import ClusterUnavailable, Conflict, InvalidSpec, OverQuota, UserError
from tests.fakes.cluster.server import FakeApiServer
from tests.fakes.stack import wait_until

LABELS = {"app": "x"}
SELECTOR = "app=x"


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as server:
        yield server


@pytest.fixture
def api(server: FakeApiServer, tmp_path: Path) -> KubernetesApi:
    return KubernetesApi("modelops", server.kubeconfig(tmp_path))


def deployment(name: str = "x", *, replicas: int | None = None, image: str = "a:1") -> dict[str, Any]:
    spec: dict[str, Any] = {
        "selector": {"matchLabels": LABELS},
        "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "engine", "image": image}]}},
    }
    if replicas is not None:
        spec["replicas"] = replicas
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "modelops", "labels": LABELS},
        "spec": spec,
    }


# server-side apply


def test_applying_twice_changes_nothing(api: KubernetesApi):
    first = api.apply(deployment(), "modelops")
    again = api.apply(deployment(), "modelops")
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    changed = api.apply(deployment(image="a:2"), "modelops")
    assert changed["metadata"]["generation"] == first["metadata"]["generation"] + 1
    assert changed["metadata"]["uid"] == first["metadata"]["uid"]


def test_fields_of_others_stay_and_fields_left_out_go(api: KubernetesApi, server: FakeApiServer):
    api.apply(deployment(replicas=2), "modelops")
    marked = deployment()
    marked["metadata"]["annotations"] = {"theirs": "1"}
    api.apply({key: marked[key] for key in ("apiVersion", "kind", "metadata", "spec")}, "somebody")
    after = api.apply(deployment(), "modelops")
    assert after["metadata"]["annotations"] == {"theirs": "1"}
    assert "replicas" not in after["spec"], "set before, left out now, wanted by nobody else"
    assert server.store.owners_of(("deployments", "modelops", "x")).keys() == {"modelops", "somebody"}


def test_replicas_of_an_autoscaler_are_not_taken_back(api: KubernetesApi, server: FakeApiServer):
    api.apply(deployment(), "modelops")
    server.store.update(("deployments", "modelops", "x"), {"spec": {"replicas": 3}}, "keda-operator")
    assert api.apply(deployment(image="a:2"), "modelops")["spec"]["replicas"] == 3
    with pytest.raises(Conflict, match=r'conflict with "keda-operator": \.spec\.replicas'):
        api.apply(deployment(replicas=1), "modelops")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("spec", "replica"), 1, "spec.replica: no such field"),
        (("spec", "replicas"), "1", "is not of type int"),
        (("metadata", "name"), "Not_A_Name", "is not a DNS subdomain"),
    ],
)
def test_object_that_does_not_hold_is_refused_with_its_field(
    api: KubernetesApi, path: tuple[str, str], value: object, said: str
):
    item = deployment()
    item[path[0]][path[1]] = value
    with pytest.raises(InvalidSpec, match=said):
        api.apply(item, "modelops")


# reading


def test_list_by_labels_read_and_delete_with_what_is_owned(api: KubernetesApi):
    api.apply(deployment("one"), "modelops")
    other = deployment("two")
    other["metadata"]["labels"] = {"app": "y"}
    api.apply(other, "modelops")
    items, version = api.list("Deployment", SELECTOR)
    assert [item["metadata"]["name"] for item in items] == ["one"]
    assert int(version) > 0
    assert api.read("Deployment", "three") is None
    assert api.delete("Deployment", "three") is False
    assert api.delete("Deployment", "one") is True
    left = api.read("Deployment", "one")
    assert left is not None
    assert "deletionTimestamp" in left["metadata"], "it goes when its pods have gone"


def test_watch_tells_what_happened_since_and_ends_in_time(api: KubernetesApi):
    _, version = api.list("Deployment", SELECTOR)
    api.apply(deployment(), "modelops")
    api.apply(deployment(image="a:2"), "modelops")
    seen = [(kind, item["spec"]["template"]["spec"]["containers"][0]["image"]) for kind, item in _watch(api, version)]
    assert seen == [("ADDED", "a:1"), ("MODIFIED", "a:2")]


def _watch(api: KubernetesApi, version: str) -> list[tuple[str, dict[str, Any]]]:
    return list(api.watch("Deployment", SELECTOR, version, 1))


def test_forgotten_version_and_unknown_kind_are_told_apart(api: KubernetesApi, server: FakeApiServer):
    api.apply(deployment(), "modelops")
    server.store.compact()
    with pytest.raises(VersionGone):
        _watch(api, "1")
    server.absent.add("leaderworkersets")
    with pytest.raises(NoSuchObject):
        api.list("LeaderWorkerSet", SELECTOR)


def test_log_by_lines_and_after_a_time(api: KubernetesApi, server: FakeApiServer):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "modelops"}}
    pod["spec"] = {"containers": [{"name": "engine", "image": "a"}]}  # type: ignore[assignment]
    server.store.create(("pods", "modelops", "p"), pod)
    server.logs[("p", False)] = "2026-01-01T00:00:01Z one\n2026-01-01T00:00:02Z two\n"
    server.logs[("p", True)] = "2026-01-01T00:00:00Z before\n"
    assert api.log("p", "engine", {"tailLines": "1"}) == "two\n"
    since = {"sinceTime": "2026-01-01T00:00:02Z", "timestamps": "true"}
    assert api.log("p", "engine", since) == "2026-01-01T00:00:02Z two\n"
    assert api.log("p", "engine", {}, previous=True) == "before\n"
    assert api.log("gone", "engine", {}) == ""


# refusals


def test_every_refusal_is_a_sentence_that_says_what_to_do(api: KubernetesApi, server: FakeApiServer, tmp_path: Path):
    server.forbidden.add(("list", "deployments"))
    with pytest.raises(UserError, match=r"does not let this program GET .* cannot list resource"):
        api.list("Deployment", SELECTOR)
    server.failing = 503
    with pytest.raises(ClusterUnavailable, match="answered 503 to GET"):
        api.read("Deployment", "x")
    server.failing = None
    with pytest.raises(UserError, match="is not a usable kubeconfig"):
        KubernetesApi("modelops", tmp_path / "nothing")


def test_a_quota_on_objects_is_not_blamed_on_the_role():
    said = (
        'deployments.apps "x" is forbidden: exceeded quota: few, requested: count/deployments.apps=1, '
        "used: count/deployments.apps=2, limited: count/deployments.apps=2"
    )
    error = ApiException(status=403, reason="Forbidden")
    error.body = json.dumps({"message": said})
    assert str(refused(error, "PATCH", "/apis/apps/v1/namespaces/modelops/deployments/x")) == (
        "ResourceQuota few admits no further object (it asks for 1 count/deployments.apps where 2 of 2 are taken): "
        "raise the quota, stop what needs it least, or ask for less."
    )


def test_a_quota_on_pods_says_what_the_pod_lacks_and_whether_waiting_helps():
    error = ApiException(status=403, reason="Forbidden")
    full = "exceeded quota: few, requested: pods=1, used: pods=2, limited: pods=2"
    unsaid = "failed quota: few: must specify limits.cpu for: engine"
    found = []
    for said in (full, unsaid):
        error.body = json.dumps({"message": f'pods "x" is forbidden: {said}'})
        found.append(refused(error, "create", "pods of modelops"))
    assert [type(one) for one in found] == [OverQuota, UserError]
    assert str(found[0]).startswith("ResourceQuota few admits no further pod (it asks for 1 pods where 2 of 2")


def test_events_are_told_of_one_kind_and_reason_whichever_way_they_say_when(server: FakeApiServer, api: KubernetesApi):
    times = [{"lastTimestamp": "2026-01-01T12:00:00Z"}, {"lastTimestamp": None, "eventTime": "2026-01-01T12:00:00.5Z"}]
    for number, at in enumerate([*times, {}]):
        about = {"kind": "Job", "name": f"job-{number}"}
        for reason in ("FailedCreate", "SuccessfulCreate"):
            metadata = {"name": f"{number}-{reason}".lower(), "creationTimestamp": "2026-01-01T13:00:00Z"}
            event = {"apiVersion": "v1", "kind": "Event", "metadata": metadata, "involvedObject": about, **at}
            key = ("events", "modelops", metadata["name"])
            server.store.create(key, {**event, "reason": reason, "message": reason}, validate=False)
    found = list(api.events("Job", "FailedCreate"))
    assert [(name, message) for name, message, _ in found] == [(f"job-{n}", "FailedCreate") for n in range(3)]
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert [at - noon for _, _, at in found] == [timedelta(0), timedelta(seconds=0.5), timedelta(hours=1)]
    assert list(api.events("StatefulSet", "FailedCreate")) == []


def test_server_that_is_gone_is_unavailable(tmp_path: Path):
    with FakeApiServer() as server:
        api = KubernetesApi("modelops", server.kubeconfig(tmp_path))
        api.apply(deployment(), "modelops")
    with pytest.raises(ClusterUnavailable, match="does not answer"):
        api.read("Deployment", "x")


# the cache


@pytest.fixture
def cache(api: KubernetesApi) -> Iterator[KindCache]:
    told: list[str] = []
    cache = KindCache(api, "Deployment", SELECTOR, lambda item: told.append(item["metadata"]["name"]), watch_s=5)
    cache.told = told  # type: ignore[attr-defined]
    cache.start()
    assert cache.wait_synced(10)
    yield cache
    cache.stop()


def image(cache: KindCache, name: str = "x") -> str | None:
    item = cache.get(name)
    return None if item is None else str(item["spec"]["template"]["spec"]["containers"][0]["image"])


def test_cache_follows_by_one_list_and_one_watch(cache: KindCache, api: KubernetesApi, server: FakeApiServer):
    for number in range(20):
        api.apply(deployment(image=f"a:{number}"), "modelops")
    wait_until(lambda: image(cache), lambda seen: seen == "a:19")
    server.store.remove(("deployments", "modelops", "x"))
    wait_until(lambda: cache.get("x") is None)
    assert server.counts["list deployments"] == 1
    assert server.counts["watch deployments"] == 1
    assert server.counts["get deployments"] == 0


def test_answer_that_the_watch_overtook_is_not_taken(cache: KindCache, api: KubernetesApi, server: FakeApiServer):
    key = ("deployments", "modelops", "x")
    answered = api.apply(deployment(), "modelops")
    server.store.update(key, {"status": {"replicas": 1}}, "controller-manager")
    wait_until(lambda: (cache.get("x") or {}).get("status"))
    cache.put(answered)
    assert cache.get("x")["status"] == {"replicas": 1}, "nothing would tell it again"
    cache.put(server.store.update(key, {"status": {"replicas": 2}}, "controller-manager"))
    assert cache.get("x")["status"] == {"replicas": 2}
    server.store.remove(key)
    wait_until(lambda: cache.get("x") is None)
    cache.put(answered)
    assert cache.get("x") is None


def test_cache_survives_dropped_watches_forgotten_versions_and_a_server_that_fails(
    cache: KindCache, api: KubernetesApi, server: FakeApiServer
):
    api.apply(deployment(image="a:1"), "modelops")
    wait_until(lambda: image(cache) == "a:1")
    server.drop_watches()
    api.apply(deployment(image="a:2"), "modelops")
    wait_until(lambda: image(cache) == "a:2")
    assert server.counts["list deployments"] == 1, "a watch that ended goes on where it was"

    with server.store.lock:
        api_thread = threading.Thread(target=server.drop_watches)
        api_thread.start()
        server.store.version += 5
        server.store.compact()
    api_thread.join()
    api.apply(deployment(image="a:3"), "modelops")
    wait_until(lambda: image(cache) == "a:3")

    server.failing = 500
    server.drop_watches()
    wait_until(lambda: cache.trouble is not None)
    assert image(cache) == "a:3", "what was known stays known"
    server.failing = None
    wait_until(lambda: cache.trouble is None)
    api.apply(deployment(image="a:4"), "modelops")
    wait_until(lambda: image(cache) == "a:4")


def test_cache_of_a_kind_that_the_cluster_does_not_know_is_empty(api: KubernetesApi, server: FakeApiServer):
    server.absent.add("leaderworkersets")
    cache = KindCache(api, "LeaderWorkerSet", SELECTOR, lambda _: None, optional=True)
    cache.start()
    try:
        assert cache.wait_synced(10)
        assert cache.all() == []
        assert cache.trouble is None
    finally:
        cache.stop()


def test_waiting_for_a_change_needs_no_polling(cache: KindCache, api: KubernetesApi):
    api.apply(deployment(), "modelops")
    threading.Timer(0.2, lambda: api.apply(deployment(image="a:9"), "modelops")).start()
    began = time.monotonic()
    assert cache.wait_for(lambda: image(cache) == "a:9", 10)
    assert time.monotonic() - began < 9
    assert not cache.wait_for(lambda: False, 0.05)
