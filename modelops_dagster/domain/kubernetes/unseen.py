"""Specs for a cluster whose checkpoint store this machine does not see."""

import re

from modelops_dagster.domain.endpoint_spec.document import EndpointDocument
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.kubernetes.site import Site

UNSEEN = "unseen"
_REVISION = re.compile(r"[^/@]+/[^/@]+@[0-9a-f]{40}")


def unseen_spec(document: EndpointDocument, site: Site) -> EndpointSpec:
    """The complete spec, with the checkpoint where the store has a raw one of that commit; its digest is not known.

    Raises:
        InvalidSpec: the document leaves open what only the store could tell.
    """
    if not document.loads:
        return document.spec()
    if document.engine is None:
        raise InvalidSpec("engine is missing: without the store nobody knows which one fits.", field="engine")
    if document.checkpoint is None and not _REVISION.fullmatch(document.model or ""):
        raise InvalidSpec(
            f"model is {document.model}: without the store, give org/name@ and all 40 digits of the commit.",
            field="model",
        )
    if document.checkpoint is None and document.quantization not in (None, "raw"):
        raise InvalidSpec("checkpoint is missing: give the path of the quantized checkpoint.", field="checkpoint")
    path = document.checkpoint or f"{site.checkpoints.mount_path}/{(document.model or '').replace('@', '/')}"
    return document.spec(
        checkpoint=path,
        checkpoint_digest=document.checkpoint_digest or UNSEEN,
        served_model_name=document.served_model_name or document.model or path,
    )
