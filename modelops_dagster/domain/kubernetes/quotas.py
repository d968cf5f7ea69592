"""Why a cluster makes no pod for a workload, as a sentence: most often a ResourceQuota of the namespace."""

import re

_EXCEEDED = re.compile(
    r"exceeded quota: (?P<quota>[a-z0-9.-]+), requested: (?P<asked>\S+), used: (?P<used>\S+), limited: (?P<hard>\S+)"
)
_UNNAMED = re.compile(r"failed quota: (?P<quota>[a-z0-9.-]+): must specify (?P<unsaid>.+)")
_FOR_CONTAINERS = re.compile(r" for: [a-z0-9,-]+")


def refused_pod(message: str) -> str:
    """What an admission controller said of a pod, as a sentence that names the quota and what to do.

    Args:
        message: of the condition ReplicaFailure or the event FailedCreate, as kube-apiserver words it.
    """
    told = " ".join(message.split()).rstrip(".").removeprefix("Error creating: ")
    return over_quota(told, "pod") or f"The cluster makes no pod: {told}."


def over_quota(told: str, kind: str) -> str | None:
    """Which quota refuses an object of this kind, and what to do; None when `told` speaks of none.

    Args:
        told: on one line, as kube-apiserver words it.
    """
    exceeded, unnamed = _EXCEEDED.search(told), _UNNAMED.search(told)
    if exceeded is not None:
        used, hard = _amounts(exceeded["used"]), _amounts(exceeded["hard"])
        short = [
            f"{asked} {resource} where {used.get(resource, '0')} of {hard.get(resource, '0')} are taken"
            for resource, asked in _amounts(exceeded["asked"]).items()
        ]
        return (
            f"ResourceQuota {exceeded['quota']} admits no further {kind} (it asks for {', '.join(short)}): raise the "
            "quota, stop what needs it least, or ask for less."
        )
    if unnamed is not None:
        resources = _FOR_CONTAINERS.sub("", unnamed["unsaid"]).replace("; ", ", ")
        return (
            f"ResourceQuota {unnamed['quota']} admits only pods whose containers say {resources}: set that in "
            "the spec, or give the namespace a LimitRange with defaults."
        )
    return None


def _amounts(listed: str) -> dict[str, str]:
    """`pods=1,requests.cpu=2` by resource."""
    pairs = (entry.partition("=") for entry in listed.rstrip(",").split(","))
    return {resource: amount for resource, _, amount in pairs}
