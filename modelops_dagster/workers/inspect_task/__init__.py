"""The worker of the engine `inspect`: one Inspect task against one endpoint, within limits.

Runs in that engine's environment, from files alone: nothing of the rest of this package is imported.
"""
