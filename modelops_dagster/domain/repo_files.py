"""Which files of a repository make a checkpoint, judged by their names, sizes and digests."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from modelops_dagster.domain.errors import NoTokenizer, NoWeights, UnsafeCheckpoint
from modelops_dagster.domain.hub import ModelRevision, Release, RepoFile

# Neither pickle (.bin, .pt, .pth, .ckpt) nor Python is on this list, so neither is ever fetched.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt", "LICENSE*", "README.md")
# Taken only where an operator allowed the commit to bring code.
CODE = ("*.py",)
# Second copies of the weights in other layouts, and files that no engine reads.
UNWANTED = ("original/*", "onnx/*", "openvino/*", "runs/*", "checkpoint-*/*")
WEIGHT_SUFFIXES = {
    ".safetensors": "safetensors",
    ".bin": "PyTorch pickle",
    ".pt": "PyTorch pickle",
    ".pth": "PyTorch pickle",
    ".ckpt": "PyTorch pickle",
    ".gguf": "GGUF",
    ".onnx": "ONNX",
    ".h5": "Keras",
    ".msgpack": "Flax",
}
# config.json is the Transformers layout, params.json Mistral's own
CONFIGS = ("config.json", "params.json")
# What turns text into tokens, whichever library wrote it.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "*.tiktoken", "*.model")
# What may change without the model being another one.
DOCUMENTS = re.compile(r"(readme|license|licence|notice|citation|changelog|model_card|use_policy)[^/]*", re.IGNORECASE)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.safetensors")


def require_safe_path(path: str) -> str:
    """Return `path` when it stays inside the directory it is joined to.

    Raises:
        UnsafeCheckpoint: it is absolute, climbs with `..`, or is not a plain POSIX path.
    """
    parts = path.split("/")
    if any(p in ("", ".", "..") for p in parts) or "\\" in path or "\0" in path:
        raise UnsafeCheckpoint(
            f"The repository lists the file {path!r}, which would be written outside the checkpoint directory: "
            "do not use this revision, and report it to the Hub."
        )
    return path


def is_weight(path: str) -> bool:
    return path.endswith(".safetensors")


def has_code(paths: Iterable[str]) -> bool:
    return any(_matches(p, CODE) for p in paths)


def wanted_files(files: Iterable[RepoFile], *, with_code: bool = False) -> tuple[RepoFile, ...]:
    """The files a checkpoint consists of: one set of safetensors, and what an engine reads beside them."""
    patterns = (*WANTED, *CODE) if with_code else WANTED
    chosen = [f for f in files if _matches(f.path, patterns) and not _matches(f.path, UNWANTED)]
    if any(is_weight(f.path) and not _is_consolidated(f.path) for f in chosen):
        chosen = [f for f in chosen if not _is_consolidated(f.path)]  # the same weights again, in Mistral's layout
    return tuple(chosen)


def checkpoint_files(release: Release, *, code_allowed: bool = False) -> tuple[RepoFile, ...]:
    """The files to fetch for `release`, after everything that can be refused without fetching was refused.

    Args:
        release: the revision and its listing.
        code_allowed: an operator allowed this commit to bring code.

    Raises:
        UnsafeCheckpoint: the release asks for code from the repository and no installed engine was found that does
            without, or it lists a path outside of the checkpoint.
        NoWeights: no safetensors, not all of them, or no configuration beside them.
        NoTokenizer: nothing that turns text into tokens.
    """
    for file in release.files:
        require_safe_path(file.path)
    if release.remote_code and not (code_allowed or release.runs_without_code):
        raise remote_code_refused(release.revision, "config.json")
    files = wanted_files(release.files, with_code=code_allowed)
    paths = [f.path for f in files]
    if not any(is_weight(p) for p in paths):
        formats = ", ".join(weight_formats(f.path for f in release.files)) or "no weights at all"
        raise NoWeights(
            f"{release.revision} has no safetensors weights (found: {formats}): choose a repository that publishes "
            "safetensors, since no other format is fetched."
        )
    if not any(c in paths for c in CONFIGS):
        raise NoWeights(
            f"{release.revision} has weights but no config.json, so no engine can load it: choose the model's own "
            "repository if this is an adapter or a part of it."
        )
    require_complete(release.revision, missing_shards(paths))
    if not code_allowed and not any(_matches(p, TOKENIZERS) for p in paths):
        raise NoTokenizer(
            f"{release.revision} has weights but no tokenizer (no tokenizer.json, tokenizer.model, tekken.json or "
            "vocabulary): wait until its publisher has uploaded one, then onboard the newer commit."
        )
    return files


def remote_code_refused(revision: ModelRevision, where: str) -> UnsafeCheckpoint:
    """The error for a release that wants its own code to be run; it says how an operator lets one commit do so."""
    return UnsafeCheckpoint(
        f"{revision} asks for code from the repository to be run (auto_map in its {where}), which is not done unless "
        "somebody has read it: choose a release whose architecture the engines know by themselves, or allow this one "
        f"commit with `modelops models allow {revision.repo_id}@{revision.commit_hash} --remote-code --reason TEXT`."
    )


def require_complete(revision: ModelRevision, missing: Sequence[str]) -> None:
    """Refuse a release that lacks the weight files in `missing`.

    Raises:
        NoWeights: `missing` is not empty.
    """
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise NoWeights(
            f"{revision} lacks {len(missing)} of its weight files ({names}): wait until its publisher has uploaded "
            "them, then onboard the newer commit."
        )


def weight_formats(paths: Iterable[str]) -> tuple[str, ...]:
    """Names of the weight formats among `paths`, for messages, each once."""
    return tuple(sorted({name for p in paths for end, name in WEIGHT_SUFFIXES.items() if p.lower().endswith(end)}))


def missing_shards(paths: Iterable[str]) -> tuple[str, ...]:
    """Shards that the names of the others promise (`…-00002-of-00003.safetensors`) and that are not there."""
    present = set(paths)
    promised: set[str] = set()
    for path in present:
        if shard := _SHARD.fullmatch(path):
            count = int(shard["count"])
            promised |= {f"{shard['stem']}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)}
    return tuple(sorted(promised - present))


def weight_map_of(index: object, folder: str) -> dict[str, str]:
    """tensor -> file, relative to the repository, of a parsed `model.safetensors.index.json` in `folder`.

    Raises:
        ValueError: it is no index, in words that fit after its name.
        UnsafeCheckpoint: it names a file outside of the repository.
    """
    weight_map = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(weight_map, Mapping) or not all(isinstance(v, str) for v in weight_map.values()):
        raise ValueError("has no weight_map of tensors to files")
    prefix = f"{folder}/" if folder not in ("", ".") else ""
    return {str(tensor): require_safe_path(f"{prefix}{name}") for tensor, name in weight_map.items()}


def content_digest(files: Iterable[RepoFile]) -> str:
    """Changes when weights, configuration, tokenizer or chat template do, and with no document. 32 hex digits."""
    counted = [f for f in wanted_files(files) if not DOCUMENTS.fullmatch(f.path.rpartition("/")[2])]
    lines = sorted(f"{f.path}\0{f.sha256 or f.git_sha1}\n" for f in counted)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


def git_blob_header(size_bytes: int) -> bytes:
    """What git hashes in front of a blob's content."""
    return b"blob %d\0" % size_bytes


def git_blob_sha1(content: bytes) -> str:
    """The id git gives to a file with this content."""
    return hashlib.sha1(git_blob_header(len(content)) + content, usedforsecurity=False).hexdigest()


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def mismatch(file: RepoFile, size_bytes: int, sha256: str, git_sha1: str) -> str | None:
    """How received bytes differ from the Hub's listing, as `expected …, got …`; None when they agree."""
    if size_bytes != file.size_bytes:
        return f"expected {file.size_bytes} bytes, got {size_bytes}"
    if file.sha256 is not None:
        return None if sha256 == file.sha256 else f"expected sha256 {file.sha256}, got {sha256}"
    if file.git_sha1 is not None:
        return None if git_sha1 == file.git_sha1 else f"expected git blob {file.git_sha1}, got {git_sha1}"
    return "the Hub lists no digest to compare it with"


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, p) for p in patterns)


def _is_consolidated(path: str) -> bool:
    return is_weight(path) and path.rpartition("/")[2].startswith("consolidated")
