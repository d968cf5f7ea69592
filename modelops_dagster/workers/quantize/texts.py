"""Texts as tokens: calibration samples and held-out windows, both chosen the same way every time."""

import json
import random
from pathlib import Path
from typing import Any

from .reports import Failed


def read_texts(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file, each with `text` or `messages`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def as_text(record: dict[str, Any], tokenizer: Any) -> str:
    """A record as the model would be given it: a conversation through its chat template, where it has one."""
    if "messages" not in record:
        return str(record["text"])
    if tokenizer.chat_template:
        return str(tokenizer.apply_chat_template(record["messages"], tokenize=False))
    return "\n\n".join(message["content"] for message in record["messages"])


def token_rows(records: list[dict[str, Any]], tokenizer: Any, *, samples: int, max_tokens: int, seed: int) -> Any:
    """At most `samples` texts, drawn by `seed`, cut to `max_tokens` each, as a `datasets.Dataset`."""
    from datasets import Dataset

    drawn = random.Random(seed).sample(records, min(samples, len(records)))  # noqa: S311 - a reproducible choice
    rows = [
        dict(tokenizer(as_text(r, tokenizer), truncation=True, max_length=max_tokens, add_special_tokens=False))
        for r in drawn
    ]
    return Dataset.from_list([{"input_ids": row["input_ids"], "attention_mask": row["attention_mask"]} for row in rows])


def windows(records: list[dict[str, Any]], tokenizer: Any, *, window_tokens: int, max_windows: int) -> Any:
    """The texts one after the other, cut into windows: shape (windows, window_tokens), int64.

    Raises:
        Failed: the texts do not fill one window.
    """
    import torch

    joined = "\n\n".join(as_text(record, tokenizer) for record in records)
    ids = tokenizer(joined, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    count = min(len(ids) // window_tokens, max_windows)
    if count == 0:
        raise Failed("crash", f"The held-out texts have {len(ids)} tokens, fewer than a window of {window_tokens}.")
    return ids[: count * window_tokens].view(count, window_tokens).to(torch.int64)
