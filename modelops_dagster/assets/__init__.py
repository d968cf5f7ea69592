"""The asset graph, thin: each asset reads like the sentence that describes it, and calls a client."""

import warnings

import dagster as dg

# Partitioned checks are a preview and observable sources a beta. Both are used on purpose, with the version pinned;
# nothing else of the kind is, and what Dagster is to remove is not used at all: a test loads it all
# with both as errors.
warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec", dg.PreviewWarning)
warnings.filterwarnings("ignore", "Function `multi_observable_source_asset`", dg.BetaWarning)
