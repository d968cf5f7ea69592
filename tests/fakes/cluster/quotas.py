"""ResourceQuotas of a namespace, refused in the words of kube-apiserver."""

from collections.abc import Mapping, Sequence

from tests.fakes.cluster.containers import OVER
from tests.fakes.cluster.store import Manifest

GPU = "nvidia.com/gpu"


def gpus_of(pod_spec: Manifest) -> int:
    """What the engine of a pod asks for."""
    return int(((pod_spec["containers"][0].get("resources") or {}).get("limits") or {}).get(GPU, 0))


def excess(quotas: Mapping[str, Mapping[str, int]], pod_spec: Manifest, pods: Sequence[Manifest]) -> str | None:
    """Why one more such pod is refused; None where it is not."""
    asked = _amounts(pod_spec)
    counted = [_amounts(pod["spec"]) for pod in pods if pod["status"].get("phase") not in OVER]
    for name, hard in quotas.items():
        used = {resource: sum(amounts[resource] for amounts in counted) for resource in hard}
        over = [r for r in sorted(hard) if asked[r] and used[r] + asked[r] > hard[r]]
        if over:
            told = [",".join(f"{r}={amounts[r]}" for r in over) for amounts in (asked, used, hard)]
            return f"forbidden: exceeded quota: {name}, requested: {told[0]}, used: {told[1]}, limited: {told[2]}"
    return None


def _amounts(pod_spec: Manifest) -> dict[str, int]:
    return {"pods": 1, f"requests.{GPU}": gpus_of(pod_spec)}
