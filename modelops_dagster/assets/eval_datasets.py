"""eval_datasets/<suite>: the samples as external assets; their data version is the digest of their content."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import get_args

import dagster as dg

from modelops_dagster.assets.describing import table_schema
from modelops_dagster.assets.metadata import table
from modelops_dagster.domain.gauntlet.samples import Sample, SampleMetadata
from modelops_dagster.domain.gauntlet.suite import Suite


def sample_columns() -> dict[str, tuple[str, str]]:
    """Type and meaning of each field of a line in a samples file, by its path."""
    below = {f"metadata.{name}": field for name, field in SampleMetadata.model_fields.items()}
    fields = {name: field for name, field in (Sample.model_fields | below).items() if name != "metadata"}
    simple = {str: "text", int: "int", float: "float"}
    found = {}
    for name, field in fields.items():
        kinds = {type(k) if isinstance(k, str) else k for k in get_args(field.annotation) if k is not NoneType}
        (kind, *more) = kinds or {field.annotation}
        found[name] = (simple.get(kind, "json") if not more else "json", field.description or "")
    return found


def dataset_asset(suite: Suite, folder: Path) -> dg.AssetsDefinition:
    """An observable asset: observing it records the digest, and the UI marks scores on older samples as stale.

    Args:
        folder: where the suite's files lie.
    """
    file = folder / (suite.spec.samples or f"{suite.name}.yaml")

    @dg.multi_observable_source_asset(  # type: ignore[untyped-decorator] # Dagster's own says nothing of types
        name=f"eval_datasets__{suite.name}",
        specs=[
            dg.AssetSpec(
                ["eval_datasets", suite.name],
                group_name="eval_datasets",
                kinds={"json" if suite.spec.samples else "yaml"},
                code_version=suite.digest.removeprefix("sha256:")[:12],
                description=f"Samples and settings of the suite {suite.name!r}. {suite.description}".strip(),
                metadata=table_schema(sample_columns()) if suite.spec.samples else {},
            )
        ],
    )
    def samples() -> Iterator[dg.ObserveResult]:
        asked = suite.asked()
        counts = Counter(sample.metadata.group for sample in asked)
        rows = [{"category": group, "samples": n} for group, n in counts.most_common()]
        yield dg.ObserveResult(
            data_version=dg.DataVersion(suite.digest),
            metadata={
                "samples_asked": len(asked),
                "samples_kept_back": suite.n_reserve,
                "categories": table(rows),
                "file": dg.MetadataValue.path(str(file)),
            },
        )

    made: dg.AssetsDefinition = samples
    return made
