"""A file of requests as batches that may be asked for again: what was answered is not asked twice."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from modelops_dagster.clients.batches import BatchStore
from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.batch import Batch, BatchRequest, parse_requests
from modelops_dagster.domain.errors import InvalidSpec

ORIGIN = "origin"


class Collected(NamedTuple):
    """Where the lines are, and how many; every custom_id is in exactly one of the two."""

    answers: Path
    errors: Path
    answered: int
    failed: int


def read_requests(file: Path, alias: str | None) -> list[BatchRequest]:
    """The requests of a file in OpenAI's batch format.

    Args:
        alias: the model of every request; None: what each names.

    Raises:
        InvalidSpec: the file cannot be read, or a line does not hold.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InvalidSpec(
            f"{file} cannot be read ({error.strerror}); name a file of requests, one JSON object a line.", field="file"
        ) from error
    return list(parse_requests(lines, alias))


def submit_requests(
    store: BatchStore, key_id: str, filename: str, requests: Sequence[BatchRequest], *, origin: str | None = None
) -> Batch:
    """Make a batch of requests. `origin` names who asked, so that it is found again."""
    content = "".join(r.model_dump_json() + "\n" for r in requests)
    kept = store.add_file(key_id, filename, content.encode())
    return store.submit(key_id, kept.file_id, metadata={ORIGIN: origin} if origin else None)


def resume(
    store: BatchStore, key_id: str, filename: str, requests: Sequence[BatchRequest], *, origin: str
) -> tuple[Batch, ...]:
    """The batches of one origin, newest first, so that together they ask every request that has no answer yet.

    One that is under way is left to it; after one that ended, what got no answer is asked again.
    """
    batches = tuple(b for b in store.list(key_id) if b.metadata.get(ORIGIN) == origin)
    if batches and batches[0].active:
        return batches
    answered = {custom_id for b in batches for custom_id in store.answered(b)[0]}
    left = [r for r in requests if r.custom_id not in answered]
    if batches and not left:
        return batches
    return (submit_requests(store, key_id, filename, left, origin=origin), *batches)


def collect(store: BatchStore, batches: Sequence[Batch], answers: Path, errors: Path) -> Collected:
    """Write the answers of batches that ended, and the latest error of each request that got none."""
    good = _lines(store, [b.output_file_id for b in reversed(batches)])
    bad = {i: line for i, line in _lines(store, [b.error_file_id for b in reversed(batches)]).items() if i not in good}
    for path, lines in ((answers, good), (errors, bad)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(lines.values()), is_private=True)
    return Collected(answers, errors, len(good), len(bad))


def _lines(store: BatchStore, file_ids: Sequence[str]) -> dict[str, str]:
    """By custom_id, the last line that it has in the files."""
    found: dict[str, str] = {}
    for path in (store.file_path(file_id) for file_id in file_ids):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        found |= {str(json.loads(line)["custom_id"]): line for line in lines if line.endswith("\n")}
    return found
