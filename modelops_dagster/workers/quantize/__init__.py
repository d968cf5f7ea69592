"""Quantizing a checkpoint with llm-compressor, and comparing the result with its original.

Runs inside the `llmcompressor` engine's environment; imports nothing of modelops_dagster but this folder.
`python -m quantize REQUEST.json` does one task and leaves one JSON file. The client is `clients/quantization.py`.
"""
