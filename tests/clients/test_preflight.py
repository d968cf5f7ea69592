"""Releases on a real Hub server, looked at before any weight is fetched: every finding, and what blocks."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.checkpoints.allowances import AllowList
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.hub import HubClient
from modelops_dagster.clients.preflight import Surroundings, preflight, require_passed
from modelops_dagster.domain.allowances import Allowance
from modelops_dagster.domain.capacity import Hardware, parse_hardware
from modelops_dagster.domain.errors import PreflightBlocked, RepoGated
from modelops_dagster.domain.preflight import Finding, Preflight
from modelops_dagster.services.hub_server import HubServer, RepoSettings, publish
from tests.clients.test_chat_templates import CHATML
from tests.fakes.hub import TOKEN, client, downloads, running_hub, write_repo
from tests.fakes.packages import write_environment

SMOL = {
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 30,
    "intermediate_size": 1536,
}
TOKENS = {"0": {"content": "<|endoftext|>", "special": True}, "2": {"content": "<|im_end|>", "special": True}}
TOKENIZER = {"chat_template": CHATML, "eos_token": "<|im_end|>", "added_tokens_decoder": TOKENS}
HOST = Hardware(kind="cpu", name="CPU", memory_bytes=16 * 10**9, available_bytes=16 * 10**9)


class Scene:
    """A Hub, engines, a store; `look` publishes a repository and looks at it."""

    def __init__(self, server: HubServer, root: Path) -> None:
        self.server, self.root, self.looks = server, root, 0
        self.registry = EngineRegistry(root / "engines", root / "cache")
        for name, vllm in (("vllm-cpu", True), ("transformers", False)):
            folder = root / "engines" / name
            folder.mkdir(parents=True)
            manifest = {
                "name": name,
                "summary": "of the tests",
                "version": "9.1.0" if vllm else "7.2.0",
                "accelerators": ["cpu"],
                "python": ">=3.11",
                "platforms": ["linux-x86_64"],
                "command": ["x"],
                "variants": {"transformers-backend": ["--model-impl", "transformers"]} if vllm else {},
            }
            (folder / "engine.yaml").write_text(yaml.safe_dump(manifest))
            (folder / "requirements.lock").write_text(f"# {name}\n")
            write_environment(self.registry, name, vllm=vllm)

    def here(self, free: int = 10**12, **more: Any) -> Surroundings:
        known = {"inventory": (HOST,), "max_context": 2048, "sequences": 16} | more
        store = CheckpointStore(self.root / "store", free_bytes=lambda path: free)
        return Surroundings(registry=self.registry, accelerator="cpu", store=store, **known)

    def look(
        self,
        *,
        config: dict[str, Any] | None = None,
        tokenizer: dict[str, Any] | None = None,
        generation: dict[str, Any] | None = None,
        accept: tuple[str, ...] = (),
        settings: RepoSettings | None = None,
        token: str | None = None,
        without: tuple[str, ...] = (),
        files: dict[str, str | bytes] | None = None,
        **here: Any,
    ) -> Preflight:
        self.looks += 1
        source = write_repo(self.root / f"source-{self.looks}", config=SMOL | (config or {}))
        (source / "tokenizer_config.json").write_text(json.dumps(TOKENIZER | (tokenizer or {})))
        (source / "generation_config.json").write_text(json.dumps(generation or {"eos_token_id": 2}))
        for path, content in (files or {}).items():
            (source / path).write_bytes(content.encode() if isinstance(content, str) else content)
        for path in without:
            (source / path).unlink()
        publish(self.server.root, "acme/one", source, settings=settings or RepoSettings())
        hub = HubClient(self.server.url, token, timeout_s=5.0, max_tries=2)
        return preflight(hub.release(hub.resolve("acme/one", "main")), hub, self.here(**here), accept)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("scene")
    with running_hub(root / "hub") as server:
        yield Scene(server, root)


def codes(found: Preflight, severity: str) -> list[str]:
    return [f.code for f in found.findings if f.severity == severity]


def sentence(found: Preflight, code: str) -> str:
    (only,) = [f.sentence for f in found.findings if f.code == code]
    return only


def test_a_good_release_passes_and_costs_no_weights(scene: Scene):
    found = scene.look()
    assert codes(found, "blocks") == codes(found, "warns") == []
    assert codes(found, "informs") == ["chat_template_tools"]
    assert [s.kind for s in found.supports] == ["native", "transformers_backend", "native"]
    assert found.first_rung == "vllm-cpu"
    assert found.summary == "begins at vllm-cpu; fits on CPU, 16 GB of memory, 16 x 2,048 tokens"
    assert not any(r.endswith(".safetensors") for r in downloads(scene.server))
    revision = client(scene.server).resolve("acme/one", "main")
    require_passed(revision, found)
    assert Preflight.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("scenery", "severity", "code", "words"),
    [
        ({"config": {"architectures": ["NovelForCausalLM"], "model_type": "novel"}}, "blocks", "no_engine", "novel"),
        (
            {
                "config": {
                    "architectures": ["NovelForCausalLM"],
                    "model_type": "novel",
                    "auto_map": {"AutoModel": "m.X"},
                }
            },
            "blocks",
            "unsafe_checkpoint",
            "auto_map",
        ),
        ({"config": {"auto_map": {"AutoModel": "m.X"}}}, "informs", "code_not_needed", "neither fetched nor run"),
        (
            {"config": {"architectures": ["NovelForCausalLM"], "auto_map": {"AutoModel": "m.X"}}},
            "blocks",
            "unsafe_checkpoint",
            "modelops models allow",
        ),
        (
            {"tokenizer": {"auto_map": {"AutoTokenizer": "t.X"}, "tokenizer_class": "LlamaTokenizer"}},
            "informs",
            "code_not_needed",
            "auto_map",
        ),
        (
            {"tokenizer": {"auto_map": {"AutoTokenizer": "t.X"}}},
            "blocks",
            "unsafe_checkpoint",
            "in its tokenizer_config.json",
        ),
        ({"without": ("model.safetensors",), "files": {"pytorch_model.bin": "x"}}, "blocks", "no_weights", "pickle"),
        ({"without": ("config.json",)}, "blocks", "no_weights", "no config.json"),
        ({"without": ("tokenizer.json",)}, "blocks", "no_tokenizer", "no tokenizer"),
        ({"free": 5}, "blocks", "disk_full", "5 bytes free"),
        ({"inventory": parse_hardware("1xT4-0.0001GB")}, "blocks", "too_large", "does not fit on 1 x T4"),
        ({"inventory": parse_hardware("1xT4-3.5GB"), "sequences": 64}, "warns", "tight_memory", "sequences"),
        ({"allowed_licenses": ("mit",)}, "blocks", "license_not_allowed", "apache-2.0 is not of mit"),
        ({"without": ("README.md",)}, "warns", "license_not_stated", "no licence"),
        ({"files": {"README.md": "---\nlicense: other\n---\n"}}, "warns", "license_of_its_own", "other"),
        ({"config": {"quantization_config": {"quant_method": "exl9"}}}, "warns", "quantization_not_known", "exl9"),
        (
            {
                "config": {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}},
                "inventory": parse_hardware("8xA100-80GB"),
            },
            "informs",
            "weights_unpacked",
            "from compute capability 8.9 on; A100 (8.0) unpacks them first",
        ),
        (
            {"config": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}},
            "blocks",
            "quantization_shape",
            "576",
        ),
        (
            {"config": {"quantization_config": {"quant_method": "awq", "group_size": 128}}},
            "warns",
            "quantization_shape",
            "576",
        ),
        ({"config": {"num_hidden_layers": None}}, "informs", "shape_not_stated", "only the weights"),
        ({"config": {"architectures": ["Grok1ForCausalLM"]}}, "warns", "lower_rung", "until 0.24.0"),
        ({"tokenizer": {"chat_template": None}}, "warns", "chat_template_missing", "base model"),
        ({"tokenizer": {"chat_template": "{% if %}"}}, "blocks", "chat_template_broken", "line 1"),
        ({"files": {"chat_template.jinja": "{{ nothing.at.all }}"}}, "blocks", "chat_template_broken", "undefined"),
        ({"tokenizer": {"chat_template": "hello"}}, "warns", "chat_template_drops_text", "question"),
        (
            {
                "tokenizer": {
                    "chat_template": "{% if messages|length > 1 %}{{ raise_exception('one') }}{% endif %}" + CHATML
                }
            },
            "warns",
            "chat_template_turns",
            "(one)",
        ),
        (
            {"tokenizer": {"chat_template": "{% set messages = messages[-1:] %}" + CHATML}},
            "informs",
            "chat_template_system",
            "drops the system message",
        ),
        (
            {"generation": {"eos_token_id": 0}, "tokenizer": {"eos_token": "<|endoftext|>"}},
            "warns",
            "eos_mismatch",
            "stop",
        ),
        ({"generation": {"eos_token_id": 0}}, "warns", "eos_contradicts", "<|im_end|>"),
        ({"tokenizer": {"eos_token": None}, "generation": {"top_p": 1}}, "warns", "eos_missing", "never stop"),
        ({"without": ("generation_config.json",)}, "informs", "generation_config_missing", "sample"),
        ({"files": {"generation_config.json": "{"}}, "warns", "unreadable_file", "generation_config.json"),
        ({"files": {"config.json": "{"}}, "blocks", "unreadable_file", "config.json"),
    ],
)
def test_findings(scene: Scene, scenery: dict[str, Any], severity: str, code: str, words: str):
    found = scene.look(**scenery)
    assert code in codes(found, severity), found.findings
    assert words in sentence(found, code)
    assert all(f.sentence.endswith(".") and "\n" not in f.sentence for f in found.findings)


def test_a_gated_release_says_so_and_one_that_keeps_us_out_is_an_error(scene: Scene):
    found = scene.look(settings=RepoSettings(gated="auto"), token=TOKEN)
    assert "let in" in sentence(found, "gated")
    with pytest.raises(RepoGated, match="accept the licence"):
        scene.look(settings=RepoSettings(gated="auto"))


def test_special_tokens_are_found_in_either_file(scene: Scene):
    added = [
        {"id": 0, "content": "<|endoftext|>", "special": True},
        {"id": 2, "content": "<|im_end|>", "special": True},
    ]
    found = scene.look(
        tokenizer={"added_tokens_decoder": None, "eos_token": "<|endoftext|>"},
        generation={"eos_token_id": [0]},
        files={"tokenizer.json": json.dumps({"added_tokens": added})},
    )
    assert "ends a turn with <|im_end|>" in sentence(found, "eos_mismatch")


def test_what_blocks_is_one_sentence_and_may_be_accepted(scene: Scene):
    config = {"architectures": ["NovelForCausalLM"], "model_type": "novel"}
    found = scene.look(config=config, free=5)
    assert codes(found, "blocks") == ["disk_full", "no_engine"]
    revision = client(scene.server).resolve("acme/one", "main")
    with pytest.raises(
        PreflightBlocked, match=r"stopped before any weight was fetched: It needs .* No engine"
    ) as raised:
        require_passed(revision, found)
    assert raised.value.code == "preflight_blocked"
    assert raised.value.findings == found.findings
    accepted = scene.look(config=config, free=5, accept=("disk_full", "no_engine"))
    assert codes(accepted, "blocks") == []
    require_passed(revision, accepted)


def test_engines_that_are_not_installed_cannot_hold_anything(tmp_path: Path, scene: Scene):
    lonely = Scene(scene.server, tmp_path)
    for name in ("vllm-cpu", "transformers"):
        (lonely.registry.target(name) / "bin" / "python").unlink()
    found = lonely.look()
    assert (found.first_rung, codes(found, "blocks")) == (None, ["no_engine"])
    assert "Engine vllm-cpu is not installed" in sentence(found, "no_engine")


def test_engines_in_images_are_there_and_only_starting_them_tells(tmp_path: Path, scene: Scene):
    scene.registry = EngineRegistry(scene.root / "engines", tmp_path / "nothing", images_for="cpu")
    found = scene.look()
    assert [s.kind for s in found.supports] == ["not_known"] * 3
    assert found.first_rung == "vllm-cpu"
    assert [f.code for f in found.findings if f.severity == "blocks"] == []
    assert [scene.registry.missing(name) for name in ("vllm-cpu", "transformers")] == [None, None]
    assert set(scene.registry.installed_versions()) == {"vllm-cpu", "transformers"}


def test_code_that_an_operator_allowed_is_no_reason_to_stop(scene: Scene):
    config = {"architectures": ["NovelForCausalLM"], "model_type": "novel", "auto_map": {"AutoModel": "m.X"}}
    assert codes(scene.look(config=config), "blocks") == ["unsafe_checkpoint"]
    hub = client(scene.server)
    release = hub.release(hub.resolve("acme/one", "main"))
    allowed = AllowList(scene.root / "allow.yaml")
    allowed.allow(
        Allowance(revision=release.revision, remote_code=True, reason="read it", by="me", at=datetime.now(UTC))
    )
    here = replace(scene.here(), store=CheckpointStore(scene.root / "store", allowed))
    found = preflight(release, hub, here)
    assert codes(found, "blocks") == []
    assert "remote_code" in codes(found, "informs")
    assert {s.kind for s in found.supports} == {"not_known"}


def test_findings_are_sorted_by_weight(scene: Scene):
    found = scene.look(free=5, without=("README.md",))
    order = [f.severity for f in found.findings]
    assert order == sorted(order, key=("blocks", "warns", "informs").index)
    assert isinstance(found.findings[0], Finding)
