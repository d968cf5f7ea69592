"""What a user gets: the wheel loads without the checkout, `dg` accepts the project, the command starts light."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*argv: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MODELOPS_", "DAGSTER_"))}
    return subprocess.run(argv, cwd=cwd, env={**plain, **environ}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, unpacked where nothing of the checkout is in reach."""
    dist, site = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist), ".", cwd=ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    wheel = next(dist.glob("*.whl"))
    placed = run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel), cwd=dist)
    assert placed.returncode == 0, placed.stderr
    return site


LOAD = """
import dagster as dg, modelops_dagster, sys
from modelops_dagster.definitions import defs
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.settings import Settings
settings = Settings.load()
dg.Definitions.validate_loadable(defs())
print(modelops_dagster.__file__)
print(sorted(EngineRegistry.from_settings(settings).manifests()))
"""


def test_the_wheel_loads_with_its_suites_and_engines(site: Path, tmp_path: Path):
    # -P keeps the current folder off the path; PYTHONPATH comes before the editable install
    loaded = run(
        sys.executable, "-P", "-c", LOAD, cwd=tmp_path, PYTHONPATH=str(site), MODELOPS_HOME=str(tmp_path / "h")
    )
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    where, engines = loaded.stdout.strip().splitlines()[-2:]
    assert where.startswith(str(site))
    assert "vllm-cpu" in engines


def test_dg_accepts_the_project(tmp_path: Path):
    checked = run(str(Path(sys.executable).parent / "dg"), "check", "defs", cwd=ROOT, MODELOPS_HOME=str(tmp_path))
    assert checked.returncode == 0, checked.stdout[-2000:] + checked.stderr[-2000:]
    assert "All definitions loaded successfully" in checked.stdout + checked.stderr


def make(folder: Path, python: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """`make demo` in a folder that holds what the set-up reads, and nothing to run."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copyfile(ROOT / name, folder / name)
    return run("make", "demo", f"PYTHON={python}", cwd=folder, **environ)


def test_a_python_that_is_too_old_is_told_before_anything_is_made(tmp_path: Path):
    old = tmp_path / "python3.10"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.13 || exit 1\n')
    old.chmod(0o755)
    made = make(tmp_path, old)
    assert made.returncode == 2
    assert f"setup: needs Python 3.11 or newer on Linux, and {old} is not (Python 3.10.13);" in made.stderr
    assert "make demo PYTHON=" in made.stderr
    assert not (tmp_path / ".venv").exists()


def test_without_a_package_index_the_set_up_says_what_to_do(tmp_path: Path):
    closed = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    made = make(tmp_path, Path(sys.executable), PIP_FIND_LINKS="", PIP_EXTRA_INDEX_URL="", **closed)
    assert made.returncode == 2
    assert "check the network, or name a package index with PIP_INDEX_URL" in made.stderr
    assert not (tmp_path / ".venv" / ".runtime").exists()


def test_the_command_imports_neither_dagster_nor_torch():
    code = "import importlib, sys, modelops_dagster.cli.main as m\n"
    code += "for module, _ in m.COMMANDS.values(): importlib.import_module(f'modelops_dagster.cli.{module}')\n"
    code += (
        "print(sorted({n.split('.')[0] for n in sys.modules} & {'dagster', 'torch', 'litellm', 'pandas', 'duckdb'}))"
    )
    done = run(sys.executable, "-c", code, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_wheel_carries_the_endpoint_pages(site: Path):
    pages = site / "modelops_dagster" / "services" / "controller" / "pages"
    assert {path.name for path in pages.iterdir()} >= {
        "frame.html",
        "list.html",
        "endpoint.html",
        "style.css",
        "endpoint.js",
    }
