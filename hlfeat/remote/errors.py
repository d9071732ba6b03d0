"""What the exceptions of fsspec and of its file systems mean: aiohttp's, botocore's, gcsfs's and huggingface_hub's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hlfeat.errors import HlfeatError, UsageError
from hlfeat.remote.urls import without_secrets


class RemoteError(Exception):
    """An object that cannot be read or written.

    Attributes:
        code: "missing" (404), "unreadable" (403, and what trying again does not help), or "unreachable" (a connection
            that stays broken, a service that stays busy, credentials that have expired).
        conflict: whether the object is there already or has changed, where the request was made for another state.
        after: seconds after which the service asks to be tried again; 0 where it does not say.
    """

    def __init__(self, code: str, message: str, conflict: bool = False, after: float = 0.0) -> None:
        super().__init__(message)
        self.code, self.conflict, self.after = code, conflict, after


class LocalError(Exception):
    """Carries an error of this machine, such as a full disk, through what explains those of others."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


# Status of answers that another try may not get; those from 520 are of proxies.
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504, 509, *range(520, 600)})
# Codes of S3's answers, whose status may say something else: 400 of a request that timed out.
_BUSY_CODES = frozenset({"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "Throttling"})
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
# Of what is wrong before anything is asked, by the names of the classes: importing them would take their packages.
_WRONG = {
    "ParamValidationError": "",
    "InvalidURL": "not a valid URL",
    "InvalidUrlClientError": "not a valid URL",
    "NonHttpUrlClientError": "not a valid URL",
    "TooManyRedirects": "it redirects too often",
}
_NO_ACCOUNT = frozenset({"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"})
_NOT_ALLOWED = frozenset({"LocalTokenNotFoundError", "GatedRepoError"})
_FOREIGN = frozenset({"builtins", "hlfeat", "torch", "numpy"})  # packages whose errors are no server's


def explain(e: Exception) -> RemoteError:
    """What an exception of fsspec and its file systems means.

    The message has no secrets of URLs that it quotes.

    Raises the exception itself where it is a bug; UsageError where there are no credentials for any object.
    """
    if isinstance(e, RemoteError):
        return e
    if isinstance(e, HlfeatError):
        raise e
    chain = _chain(e)
    status = next((s for s in map(_status, chain) if s is not None), None)
    answer = next((a for a in map(_answer, chain) if a), {})
    names, code = {type(error).__name__ for error in chain}, str(answer.get("Code", ""))
    text = _text(e, status, answer)
    if status in (409, 412):
        return RemoteError("unreadable", text, conflict=True)
    if code in _EXPIRED:
        return RemoteError("unreachable", f"the credentials have expired: {text}")
    if code == "NoSuchBucket":
        return RemoteError("missing", "no such bucket")
    if names & _NO_ACCOUNT:
        raise UsageError(
            f"s3://: {text}: credentials are those of AWS_ACCESS_KEY_ID, or of a profile (AWS_PROFILE); "
            "FSSPEC_S3_ANON=true reads what is public"
        )
    if names & _NOT_ALLOWED or status in (401, 403) or isinstance(e, PermissionError) or text.startswith("Forbidden"):
        return RemoteError("unreadable", f"access is denied: {text}")
    if isinstance(e, FileNotFoundError) or status == 404:
        return RemoteError("missing", "no such object")
    if status in BUSY or code in _BUSY_CODES:
        return RemoteError("unreachable", text, after=_after(chain))
    wrong = next((name for name in names if name in _WRONG), None)
    if wrong is not None or isinstance(e, ValueError) or status is not None:  # ValueError: a URL that is none
        return RemoteError("unreadable", _WRONG.get(wrong or "") or text.removeprefix("Parameter validation failed: "))
    if isinstance(e, OSError | EOFError) or type(e).__module__.partition(".")[0] not in _FOREIGN:
        return RemoteError("unreachable", text)
    raise e


def _chain(e: BaseException) -> list[BaseException]:
    """The exception, and those that it was raised from or while they were handled."""
    chain: list[BaseException] = []
    error: BaseException | None = e
    while error is not None and len(chain) < 8:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _status(e: BaseException) -> int | None:
    """The status of the answer that an exception is about: aiohttp's, botocore's, httpx's, requests' and gcsfs's."""
    response = getattr(e, "response", None)
    for source, name in ((e, "status"), (e, "status_code"), (response, "status"), (response, "status_code")):
        if isinstance(status := getattr(source, name, None), int) and status >= 100:  # aiohttp has 0 for none
            return status
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    if type(e).__module__.startswith("gcsfs"):
        with suppress(TypeError, ValueError):
            return int(getattr(e, "code", None))  # type: ignore[arg-type]
    return None


def _answer(e: BaseException) -> Mapping[str, Any]:
    """What S3 says of an error: its code and message."""
    response = getattr(e, "response", None)
    return response.get("Error", {}) if isinstance(response, dict) else {}


def _text(e: Exception, status: int | None, answer: Mapping[str, Any]) -> str:
    """One short line."""
    text = str(answer.get("Message") or "")
    if not text and type(e).__module__.startswith("aiohttp") and status is not None:
        text = f"{status} {getattr(e, 'message', '')}"  # its own text has the URL
    if not text:
        text = (isinstance(e, OSError) and e.strerror) or str(e)
    text = re.sub(r" \(Request ID: [^)]*\)", "", " ".join(without_secrets(text).split()))  # of huggingface_hub
    return text[:200] or type(e).__name__


def _after(chain: list[BaseException]) -> float:
    """The seconds of a `Retry-After`; 0 where there is none."""
    for e in chain:
        response = getattr(e, "response", None)
        headers = getattr(e, "headers", None) or getattr(response, "headers", None)
        if isinstance(response, dict):
            headers = response.get("ResponseMetadata", {}).get("HTTPHeaders")
        with suppress(TypeError, ValueError, AttributeError, KeyError):
            return max(0.0, float(headers["retry-after"]))  # type: ignore[index]
    return 0.0
