"""modelops-dagster: from a commit on the Hub to a model developers can call, with the lineage kept."""

__version__ = "0.1.0"
