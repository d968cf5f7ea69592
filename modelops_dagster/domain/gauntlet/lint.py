"""What makes a set of samples untrustworthy, found without asking any model."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.scorers import Execute, score_completion
from modelops_dagster.domain.values import Value

NEAR = 0.8
"""Token Jaccard from which two inputs count as one question asked twice."""
NONSENSE = ("Zxqv.", "As I said before: blah, blah.")
BYTES_PER_TOKEN = 4
_TOKEN = re.compile(r"[a-z0-9]+|\w")
_AS_WRITTEN = ("exact", "includes", "numeric", "choice", "abstain", "unit_tests", "json_fields", "set")


class Fault(Value):
    """One fault: the rule, the samples it is about, and a sentence."""

    rule: str
    samples: tuple[str, ...]
    said: str


def lint(sets: Mapping[str, Sequence[Sample]], execute: Execute | None = None) -> list[Fault]:
    """Every fault of the sets, which are judged together: a question of one must not be in another.

    `execute` runs the solutions of code samples; without it they are not tried.
    """
    samples = [s for found in sets.values() for s in found if s.metadata.retired is None]
    out = [*_ids(samples), *_near(samples), *_clusters(samples), *_twins(samples), *_canaries(sets)]
    for sample in samples:
        out += _answers(sample, execute)
    return out


def _fault(rule: str, samples: Sequence[Sample], said: str) -> Fault:
    return Fault(rule=rule, samples=tuple(s.id for s in samples), said=said)


def _ids(samples: Sequence[Sample]) -> Iterator[Fault]:
    for name, n in Counter(s.id for s in samples).items():
        if n > 1:
            yield Fault(rule="id", samples=(name,), said=f"the id {name} is used {n} times")


def _question(sample: Sample) -> str:
    """What tells a sample from the others of its cluster: the last paragraph that the user writes."""
    return sample.messages()[-1]["content"].split("\n\n")[-1]


def _tokens(text: str) -> frozenset[str]:
    """Words and numbers; in scripts that put no spaces between words, characters."""
    return frozenset(_TOKEN.findall(text.lower()))


def _near(samples: Sequence[Sample]) -> Iterator[Fault]:
    """Pairs that ask the same twice. Twins are meant to be near, and clusters to share their passage."""
    whole = {s.id: _tokens(" ".join(m["content"] for m in s.messages())) for s in samples}
    asked = {s.id: _tokens(_question(s)) for s in samples}
    for left, right in combinations(samples, 2):
        splits = " and ".join(sorted({left.metadata.split, right.metadata.split}))
        if left.uid == right.uid:
            yield _fault("duplicate", (left, right), f"{left.id} and {right.id} are the same sample in {splits}")
            continue
        if left.metadata.twin == right.id or right.metadata.twin == left.id:
            continue
        if left.cluster == right.cluster and left.target != right.target:
            continue  # fillings of one template
        of = asked if left.cluster == right.cluster else whole
        a, b = of[left.id], of[right.id]
        if _is_near(a, b):
            yield _fault("near_duplicate", (left, right), f"{left.id} and {right.id} ask the same in {splits}")


def _is_near(a: frozenset[str], b: frozenset[str]) -> bool:
    if min(len(a), len(b)) < NEAR * max(len(a), len(b)):
        return False
    return len(a & b) >= NEAR * len(a | b)


def _clusters(samples: Sequence[Sample]) -> Iterator[Fault]:
    members = defaultdict(list)
    for sample in samples:
        members[sample.cluster].append(sample)
    for cluster, found in members.items():
        splits = sorted({s.metadata.split for s in found})
        if len(splits) > 1:
            yield _fault("split_leak", found, f"the cluster {cluster} lies in {' and '.join(splits)}")


def _twins(samples: Sequence[Sample]) -> Iterator[Fault]:
    by_id = {s.id: s for s in samples}
    for sample in samples:
        meta = sample.metadata
        if meta.twin is None:
            if meta.expected == "refuse" and meta.split != "sentinel":
                said = f"{sample.id} must be refused and has no twin that must be answered"
                yield _fault("missing_twin", (sample,), said)
            continue
        twin = by_id.get(meta.twin)
        if twin is None or twin.metadata.twin != sample.id:
            yield _fault("missing_twin", (sample,), f"{sample.id} names the twin {meta.twin}, which does not name it")
        elif {meta.expected, twin.metadata.expected} != {"refuse", "answer"}:
            yield _fault("missing_twin", (sample, twin), f"{sample.id} and {twin.id} are both to be {meta.expected}ed")
        elif (sample.cluster, meta.split) != (twin.cluster, twin.metadata.split):
            yield _fault("missing_twin", (sample, twin), f"{sample.id} and {twin.id} differ in cluster or split")


def _canaries(sets: Mapping[str, Sequence[Sample]]) -> Iterator[Fault]:
    for name, samples in sets.items():
        found = {s.metadata.canary for s in samples}
        bare = [s for s in samples if not s.metadata.canary]
        if bare:
            said = f"{len(bare)} of {len(samples)} samples of {name} carry no canary, the first is {bare[0].id}"
            yield _fault("canary", bare[:1], said)
        elif len(found) > 1:
            yield Fault(rule="canary", samples=(), said=f"the samples of {name} carry {len(found)} canaries")
        marks = [c for c in found if c]
        for sample in samples:
            asked = " ".join(m["content"] for m in sample.messages())
            if any(c in asked for c in marks):
                yield _fault("canary", (sample,), f"{sample.id} shows the canary to the model")


def _answers(sample: Sample, execute: Execute | None) -> Iterator[Fault]:
    """A target that does not pass by itself, a scorer that lets nonsense pass, a target too long to be written."""
    meta = sample.metadata
    for text in _written(sample):
        if meta.scorer == "unit_tests" and execute is None:
            break
        scored = score_completion(sample, Completion(text=text, finish_reason="stop"), execute)
        if scored.score is None:
            continue
        if scored.score < 1:
            said = f"{sample.id}: the target {text[:60]!r} does not pass: {scored.explanation}"
            yield _fault("unreachable_target", (sample,), said)
        if len(text.encode()) > BYTES_PER_TOKEN * (meta.max_tokens or 10**9):
            said = f"{sample.id}: the target needs more than {meta.max_tokens} tokens"
            yield _fault("unreachable_target", (sample,), said)
    shows_absence = meta.params.get("leak_only") or (meta.scorer == "refusal" and meta.expected == "answer")
    if meta.scorer == "unit_tests" or (shows_absence and not meta.params.get("requires")):
        return
    for text in NONSENSE:
        if (score_completion(sample, Completion(text=text, finish_reason="stop")).score or 0) > 0:
            yield _fault("always_right", (sample,), f"{sample.id}: {text!r} gets a score")


def _written(sample: Sample) -> Sequence[str]:
    """The targets as a model would write them, where they are answers and no descriptions."""
    meta = sample.metadata
    if meta.scorer not in _AS_WRITTEN or (meta.scorer == "abstain" and meta.expected == "abstain"):
        return ()
    if meta.scorer == "set":
        return (", ".join(sample.targets),)
    if meta.scorer == "includes" and meta.params.get("match") == "all":
        return (" ".join(sample.targets),)
    if meta.scorer == "json_fields" and (meta.params.get("fields") or not sample.targets[0]):
        return ()
    return sample.targets
