"""The gateway: LiteLLM's proxy without a database, behind a gate that knows keys, routes and permissions.

A call goes through three layers, and each of them refuses on its own when something is missing:
`gate` (who are you, what do you ask for), LiteLLM's own checks through `plugin.auth`, and `plugin.logger`, which leaves
the Router only the deployments that the gate granted to this very call.
"""
