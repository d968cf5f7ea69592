"""Asking an endpoint of somebody else's whether it is there: its health, its models, one token."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import httpx

from modelops_dagster.domain.endpoint_spec import ApiEndpoint, HealthCheck
from modelops_dagster.domain.openai_urls import PATHS

DEFAULT_TIMEOUT_S = 5.0
TOKEN_TIMEOUT_S = 60.0
_SHOWN_NAMES = 5


class Finding(NamedTuple):
    """What a probe found. `detail` is the end of a sentence; empty when all is well."""

    answers: bool
    refused: bool = False  # asking again changes nothing: the key, the address or the model is wrong
    detail: str = ""


WELL = Finding(answers=True)


class Prober:
    """Asks with one pool of connections; may be used from several threads."""

    def __init__(self) -> None:
        # trust_env off: a proxy in the environment would get the key
        self._http = httpx.Client(trust_env=False)

    def probe(self, api: ApiEndpoint, key: str | None, check: HealthCheck | None, *, token: bool) -> Finding:
        """Health when a check says where, then models, then with `token` one token.

        An endpoint without a list of models is taken at its word: not every server has one.
        """
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout_s = float(check.timeout_s) if check else DEFAULT_TIMEOUT_S
        try:
            found = self._health(api.base_url, check, timeout_s) if check else WELL
            if found.answers:
                found = self._models(api, headers, timeout_s)
            if found.answers and token:
                found = self._token(api, headers)
        except httpx.HTTPError as error:
            return Finding(False, detail=f"{api.base_url} cannot be reached ({str(error) or type(error).__name__})")
        return found

    def _health(self, base_url: str, check: HealthCheck, timeout_s: float) -> Finding:
        url = health_url(base_url, check)
        answer = self._http.get(url, timeout=timeout_s)
        if answer.is_success:
            return WELL
        return Finding(False, detail=f"GET {url} answered {answer.status_code}")

    def _models(self, api: ApiEndpoint, headers: Mapping[str, str], timeout_s: float) -> Finding:
        url = f"{api.base_url}/models"
        answer = self._http.get(url, headers=headers, timeout=timeout_s)
        if answer.status_code in (404, 405, 501):
            return WELL
        if (bad := _bad_status(f"GET {url}", answer)) is not None:
            return bad
        try:
            names = [str(model["id"]) for model in answer.json()["data"]]
        except (ValueError, KeyError, TypeError):
            return Finding(False, refused=True, detail=f"GET {url} did not answer with a list of models")
        if names and api.model_id not in names:
            shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")
            return Finding(False, refused=True, detail=f"it has no model {api.model_id!r}, it has {shown}")
        return WELL

    def _token(self, api: ApiEndpoint, headers: Mapping[str, str]) -> Finding:
        url = api.base_url + PATHS[api.api]
        asked: dict[str, Any] = {"model": api.model_id}
        asked |= {"prompt": "Hi"} if api.api == "completions" else {"messages": [{"role": "user", "content": "Hi"}]}
        answer = self._http.post(url, json={**asked, "max_tokens": 1}, headers=headers, timeout=TOKEN_TIMEOUT_S)
        if answer.status_code == 400 and api.api == "chat":  # models that reason know the limit by another name only
            limit = {"max_completion_tokens": 16}
            answer = self._http.post(url, json={**asked, **limit}, headers=headers, timeout=TOKEN_TIMEOUT_S)
        if answer.status_code == 429:
            return WELL  # it is there, and busy
        if (bad := _bad_status(f"POST {url}", answer)) is not None:
            return bad
        try:
            answer.json()["choices"][0]
        except (ValueError, KeyError, IndexError, TypeError):
            return Finding(False, refused=True, detail=f"POST {url} did not answer in OpenAI's shape")
        return WELL


def health_url(base_url: str, check: HealthCheck) -> str:
    """Where the check asks: the endpoint's host, at the port and path of the check."""
    parts = urlsplit(base_url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return urlunsplit((parts.scheme, f"{host}:{check.port}", check.path, "", ""))


def _bad_status(what: str, answer: httpx.Response) -> Finding | None:
    """None for an answer that can be read. What the server says is not repeated: it may hold the key."""
    if answer.is_success:
        return None
    if answer.status_code in (401, 403):
        return Finding(False, refused=True, detail=f"{what} answered {answer.status_code}, so it refuses the key")
    if answer.status_code == 429:
        return Finding(True)
    refused = 400 <= answer.status_code < 500 and answer.status_code != 408
    return Finding(False, refused=refused, detail=f"{what} answered {answer.status_code}")
