"""What a Hub's failures mean: which are worth another try, and which sentence the others end in."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import get_session
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

from modelops_dagster.domain.errors import (
    HubUnavailable,
    InvalidSpec,
    ModelOpsError,
    RepoGated,
    RepoNotFound,
    UserError,
)

# The HTTP library differs between huggingface_hub 1 (httpx) and 2 (httpx2); their exceptions have the same names.
HTTP: Any = importlib.import_module(type(get_session()).__module__.partition(".")[0])
RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})


def pause_s(error: Exception, failures: int) -> float | None:
    """Seconds to wait before the next try, after `failures` of them; None when it would end the same way."""
    backoff_s = float(0.5 * 2 ** (failures - 1))
    response = getattr(error, "response", None)
    if response is None:
        return backoff_s
    if response.status_code not in RETRIED_STATUS:
        return None
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds + 1)
    asked = response.headers.get("Retry-After", "").strip()
    return float(asked) if asked.isdigit() else backoff_s


@contextmanager
def sentences(endpoint: str, has_token: bool, what: str, ref: str = "main") -> Iterator[None]:
    """Turn the client's exceptions into the product's.

    Args:
        endpoint: base URL of the Hub.
        has_token: whether the request was made by an account.
        what: the repository id, or what else was asked about, for the sentence.
        ref: the branch, tag or commit that was asked for.
    """
    try:
        yield
    except (HfHubHTTPError, HFValidationError) as error:
        raise _refusal(error, endpoint, has_token, what, ref) from error
    except OfflineModeIsEnabled as error:
        raise HubUnavailable(
            f"HF_HUB_OFFLINE is set, so {endpoint} is not asked about {what}: unset it and try again."
        ) from error
    except (HTTP.RequestError, HTTP.InvalidURL) as error:
        raise HubUnavailable(
            f"The Hub at {endpoint} did not answer about {what} ({type(error).__name__}: {error}): nothing was "
            "changed; check the address and the network, then try again."
        ) from error


@contextmanager
def understood(endpoint: str, what: str) -> Iterator[None]:
    """Turn an answer that cannot be read into the product's error."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, HfHubHTTPError | HFValidationError):
            raise
        raise HubUnavailable(
            f"{endpoint} answered about {what} with something that a Hub does not say ({type(error).__name__}): "
            "nothing was changed; check that the address is the base URL of a Hub."
        ) from error


def _refusal(error: Exception, endpoint: str, has_token: bool, what: str, ref: str) -> ModelOpsError:
    """The product's error for an answer that is a refusal."""
    page = f"{endpoint}/{what}"
    if isinstance(error, HFValidationError):
        return InvalidSpec(f"{what!r} is not a repository id the Hub accepts: write it as org/name.", field="repo_id")
    if isinstance(error, GatedRepoError):  # first, because it is a subclass of RepositoryNotFoundError
        step = "set HF_TOKEN to a token of an account that was granted access" if has_token else "set HF_TOKEN"
        return RepoGated(f"{what} is gated on {endpoint}: accept the licence at {page} and {step}.")
    if isinstance(error, DisabledRepoError):
        return RepoNotFound(f"{what} is disabled on {endpoint}: see {page} for the reason, or choose another.")
    if isinstance(error, RepositoryNotFoundError):
        step = "set HF_TOKEN to a token that may see it" if has_token else "set HF_TOKEN if it is private"
        return RepoNotFound(f"{endpoint} has no model {what} for this account: check the spelling, or {step}.")
    if isinstance(error, RevisionNotFoundError):
        return InvalidSpec(
            f"{what} has no branch, tag or commit {ref!r}: choose one that {page}/tree/main lists.", field="ref"
        )
    if isinstance(error, RemoteEntryNotFoundError):
        return HubUnavailable(
            f"{endpoint} lists a file of {what}@{ref[:12]} that it does not have: nothing was changed; try again later."
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return UserError(f"{endpoint} refused access to {what} with status {status}: set HF_TOKEN to a valid token.")
    return HubUnavailable(
        f"The Hub at {endpoint} answered {status} about {what}: nothing was changed; try again later."
    )
