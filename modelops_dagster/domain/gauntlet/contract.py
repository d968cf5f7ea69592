"""What a contract check is: it judges observations and names the serving fault it probably shows.

Observations are completions and plain HTTP answers that `clients.gauntlet.probes` gathers once and shares. The checks
are listed in `contract_checks`; how they judge is in `contract_judges`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelops_dagster.domain.gauntlet.completion import ErrorClass
from modelops_dagster.domain.gauntlet.suite import ContractSettings

CONTRACT_VERSION = 2
"""Raised with every change that may turn a check."""

NOT_OFFERED_STATUS = frozenset({400, 404, 405, 415, 422, 501})

REQUIRED, ADVISORY = "contract/required", "contract/advisory"

Ruling = Literal["pass", "fail", "not_offered", "unscored"]
Observed = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """`said` is what was seen, without the check's name; `text` the completion that shows it."""

    ruling: Ruling
    said: str = ""
    text: str = ""

    @classmethod
    def of(cls, holds: bool, said: str, text: str = "") -> "Finding":
        return cls("pass" if holds else "fail", said, text)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A plain request's status and parsed body; status 0 and an error when there was no answer."""

    status: int
    body: Any = None
    error: ErrorClass | None = None
    error_detail: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """`needs` names the observations; `fault` is what probably broke when the check fails."""

    name: str
    needs: tuple[str, ...]
    judge: Callable[[Observed, ContractSettings], Finding]
    fault: str
    is_advisory: bool = False
