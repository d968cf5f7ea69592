"""Recipes that hold together, names of derived checkpoints, and releases that are quantized already."""

import pytest
from pydantic import ValidationError

from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.hub import ModelRevision, Release, RepoFile
from modelops_dagster.domain.quantization import Recipe, derived_name, gib, released_quantized

REVISION = ModelRevision(repo_id="acme/one", commit_hash="a" * 40)
CALIBRATION = {"file": "texts.jsonl", "samples": 4, "max_tokens": 64}
RTN = {"name": "plain", "version": 1, "description": "d", "scheme": "FP8_DYNAMIC", "method": "rtn"}
AWQ = {**RTN, "scheme": "W4A16", "method": "awq", "group_sizes": [128, 64], "calibration": CALIBRATION}


def source(digest: str = "sha256:1") -> Checkpoint:
    return Checkpoint(revision=REVISION, scheme="raw", directory="/m", digest=digest, size_bytes=1)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({**RTN, "scheme": "raw"}, "raw is no scheme"),
        ({**RTN, "scheme": "FP16"}, "FP8_DYNAMIC"),
        ({**RTN, "group_sizes": [128]}, "no other scheme has any"),
        ({**AWQ, "group_sizes": []}, "W4A16 needs group_sizes"),
        ({**AWQ, "calibration": None}, "need a calibration"),
        ({**RTN, "calibration": CALIBRATION}, "rtn takes none"),
        ({**AWQ, "scheme": "W8A8", "group_sizes": []}, "awq makes W4A16 only"),
        ({**RTN, "method": "gptq", "calibration": CALIBRATION}, "gptq makes W8A8 and W4A16 only"),
        ({**AWQ, "calibration": {**CALIBRATION, "file": "../x.jsonl"}}, "pattern"),
        ({**RTN, "groupsize": 1}, "groupsize"),
    ],
)
def test_a_recipe_that_does_not_hold_together_is_refused(recipe: dict[str, object], words: str):
    with pytest.raises(ValidationError, match=words):
        Recipe.model_validate(recipe)


def test_whatever_goes_into_a_checkpoint_is_in_its_name():
    recipe = Recipe.model_validate(AWQ)
    name = derived_name(source(), recipe, "sha256:t", "llmcompressor 1")
    assert name.startswith(f"{'a' * 40}-w4a16-")
    assert name == derived_name(
        source(), recipe.model_copy(update={"description": "other"}), "sha256:t", "llmcompressor 1"
    )
    others = {
        derived_name(source("sha256:2"), recipe, "sha256:t", "llmcompressor 1"),
        derived_name(source(), recipe.model_copy(update={"group_sizes": (64,)}), "sha256:t", "llmcompressor 1"),
        derived_name(source(), recipe, "sha256:u", "llmcompressor 1"),
        derived_name(source(), recipe, "sha256:t", "llmcompressor 2"),
    }
    assert len({name, *others}) == 5


@pytest.mark.parametrize(
    ("quantization", "files", "by"),
    [
        (None, ["model.safetensors"], None),
        ("fp8", [], "fp8"),
        ("mxfp4", [], "mxfp4"),
        ("compressed-tensors", [], "compressed-tensors"),
        (None, ["hf_quant_config.json"], "modelopt"),
        (None, ["docs/hf_quant_config.json"], None),
    ],
)
def test_a_release_that_is_quantized_is_recognised(quantization: str | None, files: list[str], by: str | None):
    release = Release(
        revision=REVISION,
        hub_url="http://hub",
        files=tuple(RepoFile(path=path, size_bytes=1) for path in files),
        quantization=quantization,
    )
    assert released_quantized(release) == by


def test_sizes_read_well():
    assert gib(3 * 2**29) == "1.5 GiB"
    assert gib(340 * 2**20) == "340 MiB"
