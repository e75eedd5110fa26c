import pickle

import pytest

from yantai.base import errors
from yantai.base.errors import CODES, YantaiError

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, YantaiError) and kind is not YantaiError
]
STATUS = {
    "UsageError": 2,
    "DataError": 3,
    "ModelFileError": 4,
    "StorageError": 5,
    "NumericsError": 6,
    "Interrupted": 7,
    "ResourceError": 8,
}


def test_exit_statuses_are_those_of_the_contract():
    assert {kind.__name__: kind.exit_status for kind in KINDS} == STATUS


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_code_is_e_status_and_two_digits_and_has_one_class(code):
    assert len(code) == 4
    assert code[0] == "E"
    assert code[1:].isdecimal()
    owners = [kind for kind in KINDS if str(kind.exit_status) == code[1]]
    assert len(owners) == 1
    error = owners[0](code, "here", "what")
    assert error.exit_status == int(code[1])
    assert CODES[code][-1] != "."


def test_a_message_has_where_what_comparison_and_what_to_do():
    error = errors.DataError("E301", "a:3", "not JSON", expected="{", got="[", do="mend it")
    assert str(error) == "a:3: not JSON; expected {, got [; mend it"
    assert str(errors.DataError("E301", "a:3", "not JSON")) == "a:3: not JSON"
    assert str(errors.DataError("E301", "a", "b", got=0)) == "a: b; got 0"


def test_a_message_is_one_line():
    error = errors.DataError("E301", "a\nb", "c\r\nd", got="e\nf")
    assert "\n" not in str(error)
    assert "\r" not in str(error)


def test_what_a_file_says_steers_no_terminal():
    hostile = "a\x1b[31mRED\x07\x9b\x7f\u202e\udcff\tb 砚　👩🏽‍🔬"
    error = errors.DataError("E301", hostile, hostile, got=hostile, do=hostile)
    escaped = r"a\u001b[31mRED\u0007\u009b\u007f\u202e\udcff\u0009b 砚　👩🏽‍🔬"
    assert str(error) == f"{escaped}: {escaped}; got {escaped}; {escaped}"
    assert str(errors.error_of(error.table())) == str(error)
    assert error.where == error.what == escaped
    assert errors.plain("one\r\ntwo\n") == "one\ntwo\n"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_a_worker_process(kind):
    code = next(code for code in CODES if code[1] == str(kind.exit_status))
    error = kind(code, "here", "what", expected=1, got={"a": 2}, do="this")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert vars(back) == vars(error)
    assert str(back) == str(error)


def test_usage_errors_are_value_errors_and_others_are_not():
    assert issubclass(errors.UsageError, ValueError)
    assert not issubclass(errors.DataError, ValueError)


def test_a_code_of_another_class_or_an_unknown_one_is_our_own_mistake():
    with pytest.raises(AssertionError, match="E301 is not a StorageError"):
        errors.StorageError("E301", "a", "b")
    with pytest.raises(AssertionError, match="unknown error code E999"):
        errors.StorageError("E999", "a", "b")
