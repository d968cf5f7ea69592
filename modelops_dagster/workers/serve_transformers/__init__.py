"""Serve one checkpoint with Transformers' generate() behind the OpenAI routes: the ladder's last rung.

Run with the `transformers` engine's own interpreter as `python -m serve_transformers`; knows nothing of the package
around it, hence the relative imports. Requests queue and are answered one at a time. What is not supported is refused
with a 400 that names the field, never ignored. Code that comes with a checkpoint is never run.
"""
