"""What a user may be told: one small family, each with an HTTP status.

Everything else that is raised is a bug and keeps its traceback. Messages say what happened and what
to do next; the page shows them as they are and the API puts them into the OpenAI error shape.
"""


class UserError(Exception):
    """A refusal in words a user can act on. `code` names the kind for programs."""

    status = 400
    code = "bad_request"
    retry_after_s: int | None = None


class BadRequest(UserError):
    """The request is malformed: a missing field, a value out of range, a picture that is broken."""


class Unauthorised(UserError):
    """The API key is missing or wrong."""

    status = 401
    code = "invalid_api_key"


class Forbidden(UserError):
    """This server does not offer that, at least not here."""

    status = 403
    code = "forbidden"


class NotFound(UserError):
    """The thing asked for does not exist here."""

    status = 404
    code = "not_found"


class WrongMethod(UserError):
    """The path exists, but not for this HTTP method."""

    status = 405
    code = "method_not_allowed"


class TooSlow(UserError):
    """The request took too long to arrive."""

    status = 408
    code = "request_timeout"


class Conflict(UserError):
    """This would disturb something that is under way."""

    status = 409
    code = "conflict"


class TooLarge(UserError):
    """Over a limit on bytes, pixels, frames, characters or messages."""

    status = 413
    code = "too_large"


class ContextExceeded(BadRequest):
    """The conversation has more tokens than the model may be given; frameworks shorten it then."""

    code = "context_length_exceeded"


class PreviousResponseNotFound(BadRequest):
    """The response to go on from is not stored here; clients send the whole conversation then."""

    code = "previous_response_not_found"


class UnsupportedMedia(UserError):
    """Not a picture or clip in one of the formats that are read here."""

    status = 415
    code = "unsupported_media"


class WrongHost(UserError):
    """The request is for a name that is not this server's."""

    status = 421
    code = "wrong_host"


class Unsupported(UserError):
    """Well formed, but this model or server cannot do it (a picture for a text-only model)."""

    status = 422
    code = "unsupported"


class Busy(UserError):
    """The queue is full."""

    status = 429
    code = "busy"
    retry_after_s = 5


class TooOften(Busy):
    """More requests from one address than it may send."""

    code = "rate_limit"


class OutOfTime(UserError):
    """The time limit ended the answer before its first word."""

    status = 504
    code = "timeout"


class Abandoned(UserError):
    """Nobody waits for this any more, so it was ended."""

    status = 499
    code = "abandoned"


class EngineFailed(UserError):
    """This one request broke inside the engine; the others go on."""

    status = 500
    code = "engine_failed"


class Bug(UserError):
    """What users read about a bug. The log has the traceback."""

    status = 500
    code = "internal_error"

    def __init__(
        self, message: str = "Something broke inside the server; its log has the details."
    ) -> None:
        super().__init__(message)


class ModelUnavailable(UserError):
    """No model can answer now: it could not be loaded, or its thread has died."""

    status = 503
    code = "model_unavailable"


class StillLoading(ModelUnavailable):
    """The model is being loaded; asking again a little later will work."""

    code = "loading"
    retry_after_s = 5


class ShuttingDown(ModelUnavailable):
    """The server is shutting down: it finishes what it has begun and takes nothing new."""

    code = "shutting_down"

    def __init__(self, message: str = "The server is shutting down: try again later.") -> None:
        super().__init__(message)
