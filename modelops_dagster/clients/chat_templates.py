"""Rendering a repository's chat template, which nobody here has read: in a process that cannot stay."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from modelops_dagster.domain.chat_templates import CONVERSATIONS, TemplateReport

WORKER = Path(__file__).resolve().parent.parent / "workers" / "render_chat_template.py"
CPU_LIMIT_S = 10  # of the processor, so that a busy machine does not make a good template a bad one
WALL_LIMIT_S = 120.0
MEMORY_LIMIT_BYTES = 1 << 30


def render_conversations(
    template: str, variables: Mapping[str, str], *, cpu_limit_s: int = CPU_LIMIT_S
) -> TemplateReport:
    """What the template makes of the conversations in `domain.chat_templates`.

    Args:
        template: Jinja source.
        variables: the special tokens by name.
        cpu_limit_s: seconds of processor time that all renderings may take together.
    """
    question = {
        "template": template,
        "variables": dict(variables),
        "conversations": CONVERSATIONS,
        "cpu_limit_s": cpu_limit_s,
        "memory_limit_bytes": MEMORY_LIMIT_BYTES,
    }
    too_long = f"it did not end within {cpu_limit_s} s of processor time"
    try:
        done = subprocess.run(
            # isolated: neither this process's environment nor its folder has a say
            (sys.executable, "-I", str(WORKER)),
            input=json.dumps(question).encode(),
            capture_output=True,
            env={},
            timeout=WALL_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return TemplateReport(broken=too_long)
    if done.returncode < 0:
        return TemplateReport(broken=too_long)
    try:
        answer = json.loads(done.stdout)
        return TemplateReport(broken=answer.get("error"), renderings=answer.get("renderings", {}))
    except (ValueError, ValidationError, AttributeError):
        last = done.stderr.decode(errors="replace").strip().splitlines()
        return TemplateReport(broken=f"rendering it failed: {last[-1][:200]}" if last else "rendering it failed")
