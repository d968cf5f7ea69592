"""Judgements that need no Hub: sizes, end tokens, and what is remembered of a stopped release."""

from typing import Any

import pytest

from modelops_dagster.domain.architectures import Support
from modelops_dagster.domain.capacity import Demand, Placement, make_plan, parse_hardware
from modelops_dagster.domain.chat_templates import Rendering, TemplateReport, chat_template, end_of_turn, stop_tokens
from modelops_dagster.domain.engines import EngineManifest
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.findings import Documents, Space, file_findings, stop_findings
from modelops_dagster.domain.hub import ModelRevision, Release, RepoFile
from modelops_dagster.domain.model_shape import ModelShape
from modelops_dagster.domain.preflight import Finding, Preflight
from modelops_dagster.domain.retries import waiting

REVISION = ModelRevision(repo_id="acme/one", commit_hash="0" * 40)
SPACE = Space(needed_bytes=1, free_bytes=2, root="/store")


def release(**more: Any) -> Release:
    names = {"config.json": 10, "tokenizer.json": 10, "model.safetensors": 270_000_000}
    files = tuple(RepoFile(path=path, size_bytes=size, sha256="0" * 64) for path, size in names.items())
    return Release(revision=REVISION, hub_url="http://hub", files=files, **more)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"BF16": 135_000_000}, False),
        ({"BF16": 130_000_000, "F32": 2_500_000}, False),
        ({"BF16": 67_000_000}, True),  # the same weights twice
        ({"BF16": 300_000_000}, True),  # the upload is not whole
        ({"I4_NEW": 1}, False),  # a type nobody here knows says nothing
        ({}, False),
    ],
)
def test_sizes_against_headers(headers: dict[str, int], said: bool):
    found = list(file_findings(release(parameters_by_dtype=headers), Documents(), SPACE, code_allowed=False))
    assert [f.code for f in found] == (["weights_size"] if said else [])


def test_end_tokens_by_name_wherever_the_names_are():
    decoder = {"added_tokens_decoder": {"7": {"content": "<|eot|>", "special": True}}, "eos_token": {"content": "</s>"}}
    found = stop_tokens({"eos_token_id": [7, 9]}, {"text_config": {"eos_token_id": 7}}, decoder, None)
    assert (found.generation, found.config, found.tokenizer) == (("<|eot|>", "9"), ("<|eot|>",), ("</s>",))
    assert found.specials == ("<|eot|>",)
    assert found.union == {"<|eot|>", "9", "</s>"}
    nothing = stop_tokens(None, [], "text", {"added_tokens": [{"id": "x"}, 3]})
    assert (nothing.union, nothing.specials) == (frozenset(), ())


def test_the_turn_ends_at_the_first_special_token_behind_the_answer():
    text = "<|user|>hi<|end|>The capital of Norway is Oslo.<|end|></s>"
    report = TemplateReport(renderings={"answered": Rendering(text=text)})
    assert end_of_turn(report, ("</s>", "<|end|>", "<|user|>")) == "<|end|>"
    assert end_of_turn(report, ()) == "<|end|>"
    assert end_of_turn(report, ("<|other|>",)) is None
    assert end_of_turn(TemplateReport(), ("</s>",)) is None


def test_llama_3_on_its_first_day():
    """Its configuration stopped at <|end_of_text|> and its template ended turns with <|eot_id|>."""
    tokens = {
        "128001": {"content": "<|end_of_text|>", "special": True},
        "128009": {"content": "<|eot_id|>", "special": True},
    }
    documents = Documents(
        config={"eos_token_id": 128001},
        generation_config={"eos_token_id": 128001},
        tokenizer_config={"eos_token": "<|end_of_text|>", "added_tokens_decoder": tokens},
    )
    text = "<|start_header_id|>assistant<|end_header_id|>\n\nThe capital of Norway is Oslo.<|eot_id|>"
    report = TemplateReport(renderings={"answered": Rendering(text=text)})
    assert [f.code for f in stop_findings(documents, report)] == ["eos_mismatch"]
    mended = documents.model_copy(update={"generation_config": {"eos_token_id": [128001, 128009]}})
    assert list(stop_findings(mended, report)) == []


def test_which_template_counts():
    assert chat_template({"chat_template": "a"}, {"chat_template.jinja": "b"}) == "b"
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    assert chat_template({"chat_template": named}, {}) == "d"
    assert chat_template({"chat_template": named[:1]}, {}) == "t"
    assert chat_template({}, {}) is chat_template(None, {}) is None


def test_a_release_that_no_engine_knows_waits_for_a_newer_one():
    def stopped(*kinds: Any) -> Release:
        supports = [Support(rung=f"e{n}", engine_version="1+x", kind=k, sentence=f"{k}.") for n, k in enumerate(kinds)]
        return release(preflight=Preflight(supports=tuple(supports)))

    found = waiting(stopped("needs_newer_transformers", "unsupported", "native"))
    assert found is not None
    assert (found.repo_id, found.commit_hash, found.standing) == ("acme/one", "0" * 40, None)
    assert [(r.rung, r.reason, r.engine_version) for r in found.rungs] == [
        ("e0", "needs_newer_transformers", "1+x"),
        ("e1", "unsupported_architecture", "1+x"),
    ]
    assert waiting(stopped("native", "transformers_backend")) is None
    assert waiting(release()) is None
    dropped = Support(
        rung="e",
        engine_version="1+x",
        kind="previously_supported",
        sentence="A was supported in vLLM until 0.2; older.",
    )
    assert waiting(release(preflight=Preflight(supports=(dropped,)))) is None


def test_the_plan_becomes_arguments_of_the_engines_on_gpus():
    def manifest(name: str, program: str, accelerator: Any) -> EngineManifest:
        return EngineManifest(
            name=name, summary="", version="1", accelerators=(accelerator,), python=">=3.11", platforms=(),
            command=(program, "serve"),
        )  # fmt: skip

    engines = {
        "vllm": manifest("vllm", "{env}/bin/vllm", "cuda"),
        "vllm-cpu": manifest("vllm-cpu", "{env}/bin/vllm", "cpu"),
        "transformers": manifest("transformers", "{env}/bin/python", "cuda"),
    }

    def placements(gpus: str, gigabytes: int) -> dict[str, Placement]:
        shape = ModelShape(layers=80, heads=64, kv_heads=8, head_dim=128, hidden=8192, groups=())
        demand = Demand(weight_bytes=gigabytes * 10**9, shape=shape, context=2048, sequences=1)
        return Preflight(plan=make_plan(demand, parse_hardware(gpus))).placements(engines, "cuda")

    whole = Placement(gpus=1)
    assert placements("8xH100-80GB", 16) == {"vllm": whole, "transformers": whole}
    cut = ("--tensor-parallel-size", "4")
    assert placements("8xH100-80GB", 141) == {
        "vllm": Placement(gpus=4, arguments=cut),
        "transformers": Placement(gpus=4),
    }
    both = ("--tensor-parallel-size", "8", "--pipeline-parallel-size", "2")
    assert placements("2x8xH100-80GB", 812)["vllm"] == Placement(gpus=16, nodes=2, arguments=both)
    assert Preflight().placements(engines, "cuda") == {}


def test_only_estimates_may_be_accepted():
    findings = [Finding(severity="blocks", code=code, sentence="x.") for code in ("too_large", "unsafe_checkpoint")]
    found = Preflight(findings=tuple(findings)).accepting(["too_large"])
    assert [(f.code, f.severity) for f in found.findings] == [("too_large", "warns"), ("unsafe_checkpoint", "blocks")]
    with pytest.raises(InvalidSpec, match="'unsafe_checkpoint' is no finding that can be accepted"):
        Preflight(findings=tuple(findings)).accepting(["unsafe_checkpoint"])
