"""What a verdict's page shows of the revision before."""

import dagster as dg

from modelops_dagster.assets.metadata import Metadata, table
from modelops_dagster.domain.comparison import Comparison, comparison_table


def comparison_metadata(comparison: Comparison | None) -> Metadata:
    """Both revisions' numbers as a table; nothing for the first revision of a model."""
    if comparison is None:
        return {}
    said = [comparison.note, *comparison.refused]
    return {
        "previous_commit": comparison.previous_commit,
        "compared_with_previous": table(comparison_table(comparison)),
        "not_compared": dg.MetadataValue.md("\n".join(f"- {line}" for line in said if line) or "none"),
    }
