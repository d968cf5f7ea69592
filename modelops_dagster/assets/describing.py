"""What the UI says of an asset before it was ever materialized: owners, and the columns of the table behind it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from modelops_dagster.domain.score_columns import columns_of

COLUMN_SCHEMA = "dagster/column_schema"
TABLE_NAME = "dagster/table_name"


def table_schema(columns: Mapping[str, tuple[str, str]]) -> Mapping[str, Any]:
    """Definition metadata: type and meaning of each column by name."""
    described = [dg.TableColumn(name, type=kind, description=text) for name, (kind, text) in columns.items()]
    return {COLUMN_SCHEMA: dg.TableSchema(columns=described)}


def score_table(name: str) -> Mapping[str, Any]:
    """Definition metadata of an asset whose rows land in a table of the score history, or are a view of it."""
    return {TABLE_NAME: f"scores.{name}", **table_schema(columns_of(name))}


def owned_by(assets: Iterable[dg.AssetsDefinition | dg.AssetSpec], owners: Sequence[str]) -> Sequence[Any]:
    """The assets with these owners; a setting, because whoever runs the platform answers for it.

    Args:
        owners: e-mail addresses, or `team:name`.
    """
    return list(dg.map_asset_specs(lambda spec: spec.replace_attributes(owners=list(owners)), assets))
