"""Answers that are refusals, in the headers by which the official client tells them apart."""

from aiohttp import web


class Refusal(Exception):
    """An answer that the official client turns into one of its own exceptions."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}

    def response(self) -> web.Response:
        told = {"X-Error-Code": self.code, "X-Error-Message": str(self).replace("\n", " ")}
        return web.json_response({"error": str(self)}, status=self.status, headers=told | self.headers)
