"""Partitions: one dynamic key per open-weights model (its repo_id)."""

import dagster as dg

models = dg.DynamicPartitionsDefinition(name="models")
