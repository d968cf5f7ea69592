"""One token from an endpoint of somebody else's before the Gauntlet begins: is it there, and what is it?"""

import asyncio
import hashlib
import re
from typing import Any

from modelops_dagster.clients.gauntlet.dataset import FATAL
from modelops_dagster.clients.gauntlet.inference import InferenceClient
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.errors import EvaluationFailed, ModelOpsError, UserError
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.eval_config import EvalPlan
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.openai_urls import Api, base_url


def reach(plan: EvalPlan, api: Api, api_key: str | None, timeout_s: float) -> Endpoint:
    """Ask for one token, so that a wrong address, key or model id is one sentence now and not a report of zeros.

    Args:
        api: the route that is asked.
        timeout_s: for all of it.

    Raises:
        UserError: the user must correct the address, the key or the model id.
        EvaluationFailed: the endpoint is there and does not answer.
    """
    try:
        base = base_url(plan.url)
    except ValueError as error:
        raise UserError(f"The address {error}.") from None
    model_id = plan.model_id
    models, answer = asyncio.run(_ask(base, plan, api, api_key, timeout_s))
    listed = _listed(models)
    if not answer.is_ok:
        raise _unreachable(base, plan, answer, listed, has_key=api_key is not None)
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


def refusal(plan: EvalPlan, api: Api, api_key: str | None, timeout_s: float) -> UserError | None:
    """Why an endpoint that was reached refuses one token now: its key was revoked, or its model is gone.

    None where it answers, or where nobody answers in time: then the user has nothing to correct.
    """
    base = base_url(plan.url)
    models, answer = asyncio.run(_ask(base, plan, api, api_key, timeout_s))
    if answer.error not in FATAL:
        return None
    return _refused(base, plan, answer, _listed(models), has_key=api_key is not None)


async def _ask(base: str, plan: EvalPlan, api: Api, api_key: str | None, timeout_s: float) -> tuple[Any, Completion]:
    """The body of its list of models and its answer of one token, whatever came of them in time."""
    asked = {"prompt": "Hello."} if api == "completions" else {"messages": [{"role": "user", "content": "Hello."}]}
    body = {"model": plan.model_id, **asked, "max_tokens": 1}
    # an attempt ends before the whole does, so that a list of models that hangs does not take the answer along
    limits: dict[str, Any] = {"attempt_timeout_s": 0.9 * timeout_s, "retries": 1, "transport": plan.chain.transport}
    try:
        async with (
            asyncio.timeout(timeout_s),
            InferenceClient(base, concurrency=2, api_key=api_key, **limits) as client,
        ):
            models, answer = await asyncio.gather(
                client.ask_plain("GET", base + "/models"), client.complete(body, api=api)
            )
            return models.body, answer
    except TimeoutError:
        return None, Completion(error="timeout", error_detail=f"no complete answer in {timeout_s:g} s")


def _listed(body: Any) -> dict[str, int | None]:
    """Model names of a /models answer, with their context length in tokens where it is told."""
    entries = body.get("data") if isinstance(body, dict) else None
    models = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    return {str(m.get("id")): m.get("max_model_len") for m in models}


def _unreachable(
    base: str, plan: EvalPlan, answer: Completion, listed: dict[str, int | None], *, has_key: bool
) -> ModelOpsError:
    """A UserError when the address, the key or the model id must be corrected, else an EvaluationFailed."""
    said = answer.error_detail
    if answer.error in FATAL:
        return _refused(base, plan, answer, listed, has_key=has_key)
    if answer.error == "connection":
        own = re.search(r"\[(.+)\]$", said)  # aiohttp's words stand before it
        why = own[1] if own else said
        return UserError(f"{base} cannot be reached ({why}): check the address, and that the endpoint is running.")
    if answer.error in ("html", "not_json"):
        return UserError(f"{base} is not an OpenAI-compatible endpoint ({said}): check the address.")
    if answer.error == "refused_request":
        return UserError(f"{base} refuses a request of one token ({said}): check the model id and the file's payload.")
    return EvaluationFailed(
        f"{base} does not answer a request of one token ({answer.error}: {said}): see the endpoint's log and ask again."
    )


def _refused(
    base: str, plan: EvalPlan, answer: Completion, listed: dict[str, int | None], *, has_key: bool
) -> UserError:
    """What to correct where the endpoint refuses the key, or has no such model."""
    said, model_id = answer.error_detail, plan.model_id
    if answer.error == "unauthorized":
        if has_key:
            held = f"the key that the variable {plan.api_key_name} holds" if plan.api_key_name else "the platform's key"
            return UserError(f"{base} refuses {held} ({said}): correct it and ask again.")
        how = f"set the variable {plan.api_key_name}" if plan.api_key_name else "name the variable that holds it"
        how += "" if plan.api_key_name else " with --api-key-env"
        return UserError(f"{base} wants a key, and none was sent ({said}): {how}.")
    if listed and model_id not in listed:
        return UserError(f"{base} has no model {model_id!r}: use one of {', '.join(list(listed)[:8])}.")
    return UserError(f"{base} has no such route or no model {model_id!r} ({said}): check the address and the model id.")
