"""What a checkpoint can make an engine do: its template nothing, its code only what an operator allowed."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from modelops_dagster.clients import processes
from modelops_dagster.clients.architectures import engine_facts
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.domain.architectures import support
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.engines import Rung
from modelops_dagster.domain.model_config import ModelConfig
from tests.fakes.real_engine import CAPITAL, MAX_CONTEXT, NAME, Running, wait_ready

pytestmark = pytest.mark.engine
ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
OWN_MODEL = """\
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def copy_of(model: Path, folder: Path) -> Path:
    """The same checkpoint without a second copy of its weights."""
    folder.mkdir()
    for path in model.iterdir():
        link = path.suffix == ".safetensors"
        (folder / path.name).symlink_to(path) if link else shutil.copyfile(path, folder / path.name)
    return folder


@contextmanager
def serving(
    registry: EngineRegistry, checkpoint: Path, folder: Path, *engine_args: str, engine: str = "transformers"
) -> Iterator[Running]:
    registry.install(engine, print)
    port = processes.free_port("127.0.0.1", set())
    spec = EndpointSpec(
        name="test",
        checkpoint=str(checkpoint),
        checkpoint_digest="sha256:test",
        engine=engine,
        engine_args=engine_args,
        served_model_name=NAME,
        max_context=MAX_CONTEXT,
    )
    launch = registry.launch(spec, "127.0.0.1", port)
    log = folder / "log"
    environ = {**launch.environ, "HF_MODULES_CACHE": str(folder / "modules")}
    with log.open("wb") as out:
        process = subprocess.Popen(launch.argv, env=environ, cwd=folder, stdout=out, stderr=out, start_new_session=True)
    running = Running(engine, process, port, log)
    try:
        yield running
    finally:
        running.stop()


def test_a_template_cannot_leave_its_sandbox(registry: EngineRegistry, model: Path, tmp_path: Path):
    checkpoint = copy_of(model, tmp_path / "checkpoint")
    (checkpoint / "chat_template.jinja").write_text(ESCAPE)
    with serving(registry, checkpoint, tmp_path) as running:
        wait_ready(running)
        body = {"model": NAME, "messages": CAPITAL, "max_tokens": 2}
        answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 400
    assert "unsafe" in answer.json()["error"]["message"], answer.text


def test_code_runs_where_it_was_allowed_and_nowhere_else(registry: EngineRegistry, model: Path, tmp_path: Path):
    checkpoint = copy_of(model, tmp_path / "checkpoint")
    stated = json.loads((checkpoint / "config.json").read_text())
    own = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    stated |= {"model_type": "own", "architectures": ["OwnModel"], "auto_map": own}
    (checkpoint / "config.json").write_text(json.dumps(stated))
    (checkpoint / "modeling_own.py").write_text(OWN_MODEL)
    with serving(registry, checkpoint, tmp_path) as refused:
        assert refused.process.wait(120) != 0
        assert "trust_remote_code" in refused.log.read_text()
    arguments = registry.manifest("transformers").remote_code_args
    with serving(registry, checkpoint, tmp_path, *arguments) as running:
        wait_ready(running)
        said = running.client.chat.completions.create(model=NAME, messages=CAPITAL, max_tokens=8, temperature=0)
    assert said.choices[0].message.content
    assert list((tmp_path / "modules").rglob("modeling_own.py"))  # Transformers keeps what it runs there


@pytest.mark.parametrize("engine", ["transformers", "vllm-cpu"])
def test_what_an_engine_knows_by_itself_is_served_without_the_code_its_repository_names(
    registry: EngineRegistry, model: Path, tmp_path: Path, engine: str
):
    checkpoint = copy_of(model, tmp_path / "checkpoint")
    own = {
        "config.json": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
        "tokenizer_config.json": {"AutoTokenizer": ["own.OwnTokenizer", None]},
    }
    for name, auto_map in own.items():
        stated = json.loads((checkpoint / name).read_text()) | {"auto_map": auto_map}
        if name == "tokenizer_config.json":
            stated["tokenizer_class"] = "GPT2TokenizerFast"
        (checkpoint / name).write_text(json.dumps(stated))
    with serving(registry, checkpoint, tmp_path, engine=engine) as running:
        wait_ready(running)
        said = running.client.chat.completions.create(model=NAME, messages=CAPITAL, max_tokens=8, temperature=0)
    assert said.choices[0].message.content
    assert not list(tmp_path.rglob("*.py"))


def test_a_famous_release_that_brings_code_needs_none_of_it(registry: EngineRegistry):
    config = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    }
    model = ModelConfig.from_json(config, {"tokenizer_class": "LlamaTokenizerFast"})
    for name in ("transformers", "vllm-cpu"):
        facts = engine_facts(registry.install(name, print), "1+a")
        found = support(Rung(engine=name), registry.manifest(name), facts, model)
        assert found.is_native, found
        tokenizer = {"tokenizer_class": "TikTokenTokenizer", "auto_map": {"AutoTokenizer": ["tok.TikTokenTokenizer"]}}
        assert (
            support(Rung(engine=name), registry.manifest(name), facts, ModelConfig.from_json(config, tokenizer)).kind
            == "remote_code"
        )
