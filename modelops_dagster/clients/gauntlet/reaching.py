"""One token from an endpoint of somebody else's before the Gauntlet begins: is it there, and what is it?"""

import asyncio
import hashlib
from typing import Any

from modelops_dagster.clients.gauntlet.inference import InferenceClient
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.errors import EvaluationFailed, ModelOpsError, UserError
from modelops_dagster.domain.gauntlet.eval_config import EvalPlan
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.openai_urls import Api, base_url


def reach(plan: EvalPlan, api: Api, api_key: str | None, timeout_s: float) -> Endpoint:
    """Ask for one token, so that a wrong address, key or model id is one sentence now and not a report of zeros.

    Args:
        api: the route that is asked.
        timeout_s: for one attempt.

    Raises:
        UserError: the user must correct the address, the key or the model id.
        EvaluationFailed: the endpoint is there and does not answer.
    """
    try:
        base = base_url(plan.url)
    except ValueError as error:
        raise UserError(f"--url {error}.") from None
    model_id = plan.model_id
    models, answer = asyncio.run(_ask(base, plan, api, api_key, timeout_s))
    listed = _listed(models.body)
    if not answer.is_ok:
        raise _unreachable(base, model_id, answer, listed)
    digest = hashlib.sha256(f"{base}\n{model_id}".encode()).hexdigest()
    # no Hub commit is known for an endpoint of somebody else's: the null id says so, as it does in git
    revision = ModelRevision(repo_id=f"external/{digest[:12]}", commit_hash="0" * 40)
    return Endpoint(
        name="external",
        url=base,
        served_model_name=model_id,
        checkpoint=Checkpoint(revision=revision, scheme="raw", directory="/", digest=f"sha256:{digest}", size_bytes=0),
        engine="unknown",
        engine_version="unknown",
        rung="unknown",
        ladder=(),
        start_seconds=0,
        tokens_per_second=0,
        max_context=listed.get(model_id) or 0,
    )


async def _ask(base: str, plan: EvalPlan, api: Api, api_key: str | None, timeout_s: float) -> tuple[Any, Any]:
    """The answers about its models, and to a request of one token."""
    asked = {"prompt": "Hello."} if api == "completions" else {"messages": [{"role": "user", "content": "Hello."}]}
    async with InferenceClient(
        base,
        concurrency=1,
        attempt_timeout_s=timeout_s,
        retries=1,
        api_key=api_key,
        transport=plan.chain.transport,
    ) as client:
        models = await client.ask_plain("GET", base + "/models")
        return models, await client.complete({"model": plan.model_id, **asked, "max_tokens": 1}, api=api)


def _listed(body: Any) -> dict[str, int | None]:
    """Model names of a /models answer, with their context length in tokens where it is told."""
    entries = body.get("data") if isinstance(body, dict) else None
    models = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    return {str(m.get("id")): m.get("max_model_len") for m in models}


def _unreachable(base: str, model_id: str, answer: Any, listed: dict[str, int | None]) -> ModelOpsError:
    """A UserError when the address, the key or the model id must be corrected, else an EvaluationFailed."""
    said = answer.error_detail
    if answer.error == "unauthorized":
        return UserError(f"{base} refuses the key ({said}): name the variable that holds it with --api-key-env.")
    if answer.error == "not_found" and listed and model_id not in listed:
        return UserError(f"{base} has no model {model_id!r}: use one of {', '.join(list(listed)[:8])}.")
    if answer.error == "not_found":
        return UserError(f"{base} has no such route or no model {model_id!r} ({said}): check --url and --model-id.")
    if answer.error == "connection":
        return UserError(f"{base} cannot be reached ({said}): check --url, and that the endpoint is running.")
    if answer.error in ("html", "not_json"):
        return UserError(f"{base} is not an OpenAI-compatible endpoint ({said}): check --url.")
    if answer.error == "refused_request":
        return UserError(f"{base} refuses a request of one token ({said}): check --model-id and the file's payload.")
    return EvaluationFailed(
        f"{base} does not answer a request of one token ({answer.error}: {said}): see the endpoint's log and ask again."
    )
