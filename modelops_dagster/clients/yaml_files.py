"""YAML that people write: what is wrong is one sentence, without the content, which may hold a secret."""

from pathlib import Path
from typing import Any

import yaml

from modelops_dagster.domain.errors import InvalidSpec


def read_yaml(path: Path, *, loader: type[yaml.SafeLoader] = yaml.SafeLoader, field: str | None = None) -> Any:
    """The one document of the file; None when it is empty.

    Args:
        loader: a safe one that may refuse more.
        field: what an error is told of, where the file is somebody's option.

    Raises:
        FileNotFoundError: there is no such file.
        InvalidSpec: it cannot be read, or is not YAML; names the line.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidSpec(f"{path} cannot be read ({error.strerror}): correct that.", field=field) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        said = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InvalidSpec(f"{where} is not YAML ({said}): correct it.", field=field) from error
