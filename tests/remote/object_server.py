"""An S3 server on loopback, in a process of its own, which fails as it is told to.

`python -m tests.remote.object_server` prints its address. It is moto's, with rules before it: a rule is about the next
requests of a method whose path contains a text, and says what becomes of them:

    busy      503, nothing is done                     cut       the body of the answer ends in the middle
    refused   403, nothing is done                     hung up   the connection ends without an answer
    gone      404, nothing is done                     slow      `seconds` later
    at work   409, nothing is done
    lost      it is done, and the connection ends      kill      nothing is done, and a process is killed
    deaf      it is done as if it had no condition

It can also keep what is in a bucket before each request that changes it: what a kill there would leave.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key-of-the-tests", "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests"}
CHANGES = "PUT|POST|DELETE"  # methods that change a bucket
PAGE = 50  # objects in a page of a listing, of which S3 has 1000
REGION = {"AWS_DEFAULT_REGION": "us-east-1"}


class ObjectServer:
    """The server, for a test."""

    def __init__(self, address: str) -> None:
        self.address = address

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find it."""
        return {"AWS_ENDPOINT_URL": self.address, **CREDENTIALS, **REGION}

    def client(self) -> Any:
        """boto3's, for the S3 API as it is."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.address,
            region_name=REGION["AWS_DEFAULT_REGION"],
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )

    def put(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Make a bucket with these objects, by their keys."""
        client = self.client()
        client.create_bucket(Bucket=bucket)
        for key, data in objects.items():
            client.put_object(Bucket=bucket, Key=key, Body=data)

    def objects(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """All objects of a bucket whose keys begin so."""
        client, found = self.client(), {}
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                found[item["Key"]] = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
        return found

    def fail(self, what: str, path: str = "", method: str = "GET", times: int = 1, seconds: float = 0.0) -> None:
        """Have the next `times` requests fail whose method is, and whose path and query have, a regular expression."""
        rule = {"what": what, "path": path, "method": method, "times": times, "seconds": seconds}
        self._ask("/_rules", json.dumps(rule).encode())

    def kill(self, pid: int, after: int = 0, path: str = "", sent: int = signal.SIGKILL) -> None:
        """Send a process a signal at the next change of an object of such a path, once this many have been made."""
        rule = {"what": "kill", "path": path, "method": CHANGES, "times": 1, "skip": after, "pid": pid, "sent": sent}
        self._ask("/_rules", json.dumps(rule).encode())

    def record(self, bucket: str) -> None:
        """Keep what is in a bucket before each change of it, from now on until the next `reset`."""
        self._ask("/_record", bucket.encode())

    def recorded(self) -> list[tuple[str, dict[str, bytes]]]:
        """Each change that was asked for, and the objects before it, by their keys."""
        return [
            (change, {key: b64decode(data) for key, data in objects.items()})
            for change, objects in json.loads(self._ask("/_recorded"))
        ]

    def restore(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Have these objects in a bucket, and no others."""
        client = self.client()
        for key in self.keys(bucket):
            client.delete_object(Bucket=bucket, Key=key)
        for key, data in objects.items():
            client.put_object(Bucket=bucket, Key=key, Body=data)

    def keys(self, bucket: str) -> list[str]:
        """The keys of all objects of a bucket, of which there are few."""
        return [item["Key"] for item in self.client().list_objects_v2(Bucket=bucket).get("Contents", [])]

    def reset(self) -> None:
        """Forget all rules, requests and buckets."""
        self.forget()
        self._ask("/moto-api/reset", b"")

    def forget(self) -> None:
        """Forget all rules and requests."""
        self._ask("/_reset", b"")

    def requests(self) -> list[str]:
        """What was asked since the last `reset`: 'GET /bucket/key 206', in order of the answers."""
        return json.loads(self._ask("/_requests"))  # type: ignore[no-any-return]

    def _ask(self, path: str, data: bytes | None = None) -> bytes:
        with urllib.request.urlopen(self.address + path, data, timeout=30) as answer:
            return answer.read()  # type: ignore[no-any-return]


@contextmanager
def running() -> Iterator[ObjectServer]:
    """A server, which ends with the context."""
    command = [sys.executable, "-m", "tests.remote.object_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield ObjectServer(process.stdout.readline().strip())
        finally:
            process.kill()


_CONDITIONS = ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH")
_REFUSALS = {  # status and code of answers, where nothing is done
    "busy": ("503 Busy", "SlowDown"),
    "refused": ("403 Forbidden", "AccessDenied"),
    "gone": ("404 Not Found", "NoSuchKey"),
    "at work": ("409 Conflict", "ConditionalRequestConflict"),
}


class _Rules:
    """The application around moto's."""

    def __init__(self, moto: Any) -> None:
        self._moto, self._lock = moto, threading.Lock()
        self._rules: list[dict[str, Any]] = []
        self._requests: list[str] = []
        self._bucket, self._recorded = "", list[tuple[str, dict[str, str]]]()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path == "/_rules":
            with self._lock:
                self._rules.append(json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))))
            return _answer(start_response, "200 OK")
        if path == "/_reset":
            with self._lock:
                self._rules, self._requests, self._bucket, self._recorded = [], [], "", []
            return _answer(start_response, "200 OK")
        if path == "/_requests":
            return _answer(start_response, "200 OK", json.dumps(self._requests).encode())
        if path == "/_record":
            self._bucket = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])).decode()
            return _answer(start_response, "200 OK")
        if path == "/_recorded":
            return _answer(start_response, "200 OK", json.dumps(self._recorded).encode())
        if self._bucket and re.fullmatch(CHANGES, method) and path.startswith(f"/{self._bucket}/"):
            with self._lock:
                self._recorded.append((f"{method} {path}", _objects(self._bucket)))
        query = environ.get("QUERY_STRING", "")
        rule = self._rule_for(method, f"{path}?{query}" if query else path) or {"what": ""}
        if rule["what"] == "slow":
            time.sleep(rule["seconds"])
        if rule["what"] in _REFUSALS:
            status, code = _REFUSALS[rule["what"]]
            _drain(environ)
            self._note(method, path, status)
            body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
            return _answer(start_response, status, b"" if method == "HEAD" else body)
        if rule["what"] == "hung up":
            _drain(environ)
            self._note(method, path, "hung up")
            return _hang_up(environ)
        if rule["what"] == "kill":
            with suppress(ProcessLookupError):
                os.kill(rule["pid"], rule["sent"])
            self._note(method, path, "kill")
            return _hang_up(environ)
        if rule["what"] == "deaf":
            environ = {name: value for name, value in environ.items() if name not in _CONDITIONS}
        answer: dict[str, Any] = {}
        body = b"".join(self._moto(environ, lambda status, headers, _=None: answer.update(s=status, h=headers)))
        self._note(method, path, answer["s"])
        if rule["what"] == "lost":
            return _hang_up(environ)
        start_response(answer["s"], answer["h"])
        return [body[: len(body) // 2]] if rule["what"] == "cut" else [body]

    def _rule_for(self, method: str, path: str) -> dict[str, Any] | None:
        with self._lock:
            for rule in self._rules:
                if rule["times"] and re.fullmatch(rule["method"], method) and re.search(rule["path"], path):
                    if rule.get("skip"):
                        rule["skip"] -= 1
                        continue
                    rule["times"] -= 1
                    return rule
        return None

    def _note(self, method: str, path: str, status: str) -> None:
        with self._lock:
            self._requests.append(f"{method} {path} {status.partition(' ')[0] if status[0].isdigit() else status}")


def _answer(start_response: Any, status: str, body: bytes = b"") -> list[bytes]:
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def _objects(bucket: str) -> dict[str, str]:
    """What moto has in a bucket, by key."""
    from moto.s3.models import s3_backends

    keys = s3_backends["123456789012"]["aws"].buckets[bucket].keys
    return {key: b64encode(found.value).decode() for key, found in keys.items()}


def _drain(environ: Mapping[str, Any]) -> None:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def _hang_up(environ: Mapping[str, Any]) -> list[bytes]:
    environ["werkzeug.socket"].shutdown(2)
    raise ConnectionAbortedError


def main() -> None:
    import logging

    os.environ["MOTO_S3_DEFAULT_MAX_KEYS"] = str(PAGE)
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    application = _Rules(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(f"http://127.0.0.1:{server.port}", flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # as the test's process ends
    server.serve_forever()


if __name__ == "__main__":
    main()
