"""The command of an engine: placeholders of its manifest, filled in for one endpoint."""

import re
from collections.abc import Mapping

_PLACEHOLDER = re.compile(
    r"\{(env|engine_dir|workers|cpus|checkpoint|host|port|served_model_name|max_context|drain_s)\}", re.ASCII
)


def fill(text: str, values: Mapping[str, str | None]) -> str:
    """`text` with every placeholder replaced; one without a value becomes empty."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1]) or "", text)


def fill_command(command: tuple[str, ...], values: Mapping[str, str | None]) -> list[str]:
    """Fill the placeholders in; an item whose placeholder has no value goes, and the flag before it goes with it."""
    argv: list[str] = []
    for item in command:
        if any(values[name] is None for name in _PLACEHOLDER.findall(item)):
            if argv and argv[-1].startswith("-") and "=" not in item:
                argv.pop()
            continue
        argv.append(fill(item, values))
    return argv
