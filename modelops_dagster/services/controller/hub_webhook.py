"""Where the Hub says that something happened: a push only brings the next read forward, and decides nothing.

Deliveries may be lost or doubled, so reading every organisation at its interval stays the truth.
"""

import hmac
import json
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from fastapi import FastAPI, HTTPException, Request

from modelops_dagster.client import create_secret
from modelops_dagster.clients.watcher import WatchStore, load_watchlist
from modelops_dagster.domain.errors import UserError
from modelops_dagster.domain.values import Value
from modelops_dagster.domain.watchlist import is_org
from modelops_dagster.settings import Settings

WEBHOOK_PATH = "/v1/hub/webhook"
MAX_PAYLOAD_BYTES = 1 << 20


class HubPush(NamedTuple):
    """What the route needs: the secret, whom is followed now, and how to ask for a read."""

    secret: str
    followed: Callable[[], Collection[str]]
    nudge: Callable[[str], None]


class Accepted(Value):
    """Organisations that are read at the next tick; empty when the push is about none that is followed."""

    nudged: tuple[str, ...]


def hub_push(settings: Settings) -> HubPush:
    """The push of one home. Its secret is made at the first start unless a file is named.

    Raises:
        UserError: the named file cannot be read, or is empty.
    """
    store = WatchStore(settings.home / "watcher")

    def followed() -> Collection[str]:
        return load_watchlist(settings.home, settings.hub_orgs).organisations

    return HubPush(_secret(settings), followed, store.nudge)


def add_webhook_route(app: FastAPI, push: HubPush) -> None:
    """`POST /v1/hub/webhook`, as the Hub's webhooks call it."""

    @app.post(WEBHOOK_PATH, status_code=202, summary="The Hub says that a repository changed")
    async def hub_webhook(request: Request) -> Accepted:
        """Needs the header `X-Webhook-Secret`. Brings the next read of the repository's organisation forward."""
        given = request.headers.get("x-webhook-secret", "")
        if not hmac.compare_digest(given.encode(), push.secret.encode()):
            raise HTTPException(401, "The secret in X-Webhook-Secret is not this controller's; set it in the webhook.")
        orgs = pushed_orgs(await _body(request))
        wanted = sorted(set(orgs) & set(push.followed()))
        for org in wanted:
            push.nudge(org)
        return Accepted(nudged=tuple(wanted))


def pushed_orgs(body: bytes) -> tuple[str, ...]:
    """Organisations that a payload is about: the repository's, and the one it moved to.

    Raises:
        HTTPException: 400, the payload is not one of the Hub's webhooks.
    """
    try:
        payload: Any = json.loads(body)
    except ValueError:
        raise HTTPException(400, "The body is not valid JSON.") from None
    repo = payload.get("repo") if isinstance(payload, dict) else None
    if not isinstance(repo, dict) or not isinstance(payload.get("event"), dict):
        raise HTTPException(400, "The body is no payload of a Hub webhook: it has no `event` and `repo`.")
    if repo.get("type") != "model":
        return ()
    moved_to = payload.get("movedTo")
    names = [repo.get("name"), *([moved_to.get("name")] if isinstance(moved_to, dict) else [])]
    orgs = []
    for name in names:
        org, slash, rest = name.partition("/") if isinstance(name, str) else ("", "", "")
        if not slash or not rest or not is_org(org):
            raise HTTPException(400, f"{str(name)[:100]!r} is not the name of a repository; org/name is expected.")
        orgs.append(org)
    return tuple(orgs)


async def _body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_PAYLOAD_BYTES:
            raise HTTPException(400, f"The payload is larger than {MAX_PAYLOAD_BYTES} bytes.")
    return body


def _secret(settings: Settings) -> str:
    path = settings.hub_webhook_secret_file
    if path is None:
        return create_secret(settings.home / "secrets" / "hub_webhook_secret")
    try:
        secret = path.expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"MODELOPS_HUB_WEBHOOK_SECRET_FILE={path} cannot be read ({error}): name a file that holds the secret."
        ) from error
    if not secret:
        raise UserError(f"MODELOPS_HUB_WEBHOOK_SECRET_FILE={path} is empty: write the webhook's secret into it.")
    return secret
