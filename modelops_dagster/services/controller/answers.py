"""One shape for every answer that is not a success."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from modelops_dagster.domain.endpoint_spec.complaints import first_complaint
from modelops_dagster.domain.errors import (
    Conflict,
    DiskFull,
    EndpointFailed,
    Forbidden,
    InvalidSpec,
    ModelOpsError,
    NoSuchEndpoint,
    NotFound,
    UserError,
)
from modelops_dagster.domain.values import Value


class ErrorDetail(Value):
    code: str
    message: str
    field: str | None = None


class ErrorBody(Value):
    """Every answer that is not a success."""

    error: ErrorDetail


_STATUS_OF: tuple[tuple[type[ModelOpsError], int], ...] = (
    (InvalidSpec, 422),
    (NoSuchEndpoint, 404),
    (NotFound, 404),
    (Forbidden, 403),
    (Conflict, 409),
    (DiskFull, 507),
    (UserError, 400),
    (EndpointFailed, 409),
    (ModelOpsError, 503),
)


def error_answer(
    status: int, code: str, message: str, field: str | None = None, *, retry_after_s: int | None = None
) -> JSONResponse:
    """An error as every route answers it."""
    body = ErrorBody(error=ErrorDetail(code=code, message=message, field=field))
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    headers |= {"Retry-After": str(retry_after_s)} if retry_after_s is not None else {}
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)


def add_error_handlers(app: FastAPI) -> None:
    """Every failure in one shape; a traceback goes to the log and never to the caller."""

    @app.exception_handler(ModelOpsError)
    async def on_domain_error(_: Request, error: ModelOpsError) -> JSONResponse:
        status = next(status for kind, status in _STATUS_OF if isinstance(error, kind))
        return error_answer(status, error.code, error.sentence, getattr(error, "field", None))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        if error.errors()[0]["type"] == "json_invalid":
            return error_answer(422, InvalidSpec.code, "The body is not valid JSON.")
        field, message = first_complaint(error.errors(), skip=1)
        return error_answer(422, InvalidSpec.code, message, field)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return error_answer(404, "no_such_route", "There is no such route; /docs lists those there are.")
        if error.status_code == 401:
            return error_answer(401, "unauthorized", str(error.detail))
        if error.status_code == 405:
            return error_answer(
                405, "method_not_allowed", f"{request.method} is not offered here; /docs lists what is."
            )
        return error_answer(error.status_code, "bad_request", str(error.detail))

    @app.exception_handler(Exception)
    async def on_bug(_: Request, error: Exception) -> JSONResponse:
        return error_answer(
            500, "internal", f"The controller met an unexpected {type(error).__name__}; its log says more."
        )
