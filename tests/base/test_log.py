import io
import json

import pytest

from yantai.base.log import CLOCK_COLUMNS, MetricsFile, ProgressLine, duration, say


@pytest.fixture
def metrics(tmp_path):
    made = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(1, 6):
        made.append({"step": step, "loss": 1 / step})
    return made


def test_rows_come_back_with_the_same_bits(metrics):
    assert metrics.rows() == [{"step": step, "loss": 1 / step} for step in range(1, 6)]
    assert MetricsFile(metrics.path.with_name("none")).rows() == []


@pytest.mark.parametrize(
    "torn", [b'{"step": 6, "lo', b'{"step": 6, "loss": 0.1}', b"\xff\xfe\x00", b"\x00" * 30]
)
def test_a_torn_last_row_is_mended_on_resume(metrics, torn):
    whole = metrics.path.read_bytes()
    metrics.path.write_bytes(whole + torn)
    metrics.cut_after(5)
    assert metrics.path.read_bytes() == whole
    metrics.append({"step": 6, "loss": 0.5})
    assert [row["step"] for row in metrics.rows()] == [1, 2, 3, 4, 5, 6]


def test_later_rows_are_cut(metrics):
    metrics.cut_after(3)
    assert [row["step"] for row in metrics.rows()] == [1, 2, 3]
    metrics.cut_after(0)
    assert metrics.path.read_bytes() == b""


def test_separators_of_lines_inside_a_text_are_no_lines(metrics):
    metrics.append({"step": 6, "note": "a\u2028b\x85c"})
    assert metrics.rows()[-1]["note"] == "a\u2028b\x85c"


def test_clock_columns_are_those_the_loop_writes():
    assert {"seconds", "tokens_per_second", "share_of_peak"} <= set(CLOCK_COLUMNS)
    assert not {"step", "loss", "valid_loss", "tokens"} & set(CLOCK_COLUMNS)


class Screen(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def shown(terminal, moments):
    screen, now = Screen(terminal), iter(moments)
    line = ProgressLine(10.0, screen, clock=lambda: next(now))
    for number in range(len(moments)):
        line.show(f"line {number}", final=number == len(moments) - 1)
    return screen.getvalue()


def test_a_file_gets_a_line_now_and_then_and_the_last_one():
    assert shown(False, [0, 5, 11, 12, 13]) == "line 0\nline 2\nline 4\n"


def test_a_terminal_gets_one_line_that_rewrites_itself(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert shown(True, [0, 0.05, 0.2, 0.21]) == ("\r\x1b[2Kline 0\r\x1b[2Kline 2\r\x1b[2Kline 3\n")
    monkeypatch.setenv("TERM", "dumb")
    assert shown(True, [0, 1]) == "line 0\nline 1\n"


def test_lines_for_a_person_go_to_standard_error(capsys):
    say("hello")
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "EIO"), ValueError("closed")])
def test_a_progress_line_outlives_its_screen(error):
    class Gone(io.StringIO):
        def write(self, text):
            raise error

    line = ProgressLine(0.0, Gone(), clock=iter(range(9)).__next__)
    line.show("a")
    line.show("b", final=True)
    assert line.last == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (3600, "1 h 00 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_row_is_one_line_of_json(metrics):
    metrics.append({"step": 6, "text": "a\nb", "name": "烟台"})
    last = metrics.path.read_bytes().splitlines()[-1]
    assert json.loads(last) == {"step": 6, "text": "a\nb", "name": "烟台"}
    assert "烟台".encode() in last


def test_a_name_in_a_note_steers_no_terminal(capsys):
    say("\n[1/4] a\x1b[31mRED\x07\x1b]0;title\x07")
    assert capsys.readouterr().err == "\n[1/4] a\\u001b[31mRED\\u0007\\u001b]0;title\\u0007\n"
    say(json.dumps({"name": "\x7f\x1b"}))
    assert json.loads(capsys.readouterr().err) == {"name": "\x7f\x1b"}
