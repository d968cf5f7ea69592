"""What a cluster holds of ours, kept true by watches: nothing is asked again and again.

Each kind is listed once and then watched by a thread of its own. A watch that ends is begun again where it stopped;
when the server has forgotten that place, or a watch broke, the kind is listed again.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from modelops_dagster.clients.kubernetes.api import KubernetesApi, NoSuchObject, VersionGone
from modelops_dagster.domain.errors import ModelOpsError

log = logging.getLogger("modelops.kubernetes")
Manifest = dict[str, Any]
# what is kept of an object; the rest (managed fields above all) would be most of the memory
_KEPT = ("apiVersion", "kind", "metadata", "spec", "status")
_WATCH_S = 300
_FIRST_DELAY_S = 0.2
_MAX_DELAY_S = 30.0


class KindCache:
    """The objects of one kind, by name.

    Args:
        changed: told every object that came, changed or went.
        group_of: what objects are grouped by, for `group`.
        optional: the cluster may not know the kind; then there are no objects of it.
    """

    def __init__(
        self,
        api: KubernetesApi,
        kind: str,
        selector: str,
        changed: Callable[[Manifest], None],
        *,
        group_of: Callable[[Manifest], str] = lambda item: str(item["metadata"]["name"]),
        optional: bool = False,
        watch_s: int = _WATCH_S,
    ) -> None:
        self._api, self._kind, self._selector = api, kind, selector
        self._changed = changed
        self._optional = optional
        self._watch_s = watch_s
        self._group_of = group_of
        self._objects: dict[str, Manifest] = {}
        self._groups: dict[str, dict[str, Manifest]] = {}
        self._condition = threading.Condition()
        self._synced = False
        self._version: str | None = None  # up to which the server has told everything; None: list first
        self._stop = threading.Event()
        self.trouble: ModelOpsError | None = None
        self._thread = threading.Thread(target=self._follow, name=f"watch {kind}", daemon=True)

    def start(self) -> None:
        """List and watch, until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """End with the next event; the thread is a daemon and is not waited for."""
        self._stop.set()
        with self._condition:
            self._condition.notify_all()

    def wait_synced(self, timeout_s: float) -> bool:
        """Whether the kind was listed at least once."""
        with self._condition:
            return (
                self._condition.wait_for(lambda: self._synced or self.trouble is not None, timeout_s) and self._synced
            )

    def get(self, name: str) -> Manifest | None:
        with self._condition:
            return self._objects.get(name)

    def all(self) -> list[Manifest]:
        with self._condition:
            return list(self._objects.values())

    def group(self, key: str) -> list[Manifest]:
        """The objects of one group, by their age."""
        with self._condition:
            found = list(self._groups.get(key, {}).values())
        return sorted(found, key=lambda item: str(item["metadata"].get("creationTimestamp", "")))

    def put(self, item: Manifest) -> None:
        """Take an object as the server just answered it, so that nobody waits for the watch to say so.

        Unless the watch was quicker: what it told since, such as a status or the end of the object, is newer, and is
        not told again.
        """
        self._set(item, watched=False)

    def wait_for(self, good: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `good`, which is asked again with every change."""
        with self._condition:
            return self._condition.wait_for(lambda: good() or self._stop.is_set(), timeout_s)

    def _follow(self) -> None:
        delay_s = _FIRST_DELAY_S
        while not self._stop.is_set():
            try:
                if self._version is None:
                    self._list()
                version = str(self._version)
                for event, item in self._api.watch(self._kind, self._selector, version, self._watch_s):
                    self._take(event, item)
                    delay_s = _FIRST_DELAY_S
                    if self._stop.is_set():
                        return
                delay_s = _FIRST_DELAY_S
                self._stop.wait(_FIRST_DELAY_S)
            except VersionGone:
                self._version = None
            except NoSuchObject:
                self._absent()
                self._version = None
                self._stop.wait(_MAX_DELAY_S)
            except ModelOpsError as error:
                self._failed(error)
                self._version = None
                self._stop.wait(delay_s)
                delay_s = min(_MAX_DELAY_S, delay_s * 2)

    def _list(self) -> None:
        items, version = self._api.list(self._kind, self._selector)
        found = {item["metadata"]["name"]: _kept(item, self._kind) for item in items}
        with self._condition:
            gone = [item for name, item in self._objects.items() if name not in found]
            self._objects, self._groups = {}, {}
            for item in found.values():
                self._keep(item)
            self._synced, self.trouble, self._version = True, None, version
            self._condition.notify_all()
        for item in (*found.values(), *gone):
            self._changed(item)

    def _absent(self) -> None:
        with self._condition:
            self._objects, self._groups, self._synced = {}, {}, True
            if not self._optional:
                self.trouble = ModelOpsError(f"The cluster knows no {self._kind}.")
            self._condition.notify_all()

    def _failed(self, error: ModelOpsError) -> None:
        with self._condition:
            if self.trouble is None:
                log.warning("%s: %s", self._kind, error.sentence)
            self.trouble = error
            self._condition.notify_all()

    def _take(self, event: str, item: Manifest) -> None:
        version = str(item["metadata"]["resourceVersion"])
        if event == "BOOKMARK":
            self._version = version
        elif event == "DELETED":
            with self._condition:
                self._objects.pop(item["metadata"]["name"], None)
                self._groups.get(self._group_of(item), {}).pop(item["metadata"]["name"], None)
                self.trouble, self._version = None, version
                self._condition.notify_all()
            self._changed(item)
        else:
            self._set(item, watched=True)

    def _set(self, item: Manifest, *, watched: bool) -> None:
        kept = _kept(item, self._kind)
        version = str(item["metadata"]["resourceVersion"])
        with self._condition:
            if watched:
                self._version = version
            elif self._version is not None and int(version) <= int(self._version):
                return  # one counter numbers the versions of all objects
            self._keep(kept)
            self.trouble = None
            self._condition.notify_all()
        self._changed(kept)

    def _keep(self, item: Manifest) -> None:
        name = item["metadata"]["name"]
        self._objects[name] = item
        self._groups.setdefault(self._group_of(item), {})[name] = item


def _kept(item: Manifest, kind: str) -> Manifest:
    kept = {field: item[field] for field in _KEPT if field in item}
    kept.setdefault("kind", kind)
    kept["metadata"] = {key: value for key, value in item["metadata"].items() if key != "managedFields"}
    if kind == "Pod":
        kept["spec"] = {"nodeName": item.get("spec", {}).get("nodeName")}
    return kept
