"""The boundary where the product's errors become Dagster's: one sentence as the step's description."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from modelops_dagster.domain.errors import EngineFailed, ModelOpsError, PreflightBlocked, QuantizationFailed
from modelops_dagster.domain.summary import findings_table, markdown


@contextmanager
def clear_failure() -> Iterator[None]:
    """Turn a ModelOpsError into a `dg.Failure` that shows its sentence and no traceback of ours."""
    try:
        yield
    except ModelOpsError as error:
        metadata: dict[str, dg.MetadataValue] = {"code": dg.MetadataValue.text(error.code)}
        if isinstance(error, EngineFailed | QuantizationFailed):
            metadata["reason"] = dg.MetadataValue.text(error.reason)
            metadata["log_tail"] = dg.MetadataValue.md(f"```\n{error.log_tail}\n```")
        if isinstance(error, PreflightBlocked):
            metadata["findings"] = dg.MetadataValue.md(markdown(findings_table(error.findings)))
        # a retry of the same inputs would end the same way; what may pass is retried inside the clients
        raise dg.Failure(description=error.sentence, metadata=metadata, allow_retries=False) from None
