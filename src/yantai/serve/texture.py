"""How many values a body of JSON has, counted before it is parsed.

Knows: bytes. A parser holds Python's lock until it is done, and nobody else is served meanwhile: a
few megabytes of text are nothing to it, a million empty lists a second and a half. What no client
needs is refused by a count that takes milliseconds.
"""

MOST_LISTS, MOST_STRINGS, MOST_VALUES = 20_000, 40_000, 400_000
"""A conversation of 4,096 messages has 16,384 strings, a prompt of 200,000 ids as many values."""


def too_many(body: bytes) -> str | None:
    """What a body has too many of, if anything; what is no JSON may be said to have anything.

    >>> too_many(b'{"prompt": "[[[,,,", "n": 1}')
    >>> too_many(b"[" * 30_000)
    'more than 20,000 lists and objects'
    """
    if len(body) <= MOST_LISTS:  # too short for that
        return None
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if body.count(b'"') > 2 * MOST_STRINGS:
        return f"more than {MOST_STRINGS:,} strings"
    outside = b"".join(body.split(b'"')[::2])
    if outside.count(b"[") + outside.count(b"{") > MOST_LISTS:
        return f"more than {MOST_LISTS:,} lists and objects"
    if outside.count(b",") > MOST_VALUES:
        return f"more than {MOST_VALUES:,} values"
    return None
