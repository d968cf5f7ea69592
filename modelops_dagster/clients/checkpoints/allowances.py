"""`allow.yaml`: the commits that an operator allowed to bring code, by whom, when and why."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from modelops_dagster.clients.checkpoints.claims import claim
from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.allowances import Allowance
from modelops_dagster.domain.errors import IntegrityError, InvalidSpec
from modelops_dagster.domain.hub import ModelRevision

_HEADER = """\
# Which commits may bring code that engines run. Written by `modelops models allow` and `modelops models disallow`;
# entries are never removed, so that this file says who allowed what, when and why.
"""
_ENTRIES = TypeAdapter(tuple[Allowance, ...])


class AllowList:
    """The file at `path`, read anew at every question; absent means that nothing is allowed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> tuple[Allowance, ...]:
        """Every allowance ever given, oldest first.

        Raises:
            IntegrityError: the file cannot be understood; then nothing is allowed and nothing is guessed.
        """
        try:
            content = yaml.safe_load(self.path.read_text())
            return _ENTRIES.validate_python(content or ())
        except FileNotFoundError:
            return ()
        except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
            raise IntegrityError(
                f"{self.path} is not a list of allowances ({str(error).splitlines()[0]}): correct or remove it."
            ) from error

    def allows_code(self, revision: ModelRevision) -> bool:
        """Raises: IntegrityError as `entries`."""
        return any(a.holds and a.remote_code and a.revision == revision for a in self.entries())

    def allow(self, allowance: Allowance) -> None:
        """Add an allowance; one that holds already is replaced by a withdrawal and the new one."""

        def change(entries: tuple[Allowance, ...]) -> tuple[Allowance, ...]:
            kept = _withdrawn(entries, allowance.revision, allowance.by, allowance.at)
            return (*kept, allowance)

        self._change(change)

    def withdraw(self, revision: ModelRevision, by: str, at: datetime) -> None:
        """Take an allowance back.

        Raises:
            InvalidSpec: there is none that holds.
        """
        if not self.allows_code(revision):
            raise InvalidSpec(
                f"{revision.repo_id}@{revision.commit_hash} is not allowed anything: `modelops models allowed` lists "
                "what is.",
                field="revision",
            )
        self._change(lambda entries: _withdrawn(entries, revision, by, at))

    def _change(self, change: Callable[[tuple[Allowance, ...]], tuple[Allowance, ...]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with claim(self.path.with_name(f"{self.path.name}.claim")):
            entries = _ENTRIES.dump_python(change(self.entries()), mode="json", exclude_none=True)
            write_whole(self.path, _HEADER + yaml.safe_dump(entries, sort_keys=False, allow_unicode=True))


def _withdrawn(entries: tuple[Allowance, ...], revision: ModelRevision, by: str, at: datetime) -> tuple[Allowance, ...]:
    return tuple(
        a.model_copy(update={"withdrawn_by": by, "withdrawn_at": at}) if a.revision == revision and a.holds else a
        for a in entries
    )
