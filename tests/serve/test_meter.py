"""Tokens of a minute: claimed, settled, and never more than a minute's at once."""

import pytest

from yantai.serve.meter import Bucket, Meter
from yantai.serve.schema import ApiError


def test_a_bucket_never_holds_more_than_a_minute():
    bucket = Bucket(100)
    assert bucket.wait(0.0) == 0
    assert bucket.wait(10_000.0) == 0 and bucket.left == 100


def test_many_at_once_get_no_more_than_one_after_the_other():
    meter = Meter(200, lambda: 0.0)
    for _ in range(4):
        meter.claim("me", 60)
    with pytest.raises(ApiError) as refused:
        meter.claim("me", 60)
    assert (refused.value.status, refused.value.wait) == (429, 13)  # 40 are missing, and one
    meter.claim("you", 60)
    meter.used("me", 10 - 60)  # one of them said ten
    meter.claim("me", 60)


def test_one_claim_is_no_more_than_a_minute():
    now = [0.0]
    meter = Meter(100, lambda: now[0])
    assert meter.claim("me", 100_000) == 100
    now[0] = 1.0
    meter.check("me")


def test_without_a_limit_nothing_is_counted():
    meter = Meter()
    assert [meter.claim("me", 10**9) for _ in range(3)] == [0, 0, 0]
    meter.used("me", 10**9)
    meter.check("me")
    assert meter._buckets == {}
