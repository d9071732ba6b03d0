"""Objects in a bucket: what is there, its bytes, and what is tried again."""

from __future__ import annotations

import os

import pytest

from hlfeat.remote import objects
from hlfeat.remote.retries import RemoteError, Retries
from tests.remote.object_server import ObjectServer

FAST = Retries(times=3, first=0.01)
DATA = bytes(range(256)) * 100


def test_an_object_is_read_whole_and_in_part(server: ObjectServer):
    server.put("speech", {"a/b.wav": DATA})
    assert objects.read("s3://speech/a/b.wav") == DATA
    assert objects.read("s3://speech/a/b.wav", 100, 300) == DATA[100:300]
    found = objects.stat("s3://speech/a/b.wav")
    assert (found.size, found.modified is not None, found.tag is not None) == (len(DATA), True, True)


def test_objects_are_listed_in_the_order_of_their_names(server: ObjectServer):
    server.put("speech", {"x/b.wav": b"1", "x/a/c.wav": b"2", "xy/d.wav": b"3"})
    assert [(o.url, o.size) for o in objects.list_below("s3://speech/x")] == [
        ("s3://speech/x/a/c.wav", 1),
        ("s3://speech/x/b.wav", 1),
    ]


@pytest.mark.parametrize("what", ["busy", "cut", "hung up"])
def test_what_fails_twice_is_read_at_the_third_try(server: ObjectServer, what: str):
    server.put("speech", {"a.wav": DATA})
    server.fail(what, "a.wav", times=2)
    assert objects.read("s3://speech/a.wav", retries=FAST) == DATA
    assert len([r for r in server.requests() if r.startswith("GET /speech/a.wav")]) == 3


def test_what_stays_broken_is_unreachable(server: ObjectServer):
    server.put("speech", {"a.wav": DATA})
    server.fail("busy", "a.wav", times=100)
    with pytest.raises(RemoteError) as caught:
        objects.read("s3://speech/a.wav", retries=FAST)
    assert caught.value.code == "unreachable"
    assert len([r for r in server.requests() if r.endswith("503")]) == 4


def test_what_is_not_there_or_not_allowed_is_not_tried_again(server: ObjectServer):
    server.put("speech", {"a.wav": DATA})
    for url, rule, code in (("s3://speech/none.wav", None, "missing"), ("s3://speech/a.wav", "refused", "unreadable")):
        if rule:
            server.fail(rule, "a.wav", times=10)
        before = len(server.requests())
        with pytest.raises(RemoteError) as caught:
            objects.read(url, retries=FAST)
        assert caught.value.code == code
        assert len(server.requests()) - before == 1


def test_it_can_be_used_after_a_fork(server: ObjectServer):
    server.put("speech", {"a.wav": DATA})
    assert objects.read("s3://speech/a.wav") == DATA
    pid = os.fork()
    if pid == 0:
        os._exit(0 if objects.read("s3://speech/a.wav") == DATA else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert objects.read("s3://speech/a.wav") == DATA


def test_a_conditional_put_has_one_winner(server: ObjectServer):
    """What the commit of a shard relies on, of the server that the tests use."""
    server.put("speech", {})
    client = server.client()
    first = client.put_object(Bucket="speech", Key="a", Body=b"1", IfNoneMatch="*")
    with pytest.raises(client.exceptions.ClientError, match="PreconditionFailed"):
        client.put_object(Bucket="speech", Key="a", Body=b"2", IfNoneMatch="*")
    client.put_object(Bucket="speech", Key="a", Body=b"3", IfMatch=first["ETag"])
    with pytest.raises(client.exceptions.ClientError, match="PreconditionFailed"):
        client.put_object(Bucket="speech", Key="a", Body=b"4", IfMatch=first["ETag"])
    assert server.objects("speech") == {"a": b"3"}
