"""Every error this product raises on purpose.

ModelOpsError
├── UserError                 the user must do something; the CLI prints the sentence and exits 2, as for *Unavailable
│   ├── RepoNotFound          the Hub has no such repository, or this token may not see it
│   ├── RepoGated             the repository asks for a licence acceptance or a token
│   ├── UnsafeCheckpoint      pickle, remote code, a path outside the directory
│   ├── NoWeights             the repository has no safetensors
│   ├── NoTokenizer           the repository has weights and nothing that turns text into tokens
│   ├── PreflightBlocked      its metadata shows that a release cannot be served here; carries the findings
│   ├── DiskFull              not enough free space, before or during a write
│   ├── PortTaken             a port we were told to use belongs to somebody else
│   ├── EngineMissing         an engine is not installed, or cannot be on this machine
│   ├── InvalidSpec           a spec, policy, suite or argument does not hold; carries the field
│   ├── NoSuchEndpoint        the controller knows no endpoint of that name
│   ├── NotFound              there is no route, batch, job or the like of that name
│   ├── Forbidden             the key's role does not include what was asked
│   └── NotRunning            a part of the platform that is needed does not answer
├── IntegrityError            bytes are not what the manifest says
├── HubUnavailable            the Hub did not answer, or answered partially; nothing changed, try again
├── SourceUnavailable         a list of framework releases could not be read; nothing changed, try again
├── AlertNotSent              a channel did not take a message; it is sent again later
├── QuantizationFailed        a checkpoint could not be quantized or compared; carries the classified reason
├── EngineFailed              an engine could not serve a checkpoint; carries the classified reason
├── ModelParked               no rung of the ladder could serve the model; carries every reason
├── EndpointFailed            an endpoint did not become, or stay, ready
├── ClusterUnavailable    an API server does not answer; what runs on the cluster goes on, and it is asked again
├── QueueUnavailable          the server of a queue does not answer; requests stay in it, and it is asked again
├── Conflict                  somebody else changed the document since it was read
└── EvaluationFailed          the machinery of an evaluation broke; says nothing about the model

Every message says what was wrong, the value, and what to do next, in one sentence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelops_dagster.domain.engines import RungResult
    from modelops_dagster.domain.preflight import Finding


class ModelOpsError(Exception):
    """Base of the tree. `code` is stable and machine-readable."""

    code = "error"

    @property
    def sentence(self) -> str:
        """The message as one line, for terminals and for the step's description in the Dagster UI."""
        return " ".join(str(self).split())


class UserError(ModelOpsError):
    code = "user_error"


class RepoNotFound(UserError):
    code = "repo_not_found"


class RepoGated(UserError):
    code = "repo_gated"


class UnsafeCheckpoint(UserError):
    code = "unsafe_checkpoint"


class NoWeights(UserError):
    code = "no_weights"


class NoTokenizer(UserError):
    code = "no_tokenizer"


class PreflightBlocked(UserError):
    """`findings` holds every `domain.preflight.Finding`, those that do not block included."""

    code = "preflight_blocked"

    def __init__(self, message: str, *, findings: Sequence[Finding] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


class DiskFull(UserError):
    code = "disk_full"


class PortTaken(UserError):
    code = "port_taken"


class EngineMissing(UserError):
    code = "engine_missing"


class InvalidSpec(UserError):
    """`field` is the dotted path of what does not hold, or None when the whole document is meant."""

    code = "invalid_spec"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NoSuchEndpoint(UserError):
    code = "no_such_endpoint"


class NotFound(UserError):
    code = "not_found"


class Forbidden(UserError):
    code = "forbidden"


class NotRunning(UserError):
    code = "not_running"


class IntegrityError(ModelOpsError):
    code = "integrity"


class HubUnavailable(ModelOpsError):
    code = "hub_unavailable"


class SourceUnavailable(ModelOpsError):
    """`limited_until` is when a rate limit ends, in seconds since the epoch; None when there is none."""

    code = "source_unavailable"

    def __init__(self, message: str, *, limited_until: float | None = None) -> None:
        super().__init__(message)
        self.limited_until = limited_until


class AlertNotSent(ModelOpsError):
    """`retry_after_s` is how long the receiver asks to be left alone; None when it says nothing."""

    code = "alert_not_sent"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineFailed(ModelOpsError):
    """`reason` is one of `domain.engines.FailureReason`; `log_tail` holds the engine's last lines."""

    code = "engine_failed"

    def __init__(self, message: str, *, reason: str, log_tail: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.log_tail = log_tail


class QuantizationFailed(ModelOpsError):
    """`reason` is one of `domain.quantization.QuantizationFailure`; `log_tail` holds the quantizer's last lines."""

    code = "quantization_failed"

    def __init__(self, message: str, *, reason: str, log_tail: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.log_tail = log_tail


class ModelParked(ModelOpsError):
    """`ladder` holds a `domain.engines.RungResult` for every rung that was tried."""

    code = "model_parked"

    def __init__(self, message: str, *, ladder: Sequence[RungResult] = ()) -> None:
        super().__init__(message)
        self.ladder = tuple(ladder)


class EndpointFailed(ModelOpsError):
    code = "endpoint_failed"


class OverQuota(UserError):
    """A quota of the cluster's namespace has no room for it now; later it may."""

    code = "over_quota"


class ClusterUnavailable(ModelOpsError):
    code = "cluster_unavailable"


class QueueUnavailable(ModelOpsError):
    code = "queue_unavailable"


class Conflict(ModelOpsError):
    code = "conflict"


class EvaluationFailed(ModelOpsError):
    code = "evaluation_failed"
