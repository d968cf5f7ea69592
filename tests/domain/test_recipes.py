"""What is taken of a recipe."""

import pytest

from modelops_dagster.domain.engine_arguments import ArgumentCatalog, EngineArgument
from modelops_dagster.domain.engines import EngineManifest, StartOverlay
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.recipes import merge_overlays, overlay_for, parse_recipe

DOCUMENT = {
    "model": {
        "model_id": "acme/Odd-7B",
        "min_vllm_version": "0.34.0",
        "docker_image": {"nvidia": "vllm/vllm-openai:odd", "amd": "rocm/vllm:odd"},
        "base_args": ["--max-num-seqs 16", "--trust-remote-code", "--tensor-parallel-size", "8", "--made-up", "x"],
        "base_env": {"VLLM_USE_ODD": 1, "LD_PRELOAD": "/x.so"},
    },
    "features": {
        "tool_calling": {"args": ["--enable-auto-tool-choice", "--tool-call-parser", "odd"]},
        "spec_decoding": {"args": ["--speculative-config", "{}"]},
    },
}
MANIFEST = EngineManifest(
    name="vllm",
    summary="",
    version="0.33.0",
    accelerators=("cuda",),
    python=">=3.11",
    platforms=("linux-x86_64",),
    command=("vllm", "--port", "{port}"),
)
CATALOG = ArgumentCatalog(
    engine="vllm",
    version="0.33.0",
    arguments=(
        EngineArgument(flags=("--max-num-seqs",), kind="int"),
        EngineArgument(flags=("--tensor-parallel-size", "-tp"), kind="int"),
        EngineArgument(flags=("--trust-remote-code",), kind="switch", values="0"),
        EngineArgument(flags=("--enable-auto-tool-choice",), kind="switch", values="0"),
        EngineArgument(flags=("--tool-call-parser",), kind="text"),
        EngineArgument(flags=("--port",), kind="int"),
    ),
)


def test_a_recipe_adds_to_the_start_command():
    recipe = parse_recipe(DOCUMENT, "models/Acme/Odd-7B.yaml")
    overlay = overlay_for(recipe, MANIFEST, CATALOG)
    assert overlay.engine_args == (*("--max-num-seqs", "16", "--enable-auto-tool-choice", "--tool-call-parser", "odd"),)
    assert overlay.engine_environment == {"VLLM_USE_ODD": "1"}
    told = "\n".join(overlay.notes)
    assert "recipe models/Acme/Odd-7B.yaml: --max-num-seqs 16" in told
    assert "asks for vLLM 0.34.0 and this is 0.33.0" in told
    assert "the recipe's image is vllm/vllm-openai:odd" in told
    assert "not taken: --trust-remote-code: code of a repository is never run" in told
    assert "not taken: --tensor-parallel-size: how a model is spread" in told
    assert "not taken: vllm 0.33.0 has no argument --made-up" in told
    assert "not taken: LD_PRELOAD" in told
    assert "speculative" not in told


def test_what_the_endpoint_sets_is_not_taken_from_a_recipe():
    overlay = overlay_for(parse_recipe({"base_args": "--port 9 --max-num-seqs 2"}, "x"), MANIFEST, CATALOG)
    assert overlay.engine_args == ("--max-num-seqs", "2")
    assert "--port is set from the endpoint's port" in "\n".join(overlay.notes)
    assert "asks for" not in "\n".join(overlay.notes)


@pytest.mark.parametrize("document", [[], "text", {"base_args": {"--x": 1}}])
def test_a_recipe_of_another_shape(document: object):
    with pytest.raises(InvalidSpec, match="see whether its layout changed"):
        parse_recipe(document, "x")


def test_the_last_word_on_a_variable_counts():
    one = StartOverlay(engine_args=("--a",), engine_environment={"VLLM_A": "1", "VLLM_B": "1"}, notes=("one",))
    two = StartOverlay(engine_args=("--b",), engine_environment={"VLLM_B": "2"}, notes=("two",))
    assert merge_overlays([one, two]) == StartOverlay(
        engine_args=("--a", "--b"), engine_environment={"VLLM_A": "1", "VLLM_B": "2"}, notes=("one", "two")
    )
    assert merge_overlays([]) == StartOverlay()
