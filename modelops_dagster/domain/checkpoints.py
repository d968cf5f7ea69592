"""A checkpoint: a directory of weights an engine can load, and the manifest that says what is in it."""

import hashlib
import json

from pydantic import Field

from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.schemes import Scheme
from modelops_dagster.domain.values import Value


class Derivation(Value):
    """How a quantized checkpoint was made: what went in, and what it took."""

    source_digest: str = Field(description="manifest digest of the checkpoint it was made from")
    recipe: str
    recipe_digest: str
    calibration_digest: str | None = Field(default=None, description="of the texts; None where none were used")
    calibration_samples: int = 0
    calibration_tokens: int = 0
    made_by: str = Field(description="engine, version and lock digest")
    path: str = Field(description="entry point of llm-compressor: oneshot or model_free_ptq")
    group_size: int | None = Field(
        default=None, description="inputs that share a scale; None where the scheme has none"
    )
    notes: tuple[str, ...] = Field(default=(), description="where it departed from the recipe, one sentence each")
    wall_s: float
    cpu_s: float = Field(description="seconds of all threads together")
    peak_rss_bytes: int
    taken_away: int = Field(default=0, description="times a cluster took its pod away, and it began again")
    lost_gpu_hours: float = Field(default=0.0, description="accelerators x hours of those attempts")


class ManifestFile(Value):
    path: str = Field(description="relative to the checkpoint directory, POSIX separators")
    size_bytes: int
    sha256: str = Field(description="64 hex digits")


class Manifest(Value):
    """File names, sizes and digests. Written last, so its presence means that the directory is whole."""

    revision: ModelRevision
    scheme: Scheme = "raw"
    source: str = Field(description="where the bytes came from: a Hub URL, or the checkpoint they were made from")
    derivation: Derivation | None = Field(default=None, description="None for a checkpoint as released")
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
    derivation: Derivation | None = Field(default=None, description="None for a checkpoint as released")
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
