"""Who is meant by the name of an endpoint or of an alias: where to ask, under which model name, and with which key."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from modelops_dagster.domain.endpoints import EndpointStatus
    from modelops_dagster.settings import Settings


class Named(NamedTuple):
    """Whom to ask. The key is never shown."""

    url: str
    model_id: str
    key: str | None


def find_named(name: str) -> Named:
    """An endpoint of the controller, ours or somebody else's, else what the gateway serves under the alias.

    Raises:
        UserError: there is neither, or the endpoint does not run.
    """
    from modelops_dagster.clients.platform_keys import platform_key
    from modelops_dagster.clients.routes import RouteStore
    from modelops_dagster.domain.errors import NotRunning, UserError
    from modelops_dagster.domain.gateway import is_alias
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    try:
        status = _status(settings, name)
    except NotRunning:
        status = None  # an alias can be asked without the controller
    if status is not None:
        return _of_endpoint(settings, status)
    routes = RouteStore(settings.home / "gateway")
    route = routes.get(name) if is_alias(name) else None
    if route is not None:
        return Named(f"{settings.gateway_url}/v1", name, platform_key(settings.home, route, "evaluation"))
    known = ", ".join(routes.aliases()) or "none"
    raise UserError(
        f"There is no endpoint and no alias {name!r} (aliases: {known}); `modelops endpoints list` shows the "
        "endpoints, and --url asks any other one."
    )


def _status(settings: "Settings", name: str) -> "EndpointStatus | None":
    from modelops_dagster.client import ModelOpsClient
    from modelops_dagster.domain.endpoints import ENDPOINT_NAME

    return ModelOpsClient.from_settings(settings).get(name) if ENDPOINT_NAME.fullmatch(name) else None


def _of_endpoint(settings: "Settings", status: "EndpointStatus") -> Named:
    from modelops_dagster.clients.credentials import CredentialStore, credentials_folder
    from modelops_dagster.domain.errors import UserError
    from modelops_dagster.settings import secret

    spec = status.spec
    if status.url is None:
        raise UserError(
            f"Endpoint {spec.name} is {status.state} and answers nothing; start it with "
            f"`modelops endpoints start {spec.name}`."
        )
    name = spec.target.api_endpoint.api_key_name if spec.target else None
    key = CredentialStore(credentials_folder(settings.home), secret).get(name) if name else None
    if name and key is None:
        raise UserError(f"The key {name} is not here: keep it with `modelops routes credential {name}`.")
    url = spec.target.api_endpoint.url if spec.target else status.url
    return Named(url, spec.served_model_name, key)
