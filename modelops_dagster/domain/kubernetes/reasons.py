"""Why a field of a manifest is there, for those whose reason is not their name. Printed beside the field."""

from collections.abc import Mapping
from types import MappingProxyType

# kind (empty: any) and the end of the path -> the reason
REASONS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("Deployment", "metadata.name"): "one Deployment per revision: canary, swap and roll-back only move weights",
        ("Deployment", "spec.replicas"): "a fixed number: no autoscaler owns this field",
        ("LeaderWorkerSet", "spec.replicas"): "a fixed number of groups: no autoscaler owns this field",
        ("Deployment", "spec.progressDeadlineSeconds"): (
            "time to be placed and to load weights; the default of 600 s would call a large model failed"
        ),
        ("Deployment", "spec.strategy"): "no surge: it would need accelerators that are not there",
        ("LeaderWorkerSet", "spec.rolloutStrategy"): "no surge: it would need nodes that are not there",
        ("LeaderWorkerSet", "spec.startupPolicy"): "workers are placed as soon as their leader exists, not once ready",
        ("LeaderWorkerSet", "leaderWorkerTemplate.restartPolicy"): (
            "ranks that lost one of them cannot go on: all are started again together"
        ),
        ("LeaderWorkerSet", "leaderWorkerTemplate.size"): "nodes of one replica: the leader and its workers",
        ("", "spec.priorityClassName"): "who yields when accelerators are scarce: research, then previews",
        ("", "spec.terminationGracePeriodSeconds"): "calls under way end before the engine does",
        ("", "spec.automountServiceAccountToken"): "an engine never talks to the API server",
        ("", "spec.enableServiceLinks"): "a Service named vllm would put VLLM_PORT into the pod, which vLLM reads",
        ("", "securityContext.runAsNonRoot"): "refused by the kubelet, not only promised by the image",
        ("", "securityContext.fsGroupChangePolicy"): "do not walk through terabytes of weights at every start",
        ("", "securityContext.seccompProfile"): "the runtime's own list of system calls",
        ("", "securityContext.readOnlyRootFilesystem"): "what is written goes to the scratch volume",
        ("", "affinity.nodeAffinity"): "the node groups that the spec names",
        ("", "spec.tolerations"): "nodes with accelerators are tainted against everybody else",
        ("", "preStop.sleep"): "proxies take a moment to follow; until then calls still arrive",
        ("", "startupProbe.failureThreshold"): "periods that loading may take; until then no other probe counts",
        ("", "livenessProbe.failureThreshold"): "a dead engine answers 503, and one that is only busy does not",
        ("", "CUDA_VISIBLE_DEVICES.value"): "it asks for no GPU and can do without: those of its node are others'",
        ("", "limits.nvidia.com/gpu"): "accelerators are whole, so what is requested is the limit",
        ("", "persistentVolumeClaim.readOnly"): "every engine shares one store, and none may change it",
        ("", "scratch.emptyDir"): "compiled kernels and temporary files, gone with the pod",
        ("", "valueFrom.secretKeyRef"): "the value is read where it runs; no manifest holds a secret",
        ("Service", "spec.selector"): "the pods of this revision alone",
        ("PodDisruptionBudget", "spec.maxUnavailable"): "a drained node takes one replica at a time",
        ("PodDisruptionBudget", "spec.unhealthyPodEvictionPolicy"): "a replica that never got ready holds up no drain",
        ("PersistentVolumeClaim", "metadata.name"): "of the endpoint, not of a revision: it outlives every one",
        ("ScaledObject", "spec.scaleTargetRef"): "it owns the replicas; the workload leaves the field out",
        ("ScaledObject", "spec.minReplicaCount"): "what runs as soon as anything runs",
        ("ScaledObject", "spec.idleReplicaCount"): "nobody asks: no replica at all",
        ("ScaledObject", "spec.cooldownPeriod"): "seconds without demand before the last replica goes",
        ("ScaledObject", "spec.initialCooldownPeriod"): "do not put to sleep what is still loading for the first time",
        ("ScaledObject", "spec.fallback"): "metrics that cannot be read take no replica away",
        ("ScaledObject", "behavior.scaleUp"): "a replica takes minutes to load; count it before asking for the next",
        ("ScaledObject", "metadata.activationThreshold"): "wakes from zero; measured outside the pods, which have gone",
        ("TriggerAuthentication", "spec.secretTargetRef"): "KEDA reads the Secret itself; no manifest holds a secret",
        ("ScaledObject", "metadata.streamLength"): (
            "requests for each replica; one is deleted when it is answered, so the length counts those under way too"
        ),
        ("ScaledObject", "metadata.mode"): "requests for each replica; what a lost replica held waits again",
        ("ScaledObject", "triggers.authenticationRef"): "the credentials are those of the TriggerAuthentication above",
        ("", "labels.modelops.dev/takes-from-queue"): "what the NetworkPolicy lets out to the queue",
        ("", "consumer.image"): "takes requests from the queue, asks the engine beside it, stores the answers",
        ("Job", "spec.backoffLimit"): "retries after failures of its own",
        ("Job", "spec.podFailurePolicy"): "taken away for an endpoint is not a failure: the pod comes again",
        ("Job", "spec.podReplacementPolicy"): "the next pod waits until the old one gave its accelerators back",
        ("Job", "spec.activeDeadlineSeconds"): "research that forgot to end ends",
        ("Job", "spec.ttlSecondsAfterFinished"): "a day to read its logs",
        ("Pod", "metadata.ownerReferences"): "deleted with the pod of its run",
        ("Pod", "spec.restartPolicy"): "a pod that ended is looked at, and another one is made where that helps",
        ("Pod", "spec.activeDeadlineSeconds"): "what hangs gives its accelerators back",
        ("Pod", "spec.terminationGracePeriodSeconds"): "there is nothing to save",
        ("Pod", "volumeMounts.subPath"): "of the shared volume it sees the store, what it makes, and its own folder",
        ("PriorityClass", "preemptionPolicy"): (
            "PreemptLowerPriority evicts pods of lower classes where no node has room; Never, for research, waits"
        ),
        ("HTTPRoute", "spec.rules"): "weights are proportions of each other, not percent",
        ("LLMInferenceService", "spec.scaling"): "replicas and scaling exclude each other; zero is idleReplicaCount",
        ("", "metadata.labels.kueue.x-k8s.io/queue-name"): "Kueue admits it, and evicts lower priorities as a whole",
    }
)


def reason(kind: str, path: tuple[str, ...]) -> str | None:
    """Why the field at `path` of an object of this kind is there; None where its name says it."""
    for length in range(min(3, len(path)), 0, -1):
        end = ".".join(path[-length:])
        found = REASONS.get((kind, end)) or REASONS.get(("", end))
        if found is not None:
            return found
    return None
