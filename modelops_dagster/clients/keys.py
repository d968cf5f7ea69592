"""Keys as files, one per key: the gateway's and the controller's. A key is kept as its sha256 only, and shown once."""

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import ValidationError

from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.access import AccessKey, Role
from modelops_dagster.domain.errors import IntegrityError, InvalidSpec
from modelops_dagster.domain.gateway import KeyRecord

PREFIX = "sk-mo-"
ACCESS_PREFIX = "mo-"


R = TypeVar("R", KeyRecord, AccessKey)


class HashedKeys(Generic[R]):
    """`<folder>/<key id>.json`, readable by the owner only.

    A key's file is found by its digest, so looking one up looks at one small file, parses it again only when it was
    replaced, and sees a revocation at once, in every process. A store that cannot be read raises: whoever asks must
    then refuse.
    """

    prefix: ClassVar[str]
    record_type: type[R]
    listed_by: ClassVar[str]

    def __init__(self, folder: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._keys = folder
        self._now = now
        self._parsed: dict[str, tuple[tuple[int, ...], R]] = {}  # by key id: the file's identity, the record

    def prepare(self) -> None:
        """Make the folder, so that a missing one is an error from then on and not an empty store."""
        self._keys.mkdir(parents=True, exist_ok=True, mode=0o700)

    def make(self, **fields: Any) -> tuple[str, R]:
        """Make a key of 256 random bits, with the fields of its record that are not the key's own.

        Returns:
            The key, which is nowhere else, and what is kept of it.

        Raises:
            InvalidSpec: a field does not hold.
        """
        key = self.prefix + secrets.token_urlsafe(32)
        digest = _digest(key)
        try:
            record = self.record_type(key_id=digest[:16], key_sha256=digest, created_at=self._now(), **fields)
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0])
            said = first["msg"].removeprefix("Value error, ")
            raise InvalidSpec(f"the key cannot be made: {field}: {said}.", field=field) from error
        self.prepare()
        self._write(record)
        return key, record

    def list(self) -> tuple[R, ...]:
        """Every key, revoked ones too, oldest first.

        Raises:
            IntegrityError: a file of the store is not a key record.
            OSError: the store cannot be read.
        """
        if not self._keys.exists():
            return ()
        found = [self._read(path.stem) for path in self._keys.iterdir() if path.suffix == ".json"]
        return tuple(sorted((r for r in found if r is not None), key=lambda r: (r.created_at, r.key_id)))

    def revoke(self, key_id: str) -> R:
        """From now on the key is nobody's. Revoking twice changes nothing.

        Raises:
            InvalidSpec: there is no such key.
        """
        record = self._read(key_id) if key_id.isalnum() and self._keys.exists() else None
        if record is None:
            raise InvalidSpec(f"there is no key {key_id!r}; `{self.listed_by}` shows them.", field="key_id")
        if record.revoked_at is None:
            record = record.model_copy(update={"revoked_at": self._now()})
            self._write(record)
        return record

    def lookup(self, key: str) -> R | None:
        """The record of a valid key; None when it is unknown or revoked.

        Raises:
            IntegrityError: the file that should describe the key does not.
            OSError: the store cannot be read.
        """
        digest = _digest(key)
        record = self._read(digest[:16])
        if record is None or record.revoked_at is not None or not hmac.compare_digest(record.key_sha256, digest):
            return None
        return record

    def record(self, key_id: str) -> R | None:
        """The record of a valid key by its id; None when it is unknown or revoked.

        Raises:
            IntegrityError: the file that should describe the key does not.
            OSError: the store cannot be read.
        """
        record = self._read(key_id) if key_id.isalnum() else None
        return None if record is None or record.revoked_at is not None else record

    def _read(self, key_id: str) -> R | None:
        path = f"{self._keys}/{key_id}.json"
        try:
            there = os.stat(path)  # noqa: PTH116 - at every call
            version = (there.st_ino, there.st_mtime_ns, there.st_ctime_ns, there.st_size)
            known = self._parsed.get(key_id)
            if known is not None and known[0] == version:
                return known[1]
            text = Path(path).read_text()
        except FileNotFoundError:
            self._keys.stat()  # no such key is an answer, no such store is an error
            return None
        try:
            record = self.record_type.model_validate_json(text)
        except ValidationError as error:
            raise IntegrityError(f"{path} is not a key record; remove it, which revokes that key.") from error
        if record.key_id != key_id:
            raise IntegrityError(f"{path} holds the record of key {record.key_id}; remove it.")
        self._parsed[key_id] = (version, record)
        return record

    def _write(self, record: R) -> None:
        write_whole(self._keys / f"{record.key_id}.json", record.model_dump_json(indent=1) + "\n", is_private=True)


class KeyStore(HashedKeys[KeyRecord]):
    """The gateway's keys, `<root>/keys/<key id>.json`: who may call models."""

    prefix = PREFIX
    record_type = KeyRecord
    listed_by = "modelops keys list"

    def __init__(self, root: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(root / "keys", now=now)

    def create(
        self, alias: str, *, tags: Sequence[str] = (), models: Sequence[str] = (), **policy: Any
    ) -> tuple[str, KeyRecord]:
        """Make a key.

        Args:
            alias: who or what uses it.
            tags: of route targets it may reach.
            models: aliases it may call; none means all.
            policy: `team`, `budget_usd_per_day`, `rpm`, `tpm` and `log_prompts` of `KeyRecord`.

        Returns:
            The key, which is nowhere else, and what is kept of it.

        Raises:
            InvalidSpec: the alias, a tag or a model does not hold.
        """
        return self.make(alias=alias, tags=tuple(dict.fromkeys(tags)), models=tuple(dict.fromkeys(models)), **policy)

    def charged(self, key_id: str | None) -> KeyRecord:
        """The valid key that work is charged to: the named one, or the only one there is.

        Raises:
            InvalidSpec: it is not valid, or not the only one; names those there are.
        """
        valid = [r for r in self.list() if r.revoked_at is None]
        chosen = [r for r in valid if key_id in (None, r.key_id)]
        if len(chosen) != 1:
            have = ", ".join(f"{r.key_id} ({r.alias})" for r in valid) or "none; `modelops keys create` makes one"
            raise InvalidSpec(f"say by its id which key the batch is charged to; there are: {have}.", field="key_id")
        return chosen[0]


class AccessStore(HashedKeys[AccessKey]):
    """The controller's keys, `<home>/secrets/access/<key id>.json`: who may see and change what it owns."""

    prefix = ACCESS_PREFIX
    record_type = AccessKey
    listed_by = "modelops access list"

    def __init__(self, home: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(home / "secrets" / "access", now=now)

    def create(self, alias: str, role: Role) -> tuple[str, AccessKey]:
        """Make a key of a role.

        Raises:
            InvalidSpec: the alias does not hold.
        """
        return self.make(alias=alias, role=role)


def operator_key(path: Path) -> str:
    """The key the platform itself uses, made on first use. It sees routes and calls no model.

    Raises:
        IntegrityError: the file is empty.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        write_whole(fresh, "sk-" + secrets.token_urlsafe(32) + "\n", is_private=True)
        with contextlib.suppress(FileExistsError):  # two programs may start at once: the first one's key holds
            os.link(fresh, path)
        fresh.unlink()
    key = path.read_text().strip()
    if not key:
        raise IntegrityError(f"{path} is empty; remove it, and the gateway makes a new one when it starts.")
    return key


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
