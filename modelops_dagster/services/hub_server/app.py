"""The Hub's HTTP interface, as far as the official client uses it for models. Read-only."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from modelops_dagster.domain.errors import InvalidSpec, ModelOpsError
from modelops_dagster.domain.hub import require_repo_id
from modelops_dagster.services.hub_server import answers
from modelops_dagster.services.hub_server.access import Tokens
from modelops_dagster.services.hub_server.faults import Faults
from modelops_dagster.services.hub_server.limits import Limits
from modelops_dagster.services.hub_server.listing import Listing, chosen, page_of, shown
from modelops_dagster.services.hub_server.refusals import Refusal
from modelops_dagster.services.hub_server.sending import send_file
from modelops_dagster.services.hub_server.storage import MAIN, Commit, HubStorage, RepoSettings

MAX_PAGE = 1000
MAX_EXPANDED_PAGE = 50
ALLOWANCE = web.RequestKey("allowance", dict[str, str])
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HubApp:
    """Routes and handlers over one storage.

    Args:
        storage: the repositories.
        tokens: access tokens that open private and gated repositories; with none, nobody opens them.
        faults: what goes wrong on purpose.
        page_size: the longest page of a listing.
        limits: how much a caller may ask for; None: as much as it likes.
    """

    def __init__(
        self,
        storage: HubStorage,
        tokens: Tokens,
        faults: Faults,
        page_size: int = MAX_PAGE,
        limits: Limits | None = None,
    ) -> None:
        self.storage, self.tokens, self.faults, self.page_size, self.limits = storage, tokens, faults, page_size, limits
        self._listing = Listing(storage)

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[self._on_every_request])
        app.on_response_prepare.append(self._tell_allowance)
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
            self._require_allowance(request)
            return await handler(request)
        except Refusal as refusal:
            return refusal.response()
        except ModelOpsError as error:
            return Refusal(500, "", error.sentence).response()
        except ConnectionResetError:  # the client went away in the middle; nobody reads this answer
            return web.Response()
        except web.HTTPException as error:
            return Refusal(error.status, "", error.reason).response()

    def _require_allowance(self, request: web.Request) -> None:
        """Count the request, and refuse it when its caller has asked for too much; an answer tells what is left."""
        if self.limits is None:
            return
        caller = self.account(request) or f"address {request.remote}"
        allowance = self.limits.take(caller, "api" if request.path.startswith("/api/") else "resolvers")
        if not allowance.granted:
            raise Refusal(429, "", "Too many requests: wait as long as Retry-After says.", allowance.headers)
        request[ALLOWANCE] = allowance.headers

    async def _tell_allowance(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(request.get(ALLOWANCE, {}))

    # ---- who asks, and for what

    def account(self, request: web.Request) -> str | None:
        """Whose token the request carries; None when it carries none of ours."""
        return self.tokens.account(request.headers.get("Authorization", ""))

    def is_known(self, request: web.Request) -> bool:
        """Whether the request carries one of our tokens."""
        return self.account(request) is not None

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
        commit_hash = self.storage.refs(repo_id).commit_of(rev) or rev
        commit = await asyncio.to_thread(self.storage.commit, repo_id, commit_hash)
        if commit is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {rev}")
        return repo_id, settings, commit

    def _absent(self, request: web.Request) -> Refusal:
        """What the Hub says of a repository that is not there, or not for this caller: the two are not told apart."""
        return Refusal(404 if self.is_known(request) else 401, "RepoNotFound", "Repository not found")

    # ---- the API

    async def list_models(self, request: web.Request) -> web.Response:
        query, known = request.query, self.is_known(request)
        infos = await asyncio.to_thread(self._listing.infos, query.get("author"), private_too=known)
        try:
            page, cursor = page_of(chosen(infos, query), query, self.page_size)
        except InvalidSpec as error:
            raise Refusal(400, "", error.sentence) from None
        return self._page(request, [shown(info, query) for info in page], cursor)

    def _page(self, request: web.Request, items: Sequence[Any], cursor: str | None) -> web.Response:
        """A page, with the address of the next one when there is one."""
        headers = {}
        if cursor is not None:
            following = [(k, v) for k, v in request.query.items() if k != "cursor"] + [("cursor", cursor)]
            stated = request.headers.get("X-Forwarded-Proto", "")  # of a proxy that speaks TLS for us
            scheme = stated if stated in ("http", "https") else request.scheme
            address = f"{scheme}://{request.host}{request.rel_url.raw_path}?{urlencode(following)}"
            headers["Link"] = f'<{address}>; rel="next"'
        return web.json_response(items, headers=headers)

    async def model_info(self, request: web.Request) -> web.Response:
        repo_id, _, commit = await self.commit(request)
        blobs = _is_set(request.query.get("blobs"))
        info = await asyncio.to_thread(answers.model_info, self.storage, repo_id, commit, blobs=blobs)
        expand = request.query.getall("expand", []) + request.query.getall("expand[]", [])
        return web.json_response(answers.selected(info, expand) if expand else info)

    async def tree(self, request: web.Request) -> web.Response:
        repo_id, _, commit = await self.commit(request)
        folder = request.match_info.get("path", "").strip("/")
        recursive, expand = _is_set(request.query.get("recursive")), _is_set(request.query.get("expand"))
        entries = answers.tree(commit, folder, recursive=recursive)
        if entries is None:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist", {"X-Repo-Commit": commit.commit_hash})
        entries = [e for e in entries if e["path"] > request.query.get("cursor", "")]
        asked = _whole(request.query.get("limit"), MAX_PAGE)
        limit = max(1, min(asked, self.page_size, MAX_EXPANDED_PAGE if expand else MAX_PAGE))
        page = entries[:limit]
        if expand:
            page = await asyncio.to_thread(self._with_last_commits, repo_id, commit, page)
        return self._page(request, page, page[-1]["path"] if len(entries) > limit else None)

    async def paths_info(self, request: web.Request) -> web.Response:
        repo_id, _, commit = await self.commit(request)
        if request.content_type == "application/json":
            asked, expand = _asked_paths(await request.read())
        else:
            form = await request.post()
            asked, expand = form.getall("paths", []), form.get("expand")
        wanted = {str(p) for p in asked}
        entries = [e for e in answers.tree(commit, "", recursive=True) or [] if e["path"] in wanted]
        if _is_set(str(expand)):
            entries = await asyncio.to_thread(self._with_last_commits, repo_id, commit, entries)
        return web.json_response(entries)

    def _with_last_commits(self, repo_id: str, commit: Commit, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return answers.with_last_commits(entries, self.storage.history_of(repo_id, commit))

    async def refs(self, request: web.Request) -> web.Response:
        repo_id, _, commit = await self.commit(request)
        refs = await asyncio.to_thread(self.storage.refs, repo_id)
        branches = [("heads", MAIN, commit.commit_hash), *(("heads", n, c) for n, c in sorted(refs.branches.items()))]
        tags = [("tags", n, c) for n, c in sorted(refs.tags.items())]
        listed = [[{"name": n, "ref": f"refs/{k}/{n}", "targetCommit": c} for k, n, c in of] for of in (branches, tags)]
        return web.json_response({"branches": listed[0], "converts": [], "tags": listed[1]})

    async def commits(self, request: web.Request) -> web.Response:
        repo_id, _, commit = await self.commit(request)
        history = await asyncio.to_thread(self.storage.history_of, repo_id, commit)
        formatted = "formatted" in request.query.getall("expand[]", []) + request.query.getall("expand", [])
        first = _whole(request.query.get("cursor"), 0)
        limit = max(1, min(_whole(request.query.get("limit"), MAX_PAGE), self.page_size))
        page = [answers.commit_entry(c, formatted=formatted) for c in history[first : first + limit]]
        return self._page(request, page, str(first + limit) if len(history) > first + limit else None)

    async def auth_check(self, request: web.Request) -> web.Response:
        repo_id, settings = self.repo(request)
        self._require_access(request, repo_id, settings)
        return web.json_response({})

    async def whoami(self, request: web.Request) -> web.Response:
        account = self.account(request)
        if account is None:
            raise Refusal(401, "", "Invalid username or password.")
        return web.json_response({"type": "user", "id": account, "name": account, "fullname": account, "orgs": []})

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
        return await send_file(request, commit, file, content, self.faults)


def _asked_paths(body: bytes) -> tuple[list[Any], Any]:
    """The paths that a JSON body asks for, and its `expand`."""
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    paths = content.get("paths") if isinstance(content, dict) else None
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(content, dict) or not isinstance(paths, list):
        raise Refusal(400, "", 'The body must be {"paths": [...]}')
    return paths, content.get("expand")


def _whole(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdigit() else default


def _is_set(text: str | None) -> bool:
    return text is not None and text.lower() in ("true", "1")
