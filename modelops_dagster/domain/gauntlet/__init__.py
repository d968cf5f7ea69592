"""The Gauntlet: suites of samples, how a completion is scored, and what a report holds."""
