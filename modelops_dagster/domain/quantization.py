"""Quantizing: recipes, what makes a derived checkpoint the same as another, and what is quantized already."""

from typing import Literal, get_args

from pydantic import Field, model_validator

from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.hub import Release
from modelops_dagster.domain.policies import Name, content_hash
from modelops_dagster.domain.schemes import Scheme
from modelops_dagster.domain.values import Value

Method = Literal["rtn", "gptq", "awq"]
QuantizationFailure = Literal[
    "out_of_memory",
    "timeout",
    "needs_newer_transformers",
    "group_size",
    "disk_full",
    "no_calibration",
    "crash",
    "no_image",
    "bad_config",
    "taken_away",
]
# Lane -> recipe, where MODELOPS_LANE_RECIPES says nothing else.
LANE_RECIPES = {"fp8": "fp8-dynamic", "awq": "awq", "int8": "int8"}
QUANTIZERS_FILES = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}


class Calibration(Value):
    """Which texts are run through the model while it is quantized."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*\.jsonl$", description="beside the recipe")
    samples: int = Field(ge=1, le=4096, description="texts drawn from the file")
    max_tokens: int = Field(ge=16, le=32768, description="longest text, in tokens; what is longer is cut")
    seed: int = Field(default=1, description="decides which texts are drawn")


class Recipe(Value):
    """`quantization/<name>.yaml`: one way to quantize a checkpoint."""

    name: Name = Field(description="same as the file's name")
    version: int = Field(ge=1, description="raise it with every change; the digest tells versions apart anyway")
    description: str = Field(min_length=1)
    scheme: Scheme = Field(description="what the checkpoint is quantized to")
    method: Method = Field(description="rtn rounds to nearest and needs no texts; gptq and awq are calibrated")
    symmetric: bool = Field(default=True, description="four-bit weights without a zero point")
    group_sizes: tuple[int, ...] = Field(
        default=(), description="inputs that share a scale, best first; the first that divides every width is taken"
    )
    ignore: tuple[str, ...] = Field(default=("lm_head",), description="layers left as they are; re: begins a pattern")
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> "Recipe":
        if self.scheme == "raw":
            raise ValueError("raw is no scheme to quantize to; name one of " + ", ".join(get_args(Scheme)[1:]))
        if (self.scheme == "W4A16") != bool(self.group_sizes):
            raise ValueError("W4A16 needs group_sizes, and no other scheme has any")
        if (self.method == "rtn") != (self.calibration is None):
            raise ValueError("gptq and awq need a calibration, and rtn takes none")
        if self.method == "awq" and self.scheme != "W4A16":
            raise ValueError("awq makes W4A16 only")
        if self.method == "gptq" and self.scheme.startswith("FP8"):
            raise ValueError("gptq makes W8A8 and W4A16 only")
        return self

    @property
    def digest(self) -> str:
        """`sha256:…` of what decides about the result; the description and the name do not."""
        return f"sha256:{content_hash(self.model_dump(mode='json', exclude={'name', 'description'}))}"


def derived_name(source: Checkpoint, recipe: Recipe, calibration_digest: str | None, made_by: str) -> str:
    """Name of the derived checkpoint's directory: the commit, the scheme, and eight digits of all that went in.

    Another recipe, other texts or another quantizer make another directory; the same make the same one.
    """
    parts = [source.digest, recipe.digest, calibration_digest, made_by]
    scheme = recipe.scheme.lower().replace("_", "-")
    return f"{source.revision.commit_hash}-{scheme}-{content_hash(parts)[:8]}"


def released_quantized(release: Release) -> str | None:
    """How a release was quantized by its publisher (fp8, mxfp4, compressed-tensors, …); None when it was not.

    Older tools write a file of their own and leave config.json as it was.
    """
    if release.quantization:
        return release.quantization
    return next((QUANTIZERS_FILES[f.path] for f in release.files if f.path in QUANTIZERS_FILES), None)


def gib(size_bytes: float) -> str:
    """A size for people: `1.9 GiB`, and below that `340 MiB`."""
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"
