"""Texts that end a text."""

from yantai.infer.stops import HoldBack


def test_nothing_comes_behind_a_stop_text():
    held = HoldBack(("two",))
    assert [held.feed(piece) for piece in ("one t", "wo", "\ufffd")] == ["one ", "", ""]
    assert held.stopped and held.finish() == ""
