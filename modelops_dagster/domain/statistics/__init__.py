"""Statistics of a promotion: pure functions; every formula names its source, and nothing here knows of models."""
