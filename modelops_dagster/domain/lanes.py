"""Lanes: a checkpoint's road to the gateway, and the names its endpoint gets on the way."""

import hashlib
import re

from pydantic import Field

from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.values import Value

MAX_ENDPOINT_NAME = 64


class Lane(Value):
    """One column of the asset graph: five assets from a checkpoint to a route."""

    name: str
    checkpoint_asset: str = Field(description="key of the asset that makes the lane's checkpoint")
    description: str


RAW = Lane(name="raw", checkpoint_asset="raw_weights", description="The checkpoint as released, on its first day.")
QUANTIZED_LANES = (
    Lane(name="fp8", checkpoint_asset="fp8_weights", description="Eight-bit floats, for GPUs that multiply them."),
    Lane(name="awq", checkpoint_asset="awq_weights", description="Four-bit weights, for what would not fit otherwise."),
    Lane(name="int8", checkpoint_asset="int8_weights", description="Eight-bit integers, for CPUs and older GPUs."),
)
LANES = (RAW, *QUANTIZED_LANES)


def lane_alias(repo_id: str, lane: str) -> str:
    """What clients call the model of a lane: the repository for `raw`, `org/name:fp8` for the others.

    No repository can have that name, so a quantized copy that passed never takes the place of what stands behind the
    repository's own alias; moving traffic over is a decision of its own.
    """
    return repo_id if lane == RAW.name else f"{repo_id}:{lane}"


DECIDE_AGAIN = {"modelops/chain": "decide-again"}  # on a run: it decides about a hold, from what is stored


def decide_job(lane: str) -> str:
    """Name of the job that decides and registers again from what is stored."""
    return f"decide_{lane}"


def lane_job(lane: str) -> str:
    """The job that takes a model down a lane."""
    return "onboard" if lane == RAW.name else f"{lane}_lane"


def endpoint_name(revision: ModelRevision, lane: str) -> str:
    """One endpoint per revision and lane, e.g. `acme-SmolLM2-135M-raw-1f0c9a2b`; at most 64 characters.

    A long repo_id is cut and gets a digest, so that two long names never meet.
    """
    slug = re.sub(r"[^A-Za-z0-9]+", "-", revision.repo_id).strip("-")
    if not slug[0].isalpha():
        slug = f"m{slug}"
    tail = f"-{lane}-{revision.commit_hash[:8]}"
    room = MAX_ENDPOINT_NAME - len(tail)
    if len(slug) > room:
        slug = slug[: room - 7].rstrip("-") + "-" + hashlib.sha256(revision.repo_id.encode()).hexdigest()[:6]
    return slug + tail


def served_model_name(revision: ModelRevision, lane: str) -> str:
    """The name the engine answers to. It carries the revision, so a stranger on our port is not taken for ours."""
    return f"{revision.repo_id}@{revision.commit_hash[:12]}-{lane}"
