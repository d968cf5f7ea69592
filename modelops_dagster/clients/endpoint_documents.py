"""Spec files of people, and what is found out about a checkpoint so that they become specs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.checkpoints.inventory import Inventory
from modelops_dagster.clients.endpoints import Launcher
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoint_spec import EndpointSpec
from modelops_dagster.domain.endpoint_spec.complaints import invalid_spec
from modelops_dagster.domain.endpoint_spec.document import EndpointDocument
from modelops_dagster.domain.errors import InvalidSpec

MAX_FILE_BYTES = 4 << 20


def read_documents(path: Path) -> list[Any]:
    """The documents of a YAML or JSON file, those between `---` each by itself; empty ones are left out.

    Raises:
        InvalidSpec: the file cannot be read.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidSpec(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB, and a spec is far smaller.")
        return [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d is not None]
    except FileNotFoundError:
        raise InvalidSpec(f"{path} does not exist; give the path of a spec, as docs/examples/ has them.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise InvalidSpec(f"{path} cannot be read as YAML or JSON: {' '.join(str(error).split())}.") from None


def parse_document(document: Any, where: str) -> EndpointDocument:
    """A person's document, seen to hold.

    Raises:
        InvalidSpec: names the field that does not hold.
    """
    if not isinstance(document, dict):
        raise InvalidSpec(f"{where} is not a mapping of fields; docs/examples/ has specs to begin with.")
    try:
        return EndpointDocument.model_validate(document)
    except ValidationError as error:
        raise invalid_spec(error, where) from error


class SpecResolver:
    """Turns documents into specs with what is in the checkpoint store and which engines are installed.

    Args:
        root: of the checkpoint store.
        accelerator: what engines serve on, as in the settings.
    """

    def __init__(self, root: Path, engines: Launcher, accelerator: Literal["auto", "cpu", "cuda"]) -> None:
        self._store = CheckpointStore(root)
        self._inventory = Inventory(root)
        self._engines = engines
        self._accelerator = accelerator

    def resolve(self, document: EndpointDocument, where: str = "") -> EndpointSpec:
        """The complete spec.

        Raises:
            InvalidSpec: the checkpoint is not in the store, is another one than the document says, or no engine for it
                is installed.
        """
        try:
            if not document.loads:
                return document.spec()
            checkpoint = self._checkpoint(document)
            revision = checkpoint.revision
            engine = document.engine or self._engine(checkpoint)
            return document.spec(
                engine_args=self._arguments(document, engine, checkpoint),
                model=f"{revision.repo_id}@{revision.commit_hash}",
                checkpoint=checkpoint.directory,
                checkpoint_digest=checkpoint.digest,
                quantization=checkpoint.scheme,
                engine=engine,
                served_model_name=document.served_model_name or str(revision),
            )
        except ValidationError as error:
            raise invalid_spec(error, where) from error

    def _arguments(self, document: EndpointDocument, engine: str, checkpoint: Checkpoint) -> tuple[str, ...]:
        """What the document says, and what lets the engine run code that an operator allowed the checkpoint."""
        allowed = self._engines.manifest(engine).remote_code_args if checkpoint.remote_code else ()
        return (*document.engine_args, *(a for a in allowed if a not in document.engine_args))

    def _checkpoint(self, document: EndpointDocument) -> Checkpoint:
        if document.checkpoint is not None:
            found = self._store.read(Path(document.checkpoint))
            if found is None:
                raise InvalidSpec(
                    f"{document.checkpoint} is not a whole checkpoint of the store; `modelops models list` shows "
                    "those there are.",
                    field="checkpoint",
                )
        else:
            found = self._by_model(document.model or "", document.quantization or "raw")
        for field, wanted, have in (
            ("quantization", document.quantization, found.scheme),
            ("checkpoint_digest", document.checkpoint_digest, found.digest),
        ):
            if wanted is not None and wanted != have:
                raise InvalidSpec(f"{field} is {wanted}, and the checkpoint in the store has {have}.", field=field)
        named = document.model
        if named is not None and not _is_named(found, named):
            raise InvalidSpec(
                f"{found.directory} is {found.revision} and not {named}; give one of them.", field="model"
            )
        return found

    def _by_model(self, model: str, scheme: str) -> Checkpoint:
        repo_id = model.partition("@")[0]
        stored = [c for c in self._inventory.checkpoints(repo_id) if c.scheme == scheme]
        read = (self._store.read(Path(c.directory)) for c in stored)
        found = [c for c in read if c is not None and _is_named(c, model)]
        if len(found) == 1:
            return found[0]
        there = ", ".join(sorted({str(c.revision) for c in stored})) or "none of this model"
        if not found:
            raise InvalidSpec(
                f"The store has no {scheme} checkpoint of {model} (there is: {there}); bring it with "
                f"`modelops onboard {repo_id}`.",
                field="model",
            )
        raise InvalidSpec(f"{model} is more than one checkpoint ({there}); name the commit.", field="model")

    def _engine(self, checkpoint: Checkpoint) -> str:
        """The first engine of the ladder that is installed and loads the checkpoint's scheme."""
        rungs = self._engines.rungs(self._accelerator, checkpoint.architectures, checkpoint.revision.repo_id)
        manifests = self._engines.manifests()
        for rung in rungs:
            schemes = manifests[rung.engine].schemes
            loads = not schemes or checkpoint.scheme in schemes
            if rung.variant is None and loads and self._engines.missing(rung.engine) is None:
                return rung.engine
        names = ", ".join(dict.fromkeys(rung.engine for rung in rungs)) or "none"
        raise InvalidSpec(
            f"No installed engine serves {checkpoint.revision} (those that could: {names}); install one with "
            "`modelops engines install`, or name another as engine.",
            field="engine",
        )


def _is_named(checkpoint: Checkpoint, model: str) -> bool:
    repo_id, _, commit = model.partition("@")
    revision = checkpoint.revision
    return revision.repo_id == repo_id and revision.commit_hash.startswith(commit)


def resolved(resolver: SpecResolver, paths: Sequence[Path]) -> Iterator[EndpointSpec]:
    """The spec of every document of every file, in order."""
    for path in paths:
        for document in read_documents(path):
            yield resolver.resolve(parse_document(document, str(path)), str(path))
