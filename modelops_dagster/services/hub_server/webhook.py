"""Telling a watcher that a repository has a new commit, in the words of the Hub's own webhooks."""

import time
from pathlib import Path
from typing import Any

import httpx

from modelops_dagster.domain.errors import HubUnavailable, InvalidSpec, UserError
from modelops_dagster.services.hub_server.storage import MAIN, RepoSettings

TRIES = 3
TIMEOUT_S = 10.0


class Webhook:
    """One receiver.

    Args:
        url: where to POST, e.g. http://127.0.0.1:8420/v1/hub/webhook.
        secret: goes with it as X-Webhook-Secret.
        pause_s: before the second try; doubled before the third.
    """

    def __init__(self, url: str, secret: str, *, pause_s: float = 0.5) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidSpec(f"{url!r} is not the URL of a webhook: write it with http:// in front.", field="webhook")
        self.url, self._secret, self._pause_s = url, secret, pause_s

    def push(self, repo_id: str, settings: RepoSettings, old_hash: str | None, new_hash: str) -> None:
        """Say that main of a repository stands at another commit.

        Raises:
            HubUnavailable: the receiver did not take it.
        """
        problem = ""
        for number in range(TRIES):
            if number:
                time.sleep(self._pause_s * 2 ** (number - 1))
            try:
                answer = httpx.post(
                    self.url,
                    json=payload(repo_id, settings, old_hash, new_hash),
                    headers={"X-Webhook-Secret": self._secret},
                    timeout=TIMEOUT_S,
                )
            except httpx.HTTPError as error:
                problem = type(error).__name__
                continue
            if answer.is_success:
                return
            problem = f"status {answer.status_code}"
            if answer.status_code < 500 and answer.status_code != 429:
                break  # it would be refused again
        raise HubUnavailable(
            f"{repo_id} is at {new_hash[:12]}, but the webhook {self.url} did not take the news ({problem}): check its "
            "address and secret; whoever reads this Hub at an interval sees the commit all the same."
        )


def payload(repo_id: str, settings: RepoSettings, old_hash: str | None, new_hash: str) -> dict[str, Any]:
    """The body, as the Hub documents it for `repo.content`."""
    return {
        "event": {"action": "update" if old_hash else "create", "scope": "repo.content" if old_hash else "repo"},
        "repo": {
            "type": "model",
            "name": repo_id,
            "id": repo_id,
            "private": settings.private,
            "headSha": new_hash,
            "tags": list(settings.tags),
            "owner": {"id": repo_id.split("/")[0]},
            "url": {"web": f"/{repo_id}", "api": f"/api/models/{repo_id}"},
        },
        "updatedRefs": [{"ref": f"refs/heads/{MAIN}", "oldSha": old_hash, "newSha": new_hash}],
        "webhook": {"id": "modelops", "version": 3},
    }


def read_secret(path: Path) -> str:
    """The secret a file holds.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    try:
        secret = path.read_text().strip()
    except (OSError, ValueError) as error:
        raise UserError(
            f"The webhook's secret file {path} cannot be read ({error}): name a file that holds it."
        ) from error
    if not secret:
        raise UserError(f"The webhook's secret file {path} is empty: write the secret into it.")
    return secret
