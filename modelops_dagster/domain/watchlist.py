"""Whom the Watcher follows, and what of theirs is wanted: `<home>/watch.yaml`."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

from pydantic import Field, field_validator

from modelops_dagster.domain.lanes import LANES
from modelops_dagster.domain.listings import SERVED_PIPELINES, RepoListing
from modelops_dagster.domain.values import Value

ORG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
BYTES_PER_GB = 10**9
POLICY_TAG = "modelops/policy"  # on a run: the promotion policy that its verdict is made by


class OrgWatch(Value):
    """What is wanted of one organisation. A field that is left out excludes nothing."""

    tasks: tuple[str, ...] | None = Field(
        default=None, description="pipeline tags; a repository without one gets the benefit of the doubt"
    )
    max_parameters_billion: float | None = Field(
        default=None, gt=0, description="largest number of parameters, as the safetensors headers state it"
    )
    max_size_gb: float | None = Field(default=None, gt=0, description="largest sum of weight files, in 10^9 bytes")
    licenses: tuple[str, ...] | None = Field(
        default=None, description="identifiers as the Hub writes them, e.g. apache-2.0"
    )
    include: tuple[str, ...] = Field(default=("*",), description="patterns of names (the part after the slash)")
    exclude: tuple[str, ...] = Field(default=(), description="patterns of names; they win over `include`")
    lanes: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="lanes a release is sent down; None: those the hardware wants"
    )
    policy: str | None = Field(default=None, description="promotion policy; None: the platform's own")

    @field_validator("tasks")
    @classmethod
    def _tasks(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for task in value or ():
            if task not in SERVED_PIPELINES:
                raise ValueError(
                    f"{task!r} is not a task that is served; choose of {', '.join(sorted(SERVED_PIPELINES))}"
                )
        return value

    @field_validator("lanes")
    @classmethod
    def _lanes(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        known = [lane.name for lane in LANES]
        for lane in value or ():
            if lane not in known:
                raise ValueError(f"{lane!r} is not a lane; choose of {', '.join(known)}")
        return value

    def objection(self, repo: RepoListing) -> str | None:
        """Why the filters leave this repository out, judged by its listing; None when they do not."""
        if any(fnmatchcase(repo.name.lower(), p.lower()) for p in self.exclude):
            return f"filter: the name {repo.name} is excluded"
        if not any(fnmatchcase(repo.name.lower(), p.lower()) for p in self.include):
            return f"filter: the name {repo.name} matches no pattern of {', '.join(self.include)}"
        if self.tasks is not None and repo.pipeline_tag and repo.pipeline_tag not in self.tasks:
            return f"filter: task {repo.pipeline_tag} is not of {', '.join(self.tasks)}"
        if self.licenses is not None and not repo.licenses & {name.lower() for name in self.licenses}:
            stated = ", ".join(sorted(repo.licenses)) or "none"
            return f"filter: licence {stated} is not of {', '.join(self.licenses)}"
        most = self.max_parameters_billion
        if most is not None and repo.parameters is not None and repo.parameters > most * 1e9:
            return f"filter: {repo.parameters / 1e9:.1f} billion parameters are more than {most:g}"
        return None

    def size_objection(self, weight_bytes: int) -> str | None:
        """Why the size of the weights leaves a repository out; None when it does not."""
        if self.max_size_gb is None or weight_bytes <= self.max_size_gb * BYTES_PER_GB:
            return None
        return f"filter: {weight_bytes / BYTES_PER_GB:.1f} GB of weights are more than {self.max_size_gb:g}"


class Watchlist(Value):
    """Every organisation that is followed."""

    organisations: Mapping[str, OrgWatch] = Field(default_factory=dict)

    @field_validator("organisations", mode="before")
    @classmethod
    def _bare_names(cls, value: object) -> object:
        """`mistralai:` with nothing behind it is an organisation without filters."""
        return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, Mapping) else value

    @field_validator("organisations")
    @classmethod
    def _names(cls, value: Mapping[str, OrgWatch]) -> Mapping[str, OrgWatch]:
        for name in value:
            if not is_org(name):
                raise ValueError(f"{name!r} is not the name of an organisation on the Hub")
        return value

    def of(self, org: str) -> OrgWatch:
        """What is wanted of `org`; everything, when it is not on the list."""
        return self.organisations.get(org, OrgWatch())


def is_org(text: str) -> bool:
    """Whether `text` can be the name of an organisation; it also names a file of the Watcher's state."""
    return bool(ORG_NAME.fullmatch(text)) and ".." not in text and "--" not in text
