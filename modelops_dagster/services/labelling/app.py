"""The labelling page's HTTP side: the next task, and what was said of it. Loopback only, behind a key of its own."""

import asyncio
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from modelops_dagster.clients.labels import Graded, land_labels, said_by
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.errors import ModelOpsError
from modelops_dagster.domain.gauntlet.grading import question_text
from modelops_dagster.domain.labels import Label, Task, pending
from modelops_dagster.services.labelling.page import PAGE

HEADER = "X-Label-Key"
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
MOST_BYTES = 64 * 1024
SEALED = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LabelApp:
    """One person's session over a list of tasks, in the order they are shown.

    The page learns what was asked, what to look for and the answer: no model, no grader, no verdict, no reason.
    """

    def __init__(
        self, store: ScoreStore, graded: Graded, tasks: Sequence[Task], labels: Sequence[Label], author: str
    ) -> None:
        self.key = secrets.token_urlsafe(24)
        self.author = author
        self.labelled = 0
        self._store = store
        self._graded = graded
        self._tasks: Mapping[str, Task] = {task.uid: task for task in tasks}
        self._left = [task.uid for task in pending(tasks, labels, author)]
        self._done = len(self._tasks) - len(self._left)
        self._landing = asyncio.Lock()

    def application(self) -> web.Application:
        """The routes, behind the checks that every request has to pass."""
        app = web.Application(middlewares=[self._guard], client_max_size=MOST_BYTES)
        app.router.add_get("/", self._page)
        app.router.add_get("/api/next", self._next)
        app.router.add_get("/api/tasks/{task}", self._again)
        app.router.add_post("/api/labels", self._label)
        return app

    @property
    def progress(self) -> dict[str, int]:
        return {"done": self._done, "total": len(self._tasks)}

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A page of another site can reach loopback, with a name of its own for it: neither name nor key would fit."""
        name = request.host.rsplit(":", 1)[0]
        given = request.query.get("key", "") if request.path == "/" else request.headers.get(HEADER, "")
        if name not in LOOPBACK_NAMES:
            return web.Response(status=421, text="This page answers on loopback only.")
        if not hmac.compare_digest(given.encode(), self.key.encode()):
            return web.Response(status=403, text="Open the address that `modelops label` printed: its key is missing.")
        response = await handler(request)
        response.headers.update(SEALED)
        return response

    async def _page(self, _: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        text = PAGE.replace("{nonce}", nonce)
        return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": policy})

    async def _next(self, _: web.Request) -> web.Response:
        return self._shown(self._left[0] if self._left else None)

    async def _again(self, request: web.Request) -> web.Response:
        uid = request.match_info["task"]
        return self._shown(uid) if uid in self._tasks else web.Response(status=404, text="There is no such task.")

    def _shown(self, uid: str | None) -> web.Response:
        shown = self._content(self._tasks[uid]) if uid is not None else None
        return web.json_response({"task": shown, "progress": self.progress})

    def _content(self, task: Task) -> dict[str, Any]:
        sample, rubric = self._graded.samples[task.answer.item_uid]
        return {
            "id": task.uid,
            "kind": task.kind,
            "question": question_text(sample),
            "target": "\n".join(sample.targets),
            "asks": rubric.asks,
            "criteria": list(rubric.criteria.values()),
            "answers": [answer.text for answer in task.sides],
        }

    async def _label(self, request: web.Request) -> web.Response:
        try:
            body = await request.json()
            task = self._tasks[body["task"]]
            given = {"seconds": body.get("seconds"), "comment": str(body.get("comment") or "").strip()}
            label = said_by(task, str(body["said"]), self.author, **given)
        except (json.JSONDecodeError, KeyError, TypeError, ValidationError, ValueError) as error:
            return web.Response(status=400, text=f"This is no label: {' '.join(str(error).split())[:200]}")
        async with self._landing:
            try:
                await asyncio.to_thread(land_labels, self._store, [(label, task.answer)], "page")
            except ModelOpsError as error:
                return web.Response(status=507, text=error.sentence)
        self.labelled += 1
        if task.uid in self._left:
            self._left.remove(task.uid)
            self._done += 1
        return await self._next(request)
