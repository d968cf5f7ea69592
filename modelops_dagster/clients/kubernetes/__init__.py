"""Clusters: the file that describes one, and its API server."""
