"""The only reader of the environment: MODELOPS_* variables and the home directory become one frozen value."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from modelops_dagster.clients.processes import ProcessIdentity, is_alive
from modelops_dagster.domain.capacity import parse_hardware
from modelops_dagster.domain.errors import UserError
from modelops_dagster.domain.frameworks import parse_framework
from modelops_dagster.domain.lanes import LANES

PACKAGE = Path(__file__).resolve().parent
HOME_NAME = ".modelops"
# what Dagster accepts as an owner
ASSET_OWNER = re.compile(r"team:[A-Za-z0-9][A-Za-z0-9._ -]*|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}")
Port = Annotated[int, Field(ge=0, le=65535)]


def data_folder(name: str) -> Path:
    """`engines/`, `eval_datasets/`, `quantization/` or `deploy/`: at the root of the checkout, or inside a wheel."""
    checkout = PACKAGE.parent / name
    return checkout if (PACKAGE.parent / "pyproject.toml").is_file() else PACKAGE / "_data" / name


def discover_home(start: Path) -> Path:
    """The nearest `.modelops` folder at or above `start`, as git finds `.git`; `start/.modelops` when there is none."""
    for folder in (start, *start.parents):
        if (folder / HOME_NAME).is_dir():
            return folder / HOME_NAME
    return start / HOME_NAME


def hub_token(environ: Mapping[str, str] | None = None) -> str | None:
    """The Hub token: `HF_TOKEN`, else the file that `hf auth login` writes. Never stored in settings or run config."""
    env = os.environ if environ is None else environ
    if env.get("HF_TOKEN"):
        return env["HF_TOKEN"].strip()
    hf_home = env.get("HF_HOME") or str(Path(env.get("HOME", "~")).expanduser() / ".cache" / "huggingface")
    path = Path(env.get("HF_TOKEN_PATH") or Path(hf_home) / "token")
    return path.read_text().strip() or None if path.is_file() else None


def secret(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """The value of a variable that a configuration file names, e.g. a Slack token. Never stored anywhere."""
    return (os.environ if environ is None else environ).get(name) or None


def github_token(environ: Mapping[str, str] | None = None) -> str | None:
    """The GitHub token, which raises the limit of requests; none is needed."""
    return secret("GITHUB_TOKEN", environ)


def _running(record: Path) -> dict[str, object]:
    """What `modelops up` wrote. Of one that was killed only the ports: its Hub may have been its own, and is gone."""
    if not record.is_file():
        return {}
    document = json.loads(record.read_text())
    written: dict[str, object] = document["settings"]
    if is_alive(ProcessIdentity(**document["owner"])):
        return written
    return {name: value for name, value in written.items() if name.endswith("_port")}


class Settings(BaseModel):
    """Every setting, its default and its unit. Each field `x` is read from `MODELOPS_X`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Field(description="state of this installation: checkpoints, scores, routes, Dagster's own storage")
    cache: Path = Field(description="rebuildable and shared between installations: engine environments, the demo model")
    hub_url: str = Field(default="https://huggingface.co", description="base URL of the Hub")
    hub_orgs: tuple[str, ...] = Field(default=(), description="organisations the Watcher follows, comma-separated")
    hub_poll_interval_s: int = Field(default=600, ge=1, description="seconds between two looks at the Hub")
    hub_webhook_secret_file: Path | None = Field(
        default=None, description="secret of the Hub's webhook; None: secrets/hub_webhook_secret, made at first start"
    )
    frameworks: tuple[str, ...] = Field(
        default=("vllm-project/vllm", "huggingface/transformers", "vllm-project/llm-compressor=llmcompressor"),
        description="owner/name[=package] of the source repositories watched, comma-separated; a comma alone: none",
    )
    framework_poll_interval_s: int = Field(default=600, ge=1, description="seconds between two looks at releases")
    github_api_url: str = Field(default="https://api.github.com", description="base URL of GitHub's API")
    github_url: str = Field(default="https://github.com", description="base URL of GitHub, for its feeds")
    package_index_url: str = Field(
        default="", description="base URL of a package index's JSON, asked for <url>/<package>/json; empty: not asked"
    )
    asset_owners: tuple[str, ...] = Field(
        default=("team:platform",), description="who answers for the assets: team:NAME or e-mail, comma-separated"
    )
    alert_poll_interval_s: int = Field(default=30, ge=1, description="seconds between two rounds of alerts")
    policy: str = Field(default="default", description="promotion policy under eval_datasets/policies/")
    eval_datasets: Path = Field(description="folder with suites, samples and policies")
    engines: Path = Field(description="folder with one directory per engine")
    quantization: Path = Field(description="folder with quantization recipes, their texts, and recovery policies")
    lanes: tuple[str, ...] = Field(
        default=(), description="lanes every model is sent down, comma-separated; empty: those the hardware wants"
    )
    lane_recipes: tuple[str, ...] = Field(
        default=(), description="lane=recipe for each lane that shall not use its usual one, comma-separated"
    )
    recovery_policy: str = Field(default="default", description="policy under quantization/recovery/")
    quantize_memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="resident memory a quantizer may use, in GiB; None: nine tenths of what there is",
    )
    quantize_timeout_s: float = Field(default=21600, gt=0, description="longest a checkpoint may take to quantize")
    backend: Literal["machine", "kubernetes"] = Field(
        default="machine", description="where endpoints are served: processes of this machine, or a cluster"
    )
    kubeconfig: Path | None = Field(
        default=None, description="of the cluster; None: that of the pod the controller runs in"
    )
    pod_name: str = Field(default="", description="of the pod this program runs in, where it makes pods that it owns")
    pod_uid: str = Field(default="", description="uid of that pod; empty: it runs in none")
    host: str = Field(default="127.0.0.1", description="address every service binds to")
    controller_host: str = Field(default="", description="name others reach the controller by; empty: host")
    gateway_host: str = Field(default="", description="name others reach the gateway by; empty: host")
    dagster_port: Port = Field(default=3000, description="Dagster UI; 0 picks a free one")
    gateway_port: Port = Field(default=4000, description="LiteLLM gateway; 0 picks a free one")
    gateway_workers: int = Field(
        default=2, ge=1, le=64, description="processes that answer calls, about 90 a second each"
    )
    gateway_max_in_flight: int = Field(default=1000, ge=1, description="calls at once; more are refused with 503")
    gateway_max_wait_s: float = Field(
        default=2.0,
        gt=0,
        allow_inf_nan=False,
        description="wait for the gateway itself, in seconds, above which calls are refused with 503, batches first",
    )
    gateway_wake_hold_s: float = Field(
        default=90.0,
        ge=0,
        allow_inf_nan=False,
        description="longest a call waits, in seconds, for an endpoint that it wakes; vLLM starts in 60 to 70 on a CPU",
    )
    gateway_drain_s: int = Field(
        default=10, ge=1, description="how long calls under way may take once the gateway is told to end, in seconds"
    )
    endpoint_usd_per_hour: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="what an endpoint's hardware costs; calls are charged their share",
    )
    controller_port: Port = Field(default=8400, description="controller REST API; 0 picks a free one")
    accelerator: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="what engines serve on; auto takes a GPU when the driver shows one"
    )
    min_tokens_per_second: float = Field(
        default=2.0, gt=0, description="slowest generation, one stream, that is still usable; below it a rung is left"
    )
    rehearsal: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="whether engines are tried with made-up weights during the fetch; auto: on GPUs, for large models",
    )
    rehearsal_timeout_s: float = Field(default=600, gt=0, description="longest one engine may take for that")
    recipes: str = Field(
        default="", description="a copy of vLLM's recipes, folder or base URL, that start commands follow; empty: none"
    )
    max_context: int = Field(default=2048, ge=128, description="longest context an endpoint is started with, in tokens")
    gpus: str = Field(
        default="",
        description="GPUs to plan for, [NODESx]COUNTxNAME-SIZEGB, e.g. 2x8xH100-80GB; empty: those this machine has",
    )
    planned_sequences: int = Field(
        default=16, ge=1, description="conversations of the longest context that an endpoint is to hold at once"
    )
    licenses: tuple[str, ...] = Field(
        default=(), description="licences a release may have, as the Hub writes them, comma-separated; none: any"
    )

    @field_validator("frameworks")
    @classmethod
    def _frameworks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_framework(text)
        return value

    @field_validator("asset_owners")
    @classmethod
    def _asset_owners(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for owner in value:
            if not ASSET_OWNER.fullmatch(owner):
                raise ValueError(f"{owner!r} is neither team:NAME nor an e-mail address")
        if not value:
            raise ValueError("somebody has to own the assets")
        return value

    @field_validator("gpus")
    @classmethod
    def _gpus(cls, value: str) -> str:
        parse_hardware(value)
        return value

    @field_validator("lanes")
    @classmethod
    def _lanes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = [lane.name for lane in LANES]
        for name in value:
            if name not in known:
                raise ValueError(f"{name!r} is not a lane; choose of {', '.join(known)}")
        return value

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> "Settings":
        """Read the environment, then what `modelops up` wrote about its ports, then the defaults.

        Raises:
            UserError: a variable has a value of the wrong kind.
        """
        env = os.environ if environ is None else environ
        home = Path(env.get("MODELOPS_HOME") or discover_home(cwd or Path.cwd())).expanduser().resolve()
        cache_root = Path(env.get("XDG_CACHE_HOME") or Path(env.get("HOME", "~")).expanduser() / ".cache")
        values: dict[str, object] = {
            "home": home,
            "cache": cache_root / "modelops",
            "eval_datasets": data_folder("eval_datasets"),
            "engines": data_folder("engines"),
            "quantization": data_folder("quantization"),
        }
        if env.get("HF_ENDPOINT"):
            values["hub_url"] = env["HF_ENDPOINT"]
        values.update(_running(home / "run" / "stack.json"))
        lists = {"asset_owners", "hub_orgs", "frameworks", "licenses", "lanes", "lane_recipes"}
        for name in cls.model_fields:
            raw = env.get(f"MODELOPS_{name.upper()}")
            if raw:
                values[name] = tuple(p.strip() for p in raw.split(",") if p.strip()) if name in lists else raw
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0])
            raise UserError(
                f"MODELOPS_{field.upper()}={first['input']!r} does not hold: {first['msg']}; set it to a valid value."
            ) from error

    @property
    def allow_list(self) -> Path:
        """Which commits may bring code."""
        return self.home / "allow.yaml"

    @property
    def own_engines(self) -> Path:
        """Where an operator puts engines of their own."""
        return self.home / "engines"

    @property
    def images_for(self) -> str:
        """What the images are built for that endpoints are started from; empty: engines are installed here."""
        return self.accelerator if self.backend == "kubernetes" else ""

    @property
    def site_file(self) -> Path:
        """What the cluster is like, where endpoints are served on one."""
        return self.home / "kubernetes.yaml"

    @property
    def controller_url(self) -> str:
        return f"http://{self.controller_host or self.host}:{self.controller_port}"

    @property
    def gateway_url(self) -> str:
        return f"http://{self.gateway_host or self.host}:{self.gateway_port}"

    @property
    def dagster_url(self) -> str:
        return f"http://{self.host}:{self.dagster_port}"

    def environ(self) -> dict[str, str]:
        """The same settings as variables, for the programs that `modelops up` starts."""
        out: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None:
                continue
            # a comma alone is an empty list; an empty variable would be the default
            out[f"MODELOPS_{name.upper()}"] = (",".join(value) or ",") if isinstance(value, tuple) else str(value)
        return out
