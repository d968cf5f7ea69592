"""Whether the files of a checkpoint fit together: what the index says, what the configurations ask for."""

import json
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from modelops_dagster.clients.checkpoints.digests import read_safetensors_header
from modelops_dagster.domain.errors import IntegrityError
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.model_config import asks_for_code
from modelops_dagster.domain.repo_files import is_weight, remote_code_refused, require_complete, weight_map_of
from modelops_dagster.domain.safetensors import misplaced_tensors

INDEX_SUFFIX = ".safetensors.index.json"
CONFIG_SUFFIX = "config.json"
# an index of a model of a hundred thousand tensors is ten megabytes
MAX_JSON_BYTES = 256 << 20


def require_no_code(
    revision: ModelRevision, directory: Path, paths: Collection[str], *, judged: Collection[str] = ()
) -> None:
    """No configuration of any kind asks for code of the repository, but those that were `judged` to need none.

    Raises:
        UnsafeCheckpoint: one does.
        IntegrityError: one cannot be read.
    """
    for path in sorted(p for p in paths if p.endswith(CONFIG_SUFFIX) and p not in judged):
        if asks_for_code(_parsed(revision, directory, path)):
            raise remote_code_refused(revision, path)


def weight_maps(revision: ModelRevision, directory: Path, paths: Collection[str]) -> dict[str, dict[str, str]]:
    """index -> tensor -> file, of every index among `paths`.

    Raises:
        IntegrityError: an index cannot be read, or is none.
        UnsafeCheckpoint: it names a file outside of the checkpoint.
    """
    found: dict[str, dict[str, str]] = {}
    for path in sorted(p for p in paths if p.endswith(INDEX_SUFFIX)):
        try:
            found[path] = weight_map_of(_parsed(revision, directory, path), str(PurePosixPath(path).parent))
        except ValueError as error:
            raise IntegrityError(f"{path} of {revision} {error}: ask its publisher to upload it again.") from error
    return found


def require_indexed(revision: ModelRevision, maps: dict[str, dict[str, str]], paths: Collection[str]) -> None:
    """Every file that a weight index names is part of the release.

    Raises:
        NoWeights: some are not.
    """
    named = {file for weight_map in maps.values() for file in weight_map.values()}
    require_complete(revision, sorted(named.difference(paths)))


def require_placed(
    revision: ModelRevision, directory: Path, maps: dict[str, dict[str, str]], paths: Collection[str]
) -> None:
    """Every tensor is in the file where the index says it is; an engine would look for it there.

    Raises:
        IntegrityError: some are not, or a file is not sound.
    """
    if not maps:
        return
    headers = {p: read_safetensors_header(directory / p) for p in paths if is_weight(p)}
    for path, weight_map in maps.items():
        if misplaced := misplaced_tensors(weight_map, headers):
            shown = ", ".join(misplaced[:3]) + (f" and {len(misplaced) - 3} more" if len(misplaced) > 3 else "")
            raise IntegrityError(
                f"{path} of {revision} says that files have tensors which they do not have: {shown}; wait until its "
                "publisher has corrected it, then onboard the newer commit."
            )


def _parsed(revision: ModelRevision, directory: Path, path: str) -> object:
    content = directory / path
    if content.stat().st_size > MAX_JSON_BYTES:
        raise IntegrityError(
            f"{path} of {revision} has {content.stat().st_size} bytes, far more than any real one: do not use this "
            "revision, and tell its publisher."
        )
    try:
        parsed: object = json.loads(content.read_bytes())
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} of {revision} is not JSON: ask its publisher to upload it again.") from error
    return parsed
