"""answer_batch: a file of requests answered through the gateway, as a job that goes on where it was stopped."""

import time
from pathlib import Path

import dagster as dg
from pydantic import Field

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.progress import log_tenths
from modelops_dagster.clients.batch_files import Collected, collect, read_requests, resume
from modelops_dagster.clients.batches import BatchStore
from modelops_dagster.domain.batch import Batch
from modelops_dagster.domain.counting import counted
from modelops_dagster.resources.platform import GatewayResource

POLL_S = 0.5
GATEWAY_TIMEOUT_S = 30.0


class BatchConfig(dg.Config):
    """What is asked, who pays, and where the answers go."""

    file: str = Field(description="Requests in OpenAI's batch format, one JSON object a line; a path on this machine.")
    alias: str = Field(default="", description="The model of every request. Empty: what each line's body names.")
    key_id: str = Field(default="", description="Id of the gateway key it is charged to. Empty: the only valid one.")
    answers: str = Field(default="", description="Where answers are written. Empty: <file>.answers.jsonl.")
    errors: str = Field(default="", description="Where errors are written. Empty: <file>.errors.jsonl.")
    max_errors: int = Field(default=0, ge=0, description="Requests that may get an error before the run fails.")


@dg.op(
    description="Answer a file of requests, after everybody else's calls. Executed again, or started again after a "
    "crash, it asks only what has no answer yet."
)
def answer_requests(context: dg.OpExecutionContext, config: BatchConfig, gateway: GatewayResource) -> None:
    file = Path(config.file).expanduser()
    with clear_failure():
        gateway.client().ready(GATEWAY_TIMEOUT_S)
        requests = read_requests(file, config.alias or None)
        key, store = gateway.key_store().charged(config.key_id or None), gateway.batches()
        batches = resume(store, key.key_id, file.name, requests, origin=context.run.root_run_id or context.run_id)
        if len(batches) > 1 or batches[0].completed + batches[0].failed:
            context.log.info(f"going on with batch {batches[0].batch_id}: {counted(len(requests), 'request')} in all")
        last = _follow(context, store, batches[0])
        done = collect(
            store,
            [last, *batches[1:]],
            Path(config.answers or f"{file}.answers.jsonl").expanduser(),
            Path(config.errors or f"{file}.errors.jsonl").expanduser(),
        )
    context.add_output_metadata(_metadata(done, last, len(requests)))
    missing = len(requests) - done.answered
    if missing > config.max_errors:
        raise dg.Failure(
            description=f"{missing} of {counted(len(requests), 'request')} got no answer (batch {last.batch_id}: "
            f"{last.state}); {done.errors} says why, and a re-execution asks them again.",
            metadata=_metadata(done, last, len(requests)),
            allow_retries=False,
        )


@dg.job(description="A file of requests answered through the gateway: the same as `modelops batch submit`.")
def answer_batch() -> None:
    answer_requests()


def _follow(context: dg.OpExecutionContext, store: BatchStore, batch: Batch) -> Batch:
    """The batch as it ended. A run that a person terminates ends it; one that crashes leaves it going."""
    report = log_tenths(context.log, f"batch {batch.batch_id}:", "requests answered")
    try:
        while batch.active:
            report(batch.completed + batch.failed, batch.total)
            time.sleep(POLL_S)
            batch = store.get(batch.batch_id) or batch
    except dg.DagsterExecutionInterruptedError:
        store.cancel(batch.batch_id)
        raise
    report(batch.completed + batch.failed, batch.total)
    return batch


def _metadata(done: Collected, batch: Batch, total: int) -> dict[str, dg.MetadataValue]:
    return {
        "requests": dg.MetadataValue.int(total),
        "answered": dg.MetadataValue.int(done.answered),
        "failed": dg.MetadataValue.int(done.failed),
        "batch": dg.MetadataValue.text(f"{batch.batch_id}, {batch.state}"),
        "answers": dg.MetadataValue.path(done.answers),
        "errors": dg.MetadataValue.path(done.errors),
    }
