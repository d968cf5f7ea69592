"""The house rules that a program can read."""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def _tracked(pattern: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", pattern], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    return [ROOT / line for line in listed if (ROOT / line).is_file()]


def test_no_file_is_too_long():
    long = {
        str(p.relative_to(ROOT)): n for p in _tracked("*.py") if (n := len(p.read_text().splitlines())) > MAX_FILE_LINES
    }
    assert not long, f"split these files: {long}"


def test_no_function_is_too_long():
    long = []
    for path in _tracked("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if (n := node.end_lineno - node.lineno) > MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} ({n} lines)")
    assert not long, f"split these functions: {long}"


def test_no_mocks_and_nothing_swallowed():
    found = []
    for path in _tracked("*.py"):
        if path == Path(__file__):
            continue
        text = path.read_text()
        if re.search(r"\b(MagicMock|AsyncMock)\b|mock\.patch", text):
            found.append(f"{path.relative_to(ROOT)}: mock")
        if re.search(r"except( Exception| BaseException)?:\s*\n\s*pass\b", text):
            found.append(f"{path.relative_to(ROOT)}: swallowed exception")
    assert not found, found


def test_names_say_something():
    bad = [
        p for p in _tracked("*") if re.search(r"(^|/)(utils?|helpers?|common|misc)(\.py|/)", str(p.relative_to(ROOT)))
    ]
    assert not bad, bad


def test_locks_carry_no_address():
    for path in [*_tracked("*.lock"), *_tracked("*.toml"), *_tracked("*.txt")]:
        text = path.read_text()
        assert not re.search(r"--(extra-)?index-url|--find-links|https?://\S+/simple", text), path


def test_templates_of_models_are_rendered_in_a_sandbox_only():
    for path in _tracked("modelops_dagster/*.py"):
        text = path.read_text()
        bare = re.findall(r"\bTemplate\(|(?<!Sandboxed)(?<!ImmutableSandboxed)\bEnvironment\(|NativeEnvironment", text)
        assert not (bare and "jinja2" in text), f"{path}: a template that came with a model could run anything here"
