"""eval_datasets/<suite>: the samples as external assets; their data version is the digest of their content."""

import dagster as dg

from modelops_dagster.domain.gauntlet.suite import Suite


def dataset_asset(suite: Suite) -> dg.SourceAsset:
    """An observable asset: observing it records the digest, and the UI marks scores on older samples as stale."""

    @dg.observable_source_asset(
        key=["eval_datasets", suite.name],
        group_name="eval_datasets",
        description=f"Samples and settings of the suite {suite.name!r}.",
    )
    def samples() -> dg.DataVersion:
        return dg.DataVersion(suite.digest)

    return samples
