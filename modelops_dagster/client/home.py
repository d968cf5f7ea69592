"""Where a home keeps what the controller and its clients agree on."""

import json
import os
import secrets
from pathlib import Path

from modelops_dagster.settings import Settings


def controller_folder(home: Path) -> Path:
    """Where a home's controller keeps records, logs and its address."""
    return home / "controller"


def token_path(home: Path) -> Path:
    return home / "secrets" / "controller.token"


def create_token(home: Path) -> str:
    """The controller's key, made at the first start; only the owner of the home can read it."""
    return create_secret(token_path(home))


def create_secret(path: Path) -> str:
    """What the file holds; made of random letters, for its owner only, when there is none."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_file() and path.read_text().strip():
        path.chmod(0o600)
        return path.read_text().strip()
    draft = path.with_suffix(".tmp")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as out:
        out.write(secrets.token_urlsafe(32))
    draft.replace(path)
    return path.read_text().strip()


def controller_address(settings: Settings) -> str:
    """Base URL of the home's controller, without a path; on port 0, the one it got when it started last."""
    address = controller_folder(settings.home) / "address.json"
    if settings.controller_port == 0 and address.is_file():
        return str(json.loads(address.read_text())["url"])
    return settings.controller_url
