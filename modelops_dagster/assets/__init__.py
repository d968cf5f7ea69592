"""The asset graph, thin: each asset reads like the sentence that describes it, and calls a client."""

import warnings

import dagster as dg

# Partitioned checks are a preview and observable sources a beta. Both are used on purpose, with the version pinned.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
warnings.filterwarnings("ignore", category=dg.BetaWarning)
