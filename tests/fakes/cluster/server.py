"""The API server itself: HTTP on loopback over a `Store`, with a token, watches, /scale, /status and pods' logs."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.fakes.cluster.containers import Logs, lines_of
from tests.fakes.cluster.schemas import problems, untyped
from tests.fakes.cluster.store import Key, Manifest, Refused, Store, matches

TOKEN = "token-of-the-tests"
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+/[^/]+))(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>scale|status|log))?"
)
KINDS = {
    "pods": "Pod",
    "services": "Service",
    "secrets": "Secret",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "deployments": "Deployment",
    "jobs": "Job",
    "events": "Event",
    "poddisruptionbudgets": "PodDisruptionBudget",
    "priorityclasses": "PriorityClass",
    "scaledobjects": "ScaledObject",
    "triggerauthentications": "TriggerAuthentication",
    "leaderworkersets": "LeaderWorkerSet",
    "httproutes": "HTTPRoute",
}


class FakeApiServer:
    """Serves a store; use as a context manager.

    Knobs, settable while it runs: `absent` (plurals this cluster has no CRD for), `forbidden` (pairs of verb and plural
    that are refused), `failing` (every request is answered with this status), `quiet` (watches tell nothing until it
    is set back), `admit` (why a pod of this spec is refused; None: it is not). `counts` holds the
    requests by verb and plural, `logs` what pods wrote.
    """

    def __init__(self) -> None:
        self.store = Store(untyped, problems)
        self.absent: set[str] = set()
        self.forbidden: set[tuple[str, str]] = set()
        self.failing: int | None = None
        self.admit: Callable[[Manifest], str | None] = lambda _: None
        self.counts: Counter[str] = Counter()
        self.logs: Logs = {}
        self.watches = 0
        self._generation = 0
        self._closed = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self.drop_watches()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def drop_watches(self) -> None:
        """End every watch, as a server does that restarts."""
        with self.store.lock:
            self._generation += 1
            self.store.changed.notify_all()

    def kubeconfig(self, folder: Path, namespace: str = "modelops") -> Path:
        """A kubeconfig file for this server."""
        path = folder / "kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me", "namespace": namespace}}],
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "me", "user": {"token": TOKEN}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def events(self, plural: str, since: int, labels: dict[str, str], until: float, generation: int) -> Any:
        """What happened to these objects after version `since`, as it happens."""
        while not self._closed.is_set():
            with self.store.lock:
                if since < self.store.oldest:
                    yield {"type": "ERROR", "object": _status(410, "Expired", "too old resource version")}
                    return
                news = self.store.happenings[self.store.after(since) :]
                found = [h for h in news if h.key[0] == plural]
                since = news[-1].version if news else since
                if not found:
                    left_s = until - time.monotonic()
                    if left_s <= 0 or generation != self._generation:
                        return
                    self.store.changed.wait(min(left_s, 0.5))
                    continue
            for happening in found:
                if matches(happening.item, labels):
                    yield {"type": happening.kind, "object": happening.item}

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    @property
    def generation(self) -> int:
        return self._generation


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: FakeApiServer


def _field(item: Manifest, path: str) -> Any:
    value: Any = item
    for step in path.split("."):
        value = value.get(step) or {}
    return value


def _status(code: int, reason: str, message: str) -> Manifest:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, template: str, *args: Any) -> None:
        """Say nothing: the test says what matters."""

    def do_GET(self) -> None:
        self._serve("get")

    def do_POST(self) -> None:
        self._serve("create")

    def do_PATCH(self) -> None:
        self._serve("patch")

    def do_DELETE(self) -> None:
        self._serve("delete")

    def _serve(self, verb: str) -> None:
        api = self.server.api
        if api.closed:
            self.close_connection = True
            return
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        split = urlsplit(self.path)
        found = _PATH.fullmatch(split.path)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized", "Unauthorized")
            if api.failing is not None:
                raise Refused(api.failing, "InternalError", "the server does not feel well")
            if found is None or found["plural"] not in KINDS or found["plural"] in api.absent:
                raise Refused(404, "NotFound", "the server could not find the requested resource")
            named = {"get": "get" if found["name"] else "list"}.get(verb, verb)
            said = "watch" if query.get("watch") in ("1", "true") else named
            api.counts[f"{said} {'/'.join(part for part in (found['plural'], found['sub']) if part)}"] += 1
            if (said, found["plural"]) in api.forbidden:
                raise Refused(403, "Forbidden", f'{found["plural"]} is forbidden: User "me" cannot {said} resource')
            self._answer(said, found, query, body)
        except Refused as refusal:
            self._json(refusal.code, _status(refusal.code, refusal.reason, refusal.message))

    def _answer(self, verb: str, found: re.Match[str], query: dict[str, str], body: Manifest) -> None:
        api, store = self.server.api, self.server.api.store
        key: Key = (found["plural"], found["namespace"] or "", found["name"] or "")
        labels = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part)
        if verb == "watch":
            self._watch(found["plural"], query, labels)
        elif verb == "list":
            with store.lock:
                items, version = store.listed(key[0], key[1], labels), str(store.version)
            fields = dict(part.split("=", 1) for part in query.get("fieldSelector", "").split(",") if part)
            items = [i for i in items if all(_field(i, path) == value for path, value in fields.items())]
            kind = f"{KINDS[key[0]]}List"
            self._json(200, {"kind": kind, "items": items, "metadata": {"resourceVersion": version}})
        elif verb == "get" and found["sub"] == "log":
            store.find(key)
            self._text(lines_of(api.logs.get((key[2], query.get("previous") == "true"), ""), query))
        elif verb == "get":
            self._json(200, store.find(key).item)
        elif verb == "create":
            told = {
                "apiVersion": found["group"] or "v1",
                "kind": KINDS[key[0]],
            }  # by the address, where not by the body
            born = {"status": {"phase": "Pending"}} if key[0] == "pods" else {}
            refusal = api.admit(body["spec"]) if key[0] == "pods" else None
            if refusal is not None:
                raise Refused(403, "Forbidden", f'pods "{body["metadata"]["name"]}" is {refusal}')
            self._json(201, store.create((*key[:2], body["metadata"]["name"]), {**told, **body, **born}))
        elif verb == "patch":
            self._patch(key, found["sub"], query, body)
        elif verb == "delete":
            self._delete(key, query, body)

    def _patch(self, key: Key, sub: str | None, query: dict[str, str], body: Manifest) -> None:
        store, manager = self.server.api.store, query.get("fieldManager", "somebody")
        if self.headers["Content-Type"] == "application/apply-patch+yaml":
            if "fieldManager" not in query:
                raise Refused(400, "BadRequest", "fieldManager is required for apply patch")
            item, created = store.apply(key, body, manager, force=query.get("force") == "true")
            self._json(201 if created else 200, item)
        elif sub in (None, "scale", "status"):
            self._json(200, store.update(key, body, manager))

    def _delete(self, key: Key, query: dict[str, str], body: Manifest) -> None:
        store = self.server.api.store
        with store.lock:
            item = store.find(key).item
            policy = body.get("propagationPolicy") or query.get("propagationPolicy")
            if key[0] == "pods" or policy == "Foreground":
                stamped = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
                if policy == "Foreground":
                    stamped["metadata"]["finalizers"] = ["foregroundDeletion"]  # type: ignore[assignment]
                item = store.update(key, stamped, "server")
            else:
                item = store.remove(key)
        self._json(200, item)

    def _watch(self, plural: str, query: dict[str, str], labels: dict[str, str]) -> None:
        api = self.server.api
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        until = time.monotonic() + float(query.get("timeoutSeconds", "60"))
        api.watches += 1
        try:
            for event in api.events(plural, int(query["resourceVersion"]), labels, until, api.generation):
                self._chunk(json.dumps(event).encode() + b"\n")
            self._chunk(b"")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            api.watches -= 1

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _json(self, code: int, body: Any) -> None:
        self._send(code, "application/json", json.dumps(body).encode())

    def _text(self, text: str) -> None:
        self._send(200, "text/plain", text.encode())

    def _send(self, code: int, kind: str, data: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
