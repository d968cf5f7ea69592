"""Every fault of a folder of suites: what cannot be read of it, and what makes its samples untrustworthy."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from modelops_dagster.clients.gauntlet.loading import GRADERS_NAME, load_spec, read_samples, unknown_rubrics
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.lint import Fault, lint
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.scorers import Execute


def lint_folder(folder: Path, execute: Execute | None = None) -> tuple[dict[str, int], list[Fault]]:
    """Samples by file, and every fault: a line that cannot be read does not hide what is wrong with the others.

    Args:
        execute: runs the solutions of code samples; without it they are not tried.

    Raises:
        InvalidSpec: the folder holds neither suites nor samples.
    """
    files = sorted(folder.glob("*.jsonl"))
    suites = sorted(p for p in folder.glob("*.yaml") if p.name != GRADERS_NAME)
    if not files and not suites:
        raise InvalidSpec(f"{folder} holds no samples: put at least one NAME.yaml and NAME.jsonl there.", field="DIR")
    sets: dict[str, tuple[Sample, ...]] = {}
    complaints: list[InvalidSpec] = []
    for path in files:
        try:
            sets[path.stem], found = read_samples(path)
            complaints += found
        except InvalidSpec as error:
            complaints.append(error)
    for path in suites:
        complaints += _suite_complaints(path, sets)
    faults = [Fault(rule="unreadable", samples=(), said=error.sentence) for error in complaints]
    return {name: len(samples) for name, samples in sets.items()}, [*faults, *lint(sets, execute)]


def _suite_complaints(path: Path, sets: Mapping[str, tuple[Sample, ...]]) -> Iterator[InvalidSpec]:
    """What is wrong with the YAML of a suite, or between it and its samples."""
    try:
        spec = load_spec(path)
        if spec.samples is None:
            return
        if not (path.parent / spec.samples).exists():
            read_samples(path.parent / spec.samples)
        yield from unknown_rubrics(path, spec, sets.get(Path(spec.samples).stem, ()))
    except InvalidSpec as error:
        yield error
