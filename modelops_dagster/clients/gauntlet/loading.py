"""Suites and samples from a folder. What does not hold is one sentence that names file, line and field."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from modelops_dagster.clients.yaml_files import read_yaml
from modelops_dagster.domain.complaints import plain
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.rubrics import rubric_of
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.scorers import scorer_params
from modelops_dagster.domain.gauntlet.suite import Suite, SuiteSpec

GRADERS_NAME = "graders.yaml"
"""Beside the suites or in the home; no suite."""


def load_suites(folder: Path, names: Sequence[str] = ()) -> tuple[Suite, ...]:
    """Every suite of the folder (or the named ones), contract first, then datasets by name, performance last.

    Raises:
        InvalidSpec: the folder is missing, a name is unknown, or a file does not hold.
    """
    files = {p.stem: p for p in sorted(folder.glob("*.yaml")) if p.name != GRADERS_NAME}
    if not files:
        raise InvalidSpec(f"{folder} holds no suites: put at least one NAME.yaml there.", field="eval_datasets")
    unknown = [n for n in names if n not in files]
    if unknown:
        raise InvalidSpec(f"There is no suite {unknown[0]!r} in {folder}: use {', '.join(files)}.", field="suite")
    suites = [load_suite(files[name]) for name in (names or files)]
    order = {"contract": 0, "dataset": 1, "performance": 2}
    return tuple(sorted(suites, key=lambda s: (order[s.kind], s.name)))


def require_subset(name: str | None, suites: Sequence[Suite]) -> None:
    """Refuse the name of a subset that none of the suites has, which would otherwise ask them whole.

    Raises:
        InvalidSpec: says which there are.
    """
    known = sorted({subset for suite in suites for subset in suite.spec.subsets})
    if name is not None and name not in known:
        asked = ", ".join(suite.name for suite in suites)
        raise InvalidSpec(
            f"There is no subset {name!r} in {asked}; there are: {', '.join(known) or 'none'}.", field="subset"
        )


def load_suite(path: Path) -> Suite:
    """One suite with its samples.

    Raises:
        InvalidSpec: the YAML or a sample does not hold.
    """
    spec = load_spec(path)
    if spec.samples is None:
        return Suite(spec=spec)
    samples = load_samples(path.parent / spec.samples)
    for lacking in unknown_rubrics(path, spec, samples):
        raise lacking
    return Suite(spec=spec, samples=samples)


def load_spec(path: Path) -> SuiteSpec:
    """What the YAML of a suite says.

    Raises:
        InvalidSpec: it does not hold.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise InvalidSpec(f"{path} is not a mapping of settings: see README.md beside it.")
    try:
        spec = SuiteSpec.model_validate(raw)
    except ValidationError as error:
        field, said = _first(error)
        raise InvalidSpec(f"{path}: {field or 'the suite'}: {said}.", field=field or None) from error
    if spec.name != path.stem:
        raise InvalidSpec(f"{path}: the suite is named {spec.name!r}; give file and suite the same name.", field="name")
    if spec.samples is not None and Path(spec.samples).name != spec.samples:
        raise InvalidSpec(f"{path}: samples {spec.samples!r} must be a file in the same folder.", field="samples")
    return spec


def unknown_rubrics(path: Path, spec: SuiteSpec, samples: Sequence[Sample]) -> Iterator[InvalidSpec]:
    """A complaint about every sample that names a rubric its suite does not have."""
    for sample in samples:
        name = rubric_of(sample)
        if name is not None and name not in spec.rubrics:
            yield InvalidSpec(
                f"{path}: the sample {sample.id!r} names the rubric {name!r}; the suite has "
                f"{', '.join(spec.rubrics) or 'none'}.",
                field="rubrics",
            )


def load_samples(path: Path) -> tuple[Sample, ...]:
    """The samples of a JSONL file, every scorer parameter checked.

    Raises:
        InvalidSpec: the file is missing or empty, or a line does not hold.
    """
    samples, complaints = read_samples(path)
    if complaints:
        raise complaints[0]
    return samples


def read_samples(path: Path) -> tuple[tuple[Sample, ...], list[InvalidSpec]]:
    """The samples of a JSONL file, and a complaint about every line that does not hold.

    Raises:
        InvalidSpec: the file is missing or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InvalidSpec(f"The samples file {path} does not exist: create it, or correct `samples`.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"{path} cannot be read as UTF-8 text: {_one_line(error)}.") from error
    samples: list[Sample] = []
    complaints: list[InvalidSpec] = []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            sample = _sample(line, where)
            if sample.id in lines_of:
                raise InvalidSpec(
                    f"{where}: the id {sample.id!r} is already on line {lines_of[sample.id]}.", field="id"
                )
        except InvalidSpec as error:
            complaints.append(error)
            continue
        lines_of[sample.id] = number
        samples.append(sample)
    if not samples and not complaints:
        raise InvalidSpec(f"{path} holds no samples: write one JSON object a line.")
    return tuple(samples), complaints


def _sample(line: str, where: str) -> Sample:
    try:
        sample = Sample.model_validate(json.loads(line))
        scorer_params(sample)
    except json.JSONDecodeError as error:
        raise InvalidSpec(f"{where}: not a JSON object: {error.msg} at column {error.colno}.") from error
    except ValidationError as error:
        field, said = _first(error)
        raise InvalidSpec(f"{where}: {field or 'the sample'}: {said}.", field=field or None) from error
    except ValueError as error:
        raise InvalidSpec(f"{where}: {_one_line(error)}.", field="metadata") from error
    return sample


def _first(error: ValidationError) -> tuple[str, str]:
    found = error.errors()[0]
    said = plain(found)
    if not isinstance(found["input"], dict | list) and found["type"] not in ("extra_forbidden", "missing"):
        said = f"{said}, not {found['input']!r}"
    return ".".join(map(str, found["loc"])), said


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
