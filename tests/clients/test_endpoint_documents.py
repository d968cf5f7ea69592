"""Spec files become specs with what the checkpoint store and the installed engines know."""

import sys
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.clients.endpoint_documents import SpecResolver, parse_document, read_documents, resolved
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.domain.endpoint_spec import EndpointSpec
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.settings import data_folder
from tests.fakes.checkpoints import stored

FIRST, SECOND = "a" * 40, "ab" + "b" * 38


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def resolver(root: Path, tmp_path: Path) -> SpecResolver:
    """The platform's own engines, of which `transformers` is installed."""
    engines = EngineRegistry(data_folder("engines"), tmp_path / "cache", tmp_path / "own")
    python = engines.target("transformers") / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (engines.target("transformers") / ".complete").write_text("{}")
    return SpecResolver(root, engines, "cpu")


def resolve(resolver: SpecResolver, **fields: Any) -> EndpointSpec:
    return resolver.resolve(parse_document({"name": "small", **fields}, "small.yaml"), "small.yaml")


def test_a_model_is_found_in_the_store(resolver: SpecResolver, root: Path):
    checkpoint = stored(root, FIRST)
    spec = resolve(resolver, model="acme/small")
    assert (spec.checkpoint, spec.checkpoint_digest) == (checkpoint.directory, checkpoint.digest)
    assert (spec.model, spec.quantization) == (f"acme/small@{FIRST}", "raw")
    assert (spec.engine, spec.served_model_name) == ("transformers", f"acme/small@{FIRST[:12]}")
    assert resolve(resolver, model=f"acme/small@{FIRST[:7]}") == spec
    assert resolve(resolver, checkpoint=checkpoint.directory) == spec
    # what was found can be written down and read again
    assert resolve(resolver, **spec.model_dump(mode="json", exclude_defaults=True)) == spec


def test_the_quantized_copy_is_another_checkpoint(resolver: SpecResolver, root: Path):
    stored(root, FIRST)
    quantized = stored(root, FIRST, "W8A8")
    spec = resolve(resolver, model="acme/small", quantization="W8A8", engine="vllm", served_model_name="small")
    assert (spec.checkpoint, spec.quantization) == (quantized.directory, "W8A8")
    assert (spec.engine, spec.served_model_name) == ("vllm", "small")


def test_code_that_was_allowed_is_run(resolver: SpecResolver, root: Path):
    stored(root, FIRST, remote_code=True)
    spec = resolve(resolver, model="acme/small", engine="transformers")
    assert "--trust-remote-code" in spec.engine_args
    assert resolve(resolver, **spec.model_dump(mode="json", exclude_defaults=True)) == spec


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"model": "acme/small"}, "model", "is more than one checkpoint (acme/small@aaaaaaaaaaaa, acme/small@abbb"),
        ({"model": "acme/other"}, "model", "no raw checkpoint of acme/other (there is: none of this model)"),
        ({"model": "acme/small@ccccccc"}, "model", "`modelops onboard acme/small`"),
        ({"model": f"acme/small@{FIRST}", "quantization": "W4A16"}, "model", "no W4A16 checkpoint"),
        ({"model": f"acme/small@{FIRST}", "checkpoint_digest": "sha256:1"}, "checkpoint_digest", "the store has sha"),
        ({"checkpoint": "/no/such/folder"}, "checkpoint", "is not a whole checkpoint of the store"),
    ],
)
def test_what_is_not_there_is_said(resolver: SpecResolver, root: Path, fields: dict[str, Any], field: str, said: str):
    stored(root, FIRST)
    stored(root, SECOND)
    with pytest.raises(InvalidSpec) as caught:
        resolve(resolver, **fields)
    assert caught.value.field == field
    assert said in caught.value.sentence


def test_a_path_of_another_model_is_refused(resolver: SpecResolver, root: Path):
    checkpoint = stored(root, FIRST)
    with pytest.raises(InvalidSpec, match="is acme/small@aaaaaaaaaaaa and not acme/other"):
        resolve(resolver, checkpoint=checkpoint.directory, model="acme/other")


def test_no_installed_engine_is_said(root: Path, tmp_path: Path):
    stored(root, FIRST)
    bare = SpecResolver(root, EngineRegistry(data_folder("engines"), tmp_path / "empty", tmp_path / "own"), "cpu")
    with pytest.raises(InvalidSpec, match=r"No installed engine serves acme/small@aaaaaaaaaaaa .*modelops engines"):
        resolve(bare, model="acme/small")


def test_files_hold_one_spec_or_several(resolver: SpecResolver, root: Path, tmp_path: Path):
    stored(root, FIRST)
    path = tmp_path / "specs.yaml"
    path.write_text('name: one\nmodel: acme/small\n---\n---\n{"name": "two", "model": "acme/small"}\n')
    assert [spec.name for spec in resolved(resolver, [path])] == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "cannot be read as YAML or JSON"),
        ("- a\n", "is not a mapping of fields"),
        ("name: small\nmodel: acme/small\ngpus: -1\n", "gpus: Input should be greater than or equal to 0"),
        ("name: !!python/object/apply:os.system [ls]\n", "cannot be read as YAML or JSON"),
    ],
)
def test_files_that_do_not_hold(tmp_path: Path, text: str, said: str):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(InvalidSpec) as caught:
        [parse_document(document, str(path)) for document in read_documents(path)]
    assert said in caught.value.sentence
    assert str(path) in caught.value.sentence


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(InvalidSpec, match="does not exist"):
        read_documents(tmp_path / "none.yaml")
