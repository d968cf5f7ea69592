"""The objects of the API server: versions, owners of fields, and what happened, in order."""

import bisect
import copy
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Manifest = dict[str, Any]
Path = tuple[str, ...]
Key = tuple[str, str, str]  # plural, namespace, name
_IDENTITY = {("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace")}


class Refused(Exception):
    """What the API server answers instead of doing it: a Status with this code."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


@dataclass
class Stored:
    """One object, and which manager set which of its fields."""

    item: Manifest
    owners: dict[str, set[Path]] = field(default_factory=dict)


@dataclass(frozen=True)
class Happening:
    version: int
    kind: str
    key: Key
    item: Manifest


def leaves(value: Any, path: Path = ()) -> dict[Path, Any]:
    """The fields that have an owner each; a list of named entries is a mapping by name, any other list is one field."""
    if isinstance(value, dict) and value:
        return {p: leaf for key, item in value.items() for p, leaf in leaves(item, (*path, key)).items()}
    mark = merge_key(value)
    if mark is not None:
        return {p: leaf for item in value for p, leaf in leaves(item, (*path, f"{mark}={item[mark]}")).items()}
    return {path: value}


def merge_key(value: Any) -> str | None:
    """What tells the entries of a list apart, so that each has owners of its own; None: the list is one field."""
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return None
    return next((mark for mark in ("mountPath", "name") if all(mark in item for item in value)), None)


def merged(live: Any, wanted: Any) -> Any:
    """`live` with everything that is in `wanted`."""
    if isinstance(live, dict) and isinstance(wanted, dict):
        return {**live, **{key: merged(live.get(key), item) for key, item in wanted.items()}}
    mark = merge_key(wanted)
    if mark is not None and merge_key(live) == mark:
        entries = {item[mark]: item for item in live}
        for item in wanted:
            entries[item[mark]] = merged(entries.get(item[mark]), item)
        return list(entries.values())
    return copy.deepcopy(wanted)


def without(value: Any, path: Path) -> Any:
    """`value` without the field at `path`; what is empty then goes as well."""
    head, *rest = path
    if isinstance(value, list):
        mark = head.partition("=")[0]
        kept = []
        for item in value:
            if f"{mark}={item.get(mark)}" != head:
                kept.append(item)
            elif rest and set(smaller := without(item, tuple(rest))) - {mark}:
                kept.append(smaller)
        return kept
    if not isinstance(value, dict) or head not in value:
        return value
    inner = without(value[head], tuple(rest)) if rest else None
    out = {key: item for key, item in value.items() if key != head}
    return {**out, head: inner} if inner else out


class Store:
    """Every object. All methods are called with `lock` held by the caller or take it themselves."""

    def __init__(self, untyped: Callable[[Manifest], list[str]], refuse: Callable[[Manifest], list[str]]) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = 1
        self.oldest = 0
        self.happenings: list[Happening] = []
        self.objects: dict[Key, Stored] = {}
        self._untyped, self._refuse = untyped, refuse

    def apply(self, key: Key, wanted: Manifest, manager: str, *, force: bool) -> tuple[Manifest, bool]:
        """Server-side apply; returns the object and whether it is new."""
        with self.lock:
            unread = self._untyped(wanted)
            if unread:  # the code is the real one's
                raise Refused(500, "InternalError", f"failed to create typed patch object: {'; '.join(unread)}")
            stored = self.objects.get(key)
            created = stored is None
            stored = stored or Stored(self._born(wanted, key))
            mine = {path: value for path, value in leaves(wanted).items() if path not in _IDENTITY}
            if not created:
                self._conflicts(stored, mine, manager, force)
            item = stored.item
            others: set[Path] = set().union(*(owned for m, owned in stored.owners.items() if m != manager))
            for path in stored.owners.get(manager, set()) - set(mine) - others:
                item = without(item, path)
            item = merged(item, wanted)
            self._validate({**item, "metadata": {k: v for k, v in item["metadata"].items() if k != "managedFields"}})
            stored.owners[manager] = set(mine)
            return self._put(key, item, stored.owners, created), created

    def _conflicts(self, stored: Stored, mine: dict[Path, Any], manager: str, force: bool) -> None:
        live = leaves(stored.item)
        for other, owned in stored.owners.items():
            taken = {p for p in owned & set(mine) if other != manager and live.get(p) != mine[p]}
            if taken and not force:
                fields = ", ".join("." + ".".join(path) for path in sorted(taken))
                raise Refused(409, "Conflict", f'Apply failed with 1 conflict: conflict with "{other}": {fields}')
            owned -= taken

    def _validate(self, item: Manifest) -> None:
        said = self._refuse(item)
        if said:
            raise Refused(422, "Invalid", "; ".join(said))

    def _born(self, wanted: Manifest, key: Key) -> Manifest:
        born = {"uid": str(uuid.uuid4()), "creationTimestamp": _now(), "generation": 1}
        item: Manifest = {"apiVersion": wanted["apiVersion"], "kind": wanted["kind"], "metadata": born}
        if wanted["kind"] in ("Deployment", "LeaderWorkerSet"):
            item["spec"] = {"replicas": 1}  # the server's own default: nobody's field
        return item

    def create(self, key: Key, wanted: Manifest, *, validate: bool = True) -> Manifest:
        if validate:
            self._validate(wanted)
        with self.lock:
            if key in self.objects:
                raise Refused(409, "AlreadyExists", f"{key[0]} {key[2]!r} already exists")
            return self._put(key, merged(self._born(wanted, key), wanted), {}, True)

    def update(self, key: Key, changes: Manifest, manager: str) -> Manifest:
        """A merge patch: null removes."""
        with self.lock:
            stored = self.find(key)
            item = _patched(stored.item, changes)
            mine = {path for path in leaves(changes) if path not in _IDENTITY}
            for other, owned in stored.owners.items():
                if other != manager:
                    owned -= mine
            stored.owners.setdefault(manager, set()).update(mine)
            return self._put(key, item, stored.owners, False)

    def find(self, key: Key) -> Stored:
        stored = self.objects.get(key)
        if stored is None:
            raise Refused(404, "NotFound", f"{key[0]} {key[2]!r} not found")
        return stored

    def _put(self, key: Key, item: Manifest, owners: dict[str, set[Path]], created: bool) -> Manifest:
        before = self.objects.get(key)
        metadata = {**item["metadata"], "name": key[2]} | ({"namespace": key[1]} if key[1] else {})
        item = {**item, "metadata": metadata}
        if before is not None and before.item == item:
            before.owners = owners
            return item
        self.version += 1
        generation = metadata.get("generation", 1)
        if before is not None and before.item.get("spec") != item.get("spec"):
            generation += 1
        item["metadata"] = {**metadata, "resourceVersion": str(self.version), "generation": generation}
        self.objects[key] = Stored(item, owners)
        self._tell("ADDED" if created else "MODIFIED", key, item)
        return item

    def remove(self, key: Key) -> Manifest:
        with self.lock:
            item = self.find(key).item
            del self.objects[key]
            self.version += 1
            item = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
            self._tell("DELETED", key, item)
            return item

    def listed(self, plural: str, namespace: str, labels: dict[str, str]) -> list[Manifest]:
        with self.lock:
            return [
                stored.item
                for key, stored in sorted(self.objects.items())
                if key[0] == plural and namespace in ("", key[1]) and matches(stored.item, labels)
            ]

    def owners_of(self, key: Key) -> dict[str, set[Path]]:
        with self.lock:
            return {manager: set(paths) for manager, paths in self.find(key).owners.items()}

    def after(self, version: int) -> int:
        """Where in `happenings` those after this version begin."""
        return bisect.bisect_right(self.happenings, version, key=lambda happening: happening.version)

    def compact(self) -> None:
        """Forget what happened, as etcd does after some minutes: who watches from before must list again."""
        with self.lock:
            self.oldest = self.version
            self.happenings.clear()

    def _tell(self, kind: str, key: Key, item: Manifest) -> None:
        self.happenings.append(Happening(self.version, kind, key, item))
        self.changed.notify_all()


def matches(item: Manifest, labels: dict[str, str]) -> bool:
    carried = item["metadata"].get("labels") or {}
    return all(carried.get(name) == value for name, value in labels.items())


def _patched(value: Any, changes: Any) -> Any:
    if not isinstance(changes, dict):
        return copy.deepcopy(changes)
    out = dict(value) if isinstance(value, dict) else {}
    for key, item in changes.items():
        if item is None:
            out.pop(key, None)
        else:
            out[key] = _patched(out.get(key), item)
    return out


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
