"""What exceptions of file systems mean: aiohttp's, botocore's, gcsfs's and huggingface_hub's, as they are raised."""

from __future__ import annotations

import asyncio
import re
import sys

import aiohttp
import botocore.exceptions
import pytest
import yarl
from gcsfs.retry import HttpError, validate_response
from huggingface_hub import errors as hub
from s3fs.errors import translate_boto_error

from hlfeat import UsageError
from hlfeat.remote.errors import RemoteError, explain
from hlfeat.remote.retries import Retries
from hlfeat.remote.urls import shown_url, without_secrets

SIGNED = "https://ann:hidden@host/a.wav?id=3&X-Amz-Credential=AKIA%2F1&X-Amz-Signature=0f3a"


INFO = aiohttp.RequestInfo(yarl.URL(SIGNED), "GET", None, yarl.URL(SIGNED))  # type: ignore[arg-type]


def of_s3(status: int, code: str) -> Exception:
    answer = {"Error": {"Code": code, "Message": f"about {code}"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(botocore.exceptions.ClientError(answer, "GetObject"))  # type: ignore[no-any-return]


def of_web(status: int, **headers: str) -> Exception:
    return aiohttp.ClientResponseError(INFO, (), status=status, message="Why", headers=headers)  # type: ignore[arg-type]


def of_gs(status: int) -> Exception:
    try:
        validate_response(status, b'{"error": {"message": "why"}}', "bucket/a.wav")
    except Exception as e:
        return e
    raise AssertionError


def of_hub(kind: type[Exception], status: int) -> Exception:
    httpx = sys.modules[hub.Response.__module__.partition(".")[0]]  # or httpx2, as the version has it
    answer = httpx.Response(status, request=httpx.Request("GET", "https://host/a.wav"))
    return kind(f"{status} Client Error. (Request ID: 1)\n\nAccess to it is restricted.", response=answer)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (of_s3(404, "NoSuchKey"), "missing", "no such object"),
        (of_s3(404, "NoSuchBucket"), "missing", "no such bucket"),
        (of_s3(403, "AccessDenied"), "unreadable", "access is denied: about AccessDenied"),
        (of_s3(403, "InvalidAccessKeyId"), "unreadable", "access is denied: about InvalidAccessKeyId"),
        (of_s3(403, "SignatureDoesNotMatch"), "unreadable", "access is denied: about SignatureDoesNotMatch"),
        (of_s3(400, "ExpiredToken"), "unreachable", "the credentials have expired: about ExpiredToken"),
        (of_s3(400, "RequestTimeout"), "unreachable", "about RequestTimeout"),
        (of_s3(503, "SlowDown"), "unreachable", "about SlowDown"),
        (of_s3(301, "PermanentRedirect"), "unreadable", "about PermanentRedirect"),
        (of_s3(412, "PreconditionFailed"), "unreadable", "about PreconditionFailed"),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://h"), "unreachable", "Could not connect"),
        (
            botocore.exceptions.ParamValidationError(report="Invalid bucket name"),
            "unreadable",
            "Invalid bucket name",
        ),
        (of_web(404), "missing", "no such object"),
        (of_web(401), "unreadable", "access is denied: 401 Why"),
        (of_web(403), "unreadable", "access is denied: 403 Why"),
        (of_web(429), "unreachable", "429 Why"),
        (of_web(410), "unreadable", "410 Why"),
        (aiohttp.ServerDisconnectedError(), "unreachable", "Server disconnected"),
        (aiohttp.ClientPayloadError("cut"), "unreachable", "cut"),
        (aiohttp.InvalidURL("http://[x"), "unreadable", "not a valid URL"),
        (ValueError("Invalid IPv6 URL"), "unreadable", "Invalid IPv6 URL"),
        (aiohttp.TooManyRedirects(INFO, ()), "unreadable", "it redirects too often"),
        (asyncio.TimeoutError(), "unreachable", "TimeoutError"),
        (of_gs(404), "missing", "no such object"),
        (of_gs(403), "unreadable", "access is denied: Forbidden: bucket/a.wav why"),
        (of_gs(401), "unreadable", "access is denied: why, 401"),
        (of_gs(503), "unreachable", "why, 503"),
        (HttpError({"code": "429", "message": "slower"}), "unreachable", "slower"),
        (of_hub(hub.RemoteEntryNotFoundError, 404), "missing", "no such object"),
        (
            of_hub(hub.GatedRepoError, 403),
            "unreadable",
            "access is denied: 403 Client Error. Access to it is restricted.",
        ),
        (of_hub(hub.RepositoryNotFoundError, 401), "unreadable", "access is denied"),
        (of_hub(hub.HfHubHTTPError, 502), "unreachable", "502 Client Error."),
        (hub.LocalTokenNotFoundError("no token"), "unreadable", "access is denied: no token"),
    ],
)
def test_what_an_exception_means(error: Exception, code: str, message: str):
    explained = explain(error)
    assert (explained.code, str(explained)[: len(message)]) == (code, message)
    assert "\n" not in str(explained)
    assert "hidden" not in str(explained)
    assert "0f3a" not in str(explained)


def test_what_is_no_servers_fault_is_raised():
    with pytest.raises(ZeroDivisionError):
        explain(ZeroDivisionError())
    with pytest.raises(UsageError, match="AWS_ACCESS_KEY_ID"):
        explain(botocore.exceptions.NoCredentialsError())
    with pytest.raises(UsageError, match=r"The config profile \(other\) could not be found"):
        explain(botocore.exceptions.ProfileNotFound(profile="other"))


def test_a_service_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    monkeypatch.setattr(Retries, "_wait", lambda self, seconds, stays: waits.append(seconds))

    def busy() -> None:
        raise of_web(503, **{"retry-after": "7"})

    with pytest.raises(RemoteError):
        Retries(2).call(busy, SIGNED)
    assert waits == [7.0, 7.0]


def test_no_secret_of_a_url_is_shown():
    def refuse() -> None:
        raise OSError("ann may not, with hidden")

    with pytest.raises(RemoteError, match=r"ann may not, with \.\.\.$"):
        Retries(0).call(refuse, SIGNED)
    assert shown_url(SIGNED) == "https://host/a.wav?id=3"
    assert shown_url("s3://key:hidden@bucket/what?.wav") == "s3://bucket/what?.wav"
    for url in (
        "https://h/a?sv=1&sig=abc%2F",
        "https://h/a?Signature=x&Expires=1&Key-Pair-Id=2",
        "https://h/a?access_token=x",
        "https://h/a?X-Goog-Signature=x&X-Goog-Date=2",
        "https://h/a?api_key=k",
        "https://h/a?pwd=key&pass=key&sign=key&hmac=key",
        "https://h/a?b=1#access_token=key",
        "https://ann:key/key@h/a.wav",
        "https://ann:key?key#key@h/@a.wav",
        "s3://ann:key/key@bucket/a.wav",
        "ftp://ann:key@h/a.wav?token=key",
    ):
        shown = shown_url(url)
        assert not re.search("sig|Sig|token|Pair|Goog|key|ann", shown), shown
        assert "key" not in without_secrets(f"no {url}: {url}, or {url}", url)
        assert "key" not in without_secrets(f"it redirects to {url}", "https://h/other")
    for url in (
        "https://h:80/@a/b.wav?c=@d#e=f",
        "https://h/a.wav?#",
        "https://[::1]:80/a@b.wav",
        "s3://arn:aws:s3:region:1:accesspoint/a/b@c.wav",
        "s3://bucket/a?key=b#c",
        "s3://bucket/a:b/c@d.wav",
    ):
        assert shown_url(url) == url
    text = f"cannot read {SIGNED}: 0f3a of AKIA/1 (https://cdn/x?Signature=other)"
    assert without_secrets(text, SIGNED) == "cannot read https://host/a.wav?id=3: ... of ... (https://cdn/x)"
