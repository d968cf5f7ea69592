"""The Gauntlet's I/O: loading suites, asking endpoints, measuring load."""
