"""What a request is refused with: OpenAI's form of an error, one line that says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pocketvlm.errors import PocketVlmError, one_line
from pocketvlm.serve.forms import ErrorReply

#: OpenAI's ``type`` by HTTP status; others are the server's.
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
}


@dataclass(eq=False)  # an exception is itself alone
class RequestError(PocketVlmError):
    """A request that gets no answer, with the HTTP status that says so.

    ``param``: the parameter that is wrong; ``code``: a word for programs; ``headers``: those of the reply.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def as_dict(self) -> ErrorReply:
        """The body of the reply."""
        kind = TYPES.get(self.status, "server_error")
        message = one_line(self.message, 500)
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}
