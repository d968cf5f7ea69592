"""A checkpoint: a directory of weights an engine can load, and the manifest that says what is in it."""

import hashlib
import json

from pydantic import Field

from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.schemes import Scheme
from modelops_dagster.domain.values import Value


class ManifestFile(Value):
    path: str = Field(description="relative to the checkpoint directory, POSIX separators")
    size_bytes: int
    sha256: str = Field(description="64 hex digits")


class Manifest(Value):
    """File names, sizes and digests. Written last, so its presence means that the directory is whole."""

    revision: ModelRevision
    scheme: Scheme = "raw"
    source: str = Field(description="where the bytes came from: a Hub URL, or the checkpoint they were made from")
    files: tuple[ManifestFile, ...]
    remote_code: bool = Field(default=False, description="holds code of the repository that an operator allowed")

    @property
    def digest(self) -> str:
        """`sha256:…` over the sorted (path, sha256) pairs: the identity of the content, whatever its location."""
        pairs = sorted((f.path, f.sha256) for f in self.files)
        return "sha256:" + hashlib.sha256(json.dumps(pairs).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        return sum(f.size_bytes for f in self.files)


class Checkpoint(Value):
    """A whole, verified directory of weights."""

    revision: ModelRevision
    scheme: Scheme
    directory: str = Field(description="absolute path on the shared filesystem")
    digest: str = Field(description="the manifest's digest")
    size_bytes: int
    max_context: int | None = Field(default=None, description="tokens")
    architectures: tuple[str, ...] = ()
    has_chat_template: bool = True
    remote_code: bool = Field(default=False, description="engines may run its Python files; an operator allowed it")


class Delivery(Value):
    """What making a checkpoint be there took."""

    checkpoint: Checkpoint
    fetched_bytes: int = Field(default=0, description="came from the Hub in this call")
    reused_bytes: int = Field(default=0, description="taken from another revision of the repository in this call")
    repaired: tuple[str, ...] = Field(default=(), description="files that were damaged, or gone, and are whole again")
    seconds: float = 0.0
