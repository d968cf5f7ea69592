"""The Hub's HTTP interface, as far as the official client uses it for models. Read-only."""

import asyncio
import hmac
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from modelops_dagster.domain.errors import ModelOpsError
from modelops_dagster.domain.hub import require_repo_id
from modelops_dagster.services.hub_server import answers
from modelops_dagster.services.hub_server.faults import Faults
from modelops_dagster.services.hub_server.storage import Commit, HubStorage, RepoSettings, StoredFile

MAIN = "main"
PIECE_BYTES = 1 << 20
MAX_PAGE = 1000
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refusal(Exception):
    """An answer that the official client turns into one of its own exceptions."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}

    def response(self) -> web.Response:
        told = {"X-Error-Code": self.code, "X-Error-Message": str(self).replace("\n", " ")}
        return web.json_response({"error": str(self)}, status=self.status, headers=told | self.headers)


class HubApp:
    """Routes and handlers over one storage.

    Args:
        storage: the repositories.
        tokens: access tokens that open private and gated repositories; with none, nobody opens them.
        faults: what goes wrong on purpose.
        page_size: the longest page of a listing.
    """

    def __init__(self, storage: HubStorage, tokens: frozenset[str], faults: Faults, page_size: int = MAX_PAGE) -> None:
        self.storage, self.tokens, self.faults, self.page_size = storage, tokens, faults, page_size

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[self._on_every_request])
        repo = "/api/models/{org}/{name}"
        app.router.add_get("/api/models", self.list_models)
        app.router.add_get(repo, self.model_info)
        app.router.add_get(f"{repo}/revision/{{rev}}", self.model_info)
        app.router.add_get(f"{repo}/tree/{{rev}}", self.tree)
        app.router.add_get(f"{repo}/tree/{{rev}}/{{path:.+}}", self.tree)
        app.router.add_post(f"{repo}/paths-info/{{rev}}", self.paths_info)
        app.router.add_get(f"{repo}/refs", self.refs)
        app.router.add_get(f"{repo}/commits/{{rev}}", self.commits)
        app.router.add_get(f"{repo}/auth-check", self.auth_check)
        app.router.add_get("/{org}/{name}/resolve/{rev}/{path:.+}", self.resolve)
        app.router.add_get("/api/whoami-v2", self.whoami)
        return app

    @web.middleware
    async def _on_every_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        faults = self.faults
        asked = f" [{request.headers['Range']}]" if "Range" in request.headers else ""
        faults.requests.append(f"{request.method} {request.raw_path}{asked}")
        try:
            if faults.applies(request.path):
                await asyncio.sleep(faults.delay_s)
                if faults.take("rate_limited"):
                    raise Refusal(429, "", "Too many requests", {"Retry-After": str(faults.retry_after_s)})
                if faults.take("unavailable"):
                    raise Refusal(503, "", "Service unavailable")
            return await handler(request)
        except Refusal as refusal:
            return refusal.response()
        except ModelOpsError as error:
            return Refusal(500, "", error.sentence).response()
        except ConnectionResetError:  # the client went away in the middle; nobody reads this answer
            return web.Response()
        except web.HTTPException as error:
            return Refusal(error.status, "", error.reason).response()

    # ---- who asks, and for what

    def is_known(self, request: web.Request) -> bool:
        """Whether the request carries one of our tokens. A foreign one, meant for another Hub, counts as none."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        known = [hmac.compare_digest(token.strip().encode(), t.encode()) for t in self.tokens]
        return scheme.lower() == "bearer" and any(known)

    def repo(self, request: web.Request) -> tuple[str, RepoSettings]:
        """The repository that is asked about and may be seen."""
        repo_id = f"{request.match_info['org']}/{request.match_info['name']}"
        try:
            require_repo_id(repo_id)
        except ModelOpsError:
            raise self._absent(request) from None
        settings = self.storage.settings(repo_id)
        if not (self.storage.root / repo_id).is_dir() or (settings.private and not self.is_known(request)):
            raise self._absent(request)
        if settings.disabled:
            raise Refusal(403, "", "Access to this resource is disabled.")
        return repo_id, settings

    async def commit(self, request: web.Request) -> tuple[str, RepoSettings, Commit]:
        """The repository and the commit that `rev` names; main where there is no `rev`."""
        repo_id, settings = self.repo(request)
        main = await asyncio.to_thread(self.storage.main, repo_id)
        if main is None:
            raise self._absent(request)
        rev = request.match_info.get("rev", MAIN)
        if rev in (MAIN, f"refs/heads/{MAIN}"):
            return repo_id, settings, main
        commit = await asyncio.to_thread(self.storage.commit, repo_id, rev)
        if commit is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {rev}")
        return repo_id, settings, commit

    def _absent(self, request: web.Request) -> Refusal:
        """What the Hub says of a repository that is not there, or not for this caller: the two are not told apart."""
        return Refusal(404 if self.is_known(request) else 401, "RepoNotFound", "Repository not found")

    # ---- the API

    async def list_models(self, request: web.Request) -> web.Response:
        query = request.query
        infos = await asyncio.to_thread(self._infos, query.get("author"), self.is_known(request))
        search = [s.lower() for s in query.getall("search", [])]
        infos = [i for i in infos if all(s in i["id"].lower() for s in search)]
        wanted_tags = query.getall("filter", []) + query.getall("pipeline_tag", [])
        infos = [i for i in infos if all(t in (*i["tags"], i["pipeline_tag"]) for t in wanted_tags)]
        key = query.get("sort", "id")
        infos.sort(key=lambda i: (str(i.get(key, "")), i["id"]), reverse=key != "id")
        first, limit = _whole(query.get("cursor"), 0), min(_whole(query.get("limit"), MAX_PAGE), self.page_size)
        page = infos[first : first + limit]
        expand = query.getall("expand", [])
        if expand or not query.get("full"):
            page = [answers.selected(i, expand or list(answers.LISTED_BY_DEFAULT)) for i in page]
        headers = {}
        if first + limit < len(infos):
            following = [(k, v) for k, v in query.items() if k != "cursor"] + [("cursor", str(first + limit))]
            address = f"{request.scheme}://{request.host}/api/models?{urlencode(following)}"
            headers["Link"] = f'<{address}>; rel="next"'
        return web.json_response(page, headers=headers)

    def _infos(self, author: str | None, known: bool) -> list[dict[str, Any]]:
        infos = []
        for repo_id in self.storage.repo_ids():
            if author not in (None, repo_id.split("/")[0]) or (self.storage.settings(repo_id).private and not known):
                continue
            commit = self.storage.main(repo_id)
            if commit is not None:
                infos.append(answers.model_info(self.storage, repo_id, commit))
        return infos

    async def model_info(self, request: web.Request) -> web.Response:
        repo_id, _, commit = await self.commit(request)
        blobs = request.query.get("blobs", "").lower() in ("true", "1")
        info = await asyncio.to_thread(answers.model_info, self.storage, repo_id, commit, blobs=blobs)
        expand = request.query.getall("expand", [])
        return web.json_response(answers.selected(info, expand) if expand else info)

    async def tree(self, request: web.Request) -> web.Response:
        _, _, commit = await self.commit(request)
        folder = request.match_info.get("path", "").strip("/")
        recursive = request.query.get("recursive", "").lower() in ("true", "1")
        entries = answers.tree(commit, folder, recursive=recursive)
        if entries is None:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist", {"X-Repo-Commit": commit.commit_hash})
        return web.json_response(entries)

    async def paths_info(self, request: web.Request) -> web.Response:
        _, _, commit = await self.commit(request)
        if request.content_type == "application/json":
            try:
                asked = (await request.json())["paths"]
            except (json.JSONDecodeError, KeyError, TypeError):
                raise Refusal(400, "", 'The body must be {"paths": [...]}') from None
        else:
            asked = (await request.post()).getall("paths", [])
        wanted = {asked} if isinstance(asked, str) else {str(p) for p in asked}
        entries = answers.tree(commit, "", recursive=True) or []
        return web.json_response([e for e in entries if e["path"] in wanted])

    async def refs(self, request: web.Request) -> web.Response:
        _, _, commit = await self.commit(request)
        branch = {"name": MAIN, "ref": f"refs/heads/{MAIN}", "targetCommit": commit.commit_hash}
        return web.json_response({"branches": [branch], "converts": [], "tags": []})

    async def commits(self, request: web.Request) -> web.Response:
        repo_id, _, commit = await self.commit(request)
        history = await asyncio.to_thread(self.storage.history, repo_id)
        hashes = [c.commit_hash for c in history]
        start = hashes.index(commit.commit_hash) if commit.commit_hash in hashes else 0
        return web.json_response([answers.commit_entry(c) for c in history[start:]])

    async def auth_check(self, request: web.Request) -> web.Response:
        repo_id, settings = self.repo(request)
        self._require_access(request, repo_id, settings)
        return web.json_response({})

    async def whoami(self, request: web.Request) -> web.Response:
        if not self.is_known(request):
            raise Refusal(401, "", "Invalid username or password.")
        return web.json_response({"type": "user", "name": "local", "auth": {}})

    def _require_access(self, request: web.Request, repo_id: str, settings: RepoSettings) -> None:
        """A gated repository shows its listing to everybody and its files to those who were granted access."""
        if settings.gated and not self.is_known(request):
            status = 403 if "Authorization" in request.headers else 401
            raise Refusal(
                status, "GatedRepo", f"Access to model {repo_id} is restricted and needs an accepted licence."
            )

    # ---- files

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        repo_id, settings, commit = await self.commit(request)
        self._require_access(request, repo_id, settings)
        path = request.match_info["path"]
        file = next((f for f in commit.files if f.path == path), None)
        content = await asyncio.to_thread(self.storage.content, file) if file is not None else None
        if file is None or content is None:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist", {"X-Repo-Commit": commit.commit_hash})
        etag = file.sha256 if file.is_lfs else file.git_sha1
        headers = {
            "X-Repo-Commit": commit.commit_hash,
            "ETag": f'"{etag}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if file.is_lfs:
            headers |= {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(file.size_bytes)}
        span = None if self.faults.ignore_ranges else _span(request.headers.get("Range", ""), file.size_bytes)
        status, start, end = 200, 0, file.size_bytes
        if span is not None:
            status, (start, end) = 206, span
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size_bytes}"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = end - start
        await response.prepare(request)
        if request.method != "HEAD":
            with content.open("rb") as source:
                source.seek(start)
                await self._send(request, response, file, source, start, end)
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, file: StoredFile, source: Any, start: int, end: int
    ) -> None:
        """Write the bytes from `start` to `end`, with whatever faults are set."""
        faults = self.faults if self.faults.applies(request.path) else Faults()
        cut_at = start + faults.cut_after_bytes if faults.cut_after_bytes is not None and faults.take("cuts") else None
        corrupt_at = file.size_bytes // 2 if faults.take("corrupt") else None
        piece_bytes = PIECE_BYTES if faults.bytes_per_s is None else max(1, int(faults.bytes_per_s / 20))
        at = start
        while at < end:
            piece = source.read(min(piece_bytes, end - at, *([cut_at - at] if cut_at is not None else [])))
            if not piece:
                if request.transport is not None:
                    request.transport.abort() if faults.cut_by_reset else request.transport.close()
                return
            if corrupt_at is not None and at <= corrupt_at < at + len(piece):
                changed = bytearray(piece)
                changed[corrupt_at - at] ^= 0xFF
                piece = bytes(changed)
            await response.write(piece)
            at += len(piece)
            if faults.bytes_per_s is not None:
                await asyncio.sleep(len(piece) / faults.bytes_per_s)


def _whole(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdigit() else default


def _span(header: str, size_bytes: int) -> tuple[int, int] | None:
    """[start, end) of a Range header with one range; None when there is none that is understood."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    start = int(first) if first else max(0, size_bytes - int(last))
    end = min(size_bytes, int(last) + 1) if first and last else size_bytes
    if start >= end:
        raise Refusal(416, "", "Range not satisfiable", {"Content-Range": f"bytes */{size_bytes}"})
    return start, end
