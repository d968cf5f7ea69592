"""The manifests under deploy/kubernetes: built, strictly valid, and as careful as docs/kubernetes.md says they are.

`kubectl kustomize` builds them where there is kubectl; the properties are checked on the base's own files everywhere.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster_k8s.launcher import K8sRunLauncher

from modelops_dagster.clients.kubernetes.api import KINDS
from modelops_dagster.clients.kubernetes.site_file import read_site
from modelops_dagster.domain.kubernetes import Site, platform_objects
from modelops_dagster.domain.kubernetes.names import PART_LABEL
from modelops_dagster.domain.kubernetes.steps import PART
from modelops_dagster.domain.kubernetes.text import as_yaml
from modelops_dagster.settings import Settings
from tests.fakes.cluster.schemas import problems

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "kubernetes"
BASE = DEPLOY / "base"
OVERLAYS = sorted(path.parent for path in (DEPLOY / "overlays").glob("*/kustomization.yaml"))
SECRET_WORDS = re.compile(r"password|token|secret|key", re.IGNORECASE)


def kustomization(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return found


def base_objects() -> list[dict[str, Any]]:
    files = [BASE / name for name in kustomization(BASE)["resources"]]
    return [item for path in files for item in yaml.safe_load_all(path.read_text()) if item]


OBJECTS = base_objects()


def built(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def of_kind(kind: str, objects: list[dict[str, Any]] = OBJECTS) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for item in OBJECTS:
        if item["kind"] in ("Deployment", "StatefulSet"):
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]


def test_every_object_is_strictly_valid_and_every_file_is_used():
    assert [f"{i['metadata']['name']}: {said}" for i in OBJECTS for said in problems(i)] == []
    found = kustomization(BASE)
    listed = {*found["resources"], *found["configurations"], "kustomization.yaml"}
    assert {path.name for path in BASE.glob("*.yaml")} == listed


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS], ids=lambda path: path.name)
def test_kustomize_builds_what_an_api_server_takes(folder: Path):
    if shutil.which("kubectl") is None:
        names = {f"../../{BASE.name}"} if folder != BASE else set(kustomization(BASE)["resources"])
        assert set(kustomization(folder)["resources"]) == names
        return
    objects = built(folder)
    assert [f"{i['metadata']['name']}: {said}" for i in objects for said in problems(i)] == []
    assert {i["metadata"].get("namespace") for i in objects if i["kind"] not in ("Namespace", "PriorityClass")} == {
        "modelops"
    }
    images = {c["image"] for _, pod in _pods(objects) for c in pod["containers"]}
    assert not [image for image in images if image.startswith("modelops/")], "every image was given its registry"
    code = of_kind("Deployment", objects)["modelops-code"]["spec"]["template"]["spec"]["containers"][0]
    variables = {e["name"]: e.get("value") for e in code["env"]}
    assert variables["MODELOPS_CORE_IMAGE"] == code["image"], "runs start in the image of the code location"


def _pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in objects:
        if item["kind"] in ("Deployment", "StatefulSet"):
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]


@pytest.mark.parametrize(("name", "pod"), list(pods()), ids=[name for name, _ in pods()])
def test_no_part_runs_as_root_writes_to_its_image_or_takes_what_it_was_not_given(name: str, pod: dict[str, Any]):
    security = pod["securityContext"]
    assert (security["runAsNonRoot"], security["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    assert pod["enableServiceLinks"] is False
    for container in pod["containers"]:
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} == set(container["resources"])
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "livenessProbe" in container or name == "modelops-daemon"


def test_only_those_who_ask_the_api_server_have_a_token():
    holders = {name for name, pod in pods() if pod["automountServiceAccountToken"]}
    assert holders == {"modelops-controller", "modelops-webserver", "modelops-daemon"}
    bound = {binding["subjects"][0]["name"] for binding in of_kind("RoleBinding").values()}
    assert bound == {"modelops-controller", "modelops-dagster", "modelops-run"}
    assert not of_kind("ClusterRole"), "nothing reaches beyond the namespace"


def test_rights_are_named_one_by_one_and_are_those_the_controller_uses():
    for role in of_kind("Role").values():
        for rule in role["rules"]:
            assert "*" not in str(rule)
            assert "secrets" not in rule["resources"], "nobody reads secrets through the API"
    rules = of_kind("Role")["modelops-controller"]["rules"]
    granted = {(rule["apiGroups"][0], resource): set(rule["verbs"]) for rule in rules for resource in rule["resources"]}
    for kind, found in KINDS.items():
        group = found.api.rpartition("/")[0]
        needs = {"Pod": {"get"}, "Event": {"list"}}.get(kind, {"create", "patch"})
        assert needs <= granted[group, found.plural], kind
    for watched in ("pods", "deployments", "leaderworkersets", "scaledobjects", "jobs"):
        assert {"list", "watch"} <= next(verbs for (_, plural), verbs in granted.items() if plural == watched)
    assert "delete" not in granted["", "persistentvolumeclaims"], "volumes are only their owner's to delete"


def test_no_secret_is_in_a_manifest():
    assert not of_kind("Secret")
    assert "secretGenerator" not in (BASE / "kustomization.yaml").read_text()
    for name, pod in pods():
        for container in pod["containers"]:
            for variable in container.get("env", ()):
                if SECRET_WORDS.search(variable["name"]) and "value" in variable:
                    pytest.fail(f"{name} has {variable['name']} in clear")
    instance = yaml.safe_load((BASE / "instance" / "dagster.yaml").read_text())
    assert instance["storage"]["postgres"]["postgres_db"]["password"] == {"env": "DAGSTER_PG_PASSWORD"}


def test_nobody_reaches_anybody_unless_a_policy_says_so():
    policies = of_kind("NetworkPolicy")
    assert policies["modelops-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    services = {name: item["spec"]["ports"][0]["port"] for name, item in of_kind("Service").items()}
    for name, port in services.items():
        allowed = [entry["port"] for rule in policies[name]["spec"]["ingress"] for entry in rule["ports"]]
        assert allowed == [port], name
    engines = policies["modelops-engines-egress"]["spec"]
    assert engines["policyTypes"] == ["Egress"]
    assert all("ipBlock" not in str(rule) for rule in engines["egress"])
    steps = policies["modelops-steps-egress"]["spec"]
    assert steps == {"podSelector": {"matchLabels": {PART_LABEL: PART}}, "policyTypes": ["Egress"]}


def test_who_may_be_only_one_is_one_and_gateways_are_several():
    deployments = of_kind("Deployment")
    for name in ("modelops-controller", "modelops-daemon"):
        spec = deployments[name]["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"}), name
    assert deployments["modelops-gateway"]["spec"]["replicas"] > 1


def test_every_volume_claim_is_there_and_is_what_engines_mount():
    claims = set(of_kind("PersistentVolumeClaim"))
    used = {
        volume["persistentVolumeClaim"]["claimName"]
        for _, pod in pods()
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert used == claims
    for path in (BASE / "instance" / "kubernetes.yaml", DEPLOY / "overlays" / "production" / "kubernetes.yaml"):
        site = read_site(path, must_exist=True)
        assert site.checkpoints.claim in claims


def test_priority_classes_are_those_that_are_printed_and_say_what_they_do():
    """Comments included: they are what an administrator reads before applying them."""
    head, _, printed = (BASE / "priority-classes.yaml").read_text().partition("\n")
    assert head == "# As `modelops endpoints render --platform` prints them."
    assert printed == as_yaml(platform_objects(Site()))
    classes = sorted(of_kind("PriorityClass").values(), key=lambda item: -item["value"])
    policies = [(item["preemptionPolicy"], "evicts nobody" in item["description"]) for item in classes]
    assert policies == [("PreemptLowerPriority", False), ("PreemptLowerPriority", False), ("Never", True)]
    (said,) = [line for line in printed.splitlines() if line.startswith("#")]
    for policy, does in (("PreemptLowerPriority", "evicts"), ("Never", "waits")):
        assert re.search(rf"{policy}\b[^;]* {does}\b", said), "one comment stands above every policy"


def test_settings_of_the_config_map_are_settings():
    (literals,) = [c["literals"] for c in kustomization(BASE)["configMapGenerator"] if c["name"] == "modelops-settings"]
    environ = dict(text.split("=", 1) for text in literals)
    settings = Settings.load(environ)
    assert settings.backend == "kubernetes"
    assert settings.controller_url == "http://modelops-controller:8400"
    assert settings.gateway_url == "http://modelops-gateway:4000"
    unknown = [n for n in environ if n.startswith("MODELOPS_") and n[9:].lower() not in {*Settings.model_fields}]
    assert unknown == []


def test_run_launcher_is_configured_as_dagster_wants_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODELOPS_CORE_IMAGE", "registry/core:1")
    instance = yaml.safe_load((BASE / "instance" / "dagster.yaml").read_text())
    launcher = instance["run_launcher"]
    result = process_config(resolve_to_config_type(K8sRunLauncher.config_type()), launcher["config"])
    assert result.success, result.errors
    config = launcher["config"]
    assert config["service_account_name"] in of_kind("ServiceAccount")
    pod = config["run_k8s_config"]["pod_spec_config"]
    assert pod["security_context"]["run_as_non_root"] is True
    assert pod["automount_service_account_token"] is True, "a run makes the pods of its steps"
    own = {
        e["name"]: e["value_from"]["field_ref"]["field_path"]
        for e in config["run_k8s_config"]["container_config"]["env"]
    }
    assert own == {"MODELOPS_POD_NAME": "metadata.name", "MODELOPS_POD_UID": "metadata.uid"}
    assert {name[9:].lower() for name in own} <= set(Settings.model_fields)
    assert config["run_k8s_config"]["container_config"]["security_context"]["read_only_root_filesystem"] is True


def test_images_come_from_locks_alone():
    text = (ROOT / "deploy" / "images" / "Dockerfile").read_text()
    installs = [line for line in text.splitlines() if "pip install" in line]
    assert installs
    assert all("--no-deps" in line for line in installs)
    assert all("-r /tmp/" in line or "--no-index" in line for line in installs)
    assert {line.split()[-1] for line in text.splitlines() if line.startswith("FROM")} >= {"core", "gateway"}
    for line in (ROOT / "deploy" / "images" / "cluster.lock").read_text().split():
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", line)
    builders = re.search(r"\^\(([^)]*)\)==", text)
    assert builders is not None
    locked = (ROOT / "requirements-dev.lock").read_text()
    for package in builders[1].split("|"):
        assert f"\n{package}==" in f"\n{locked}", package
