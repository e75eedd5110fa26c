import os
import signal
import threading

import pytest

from yantai.training.signals import SIGNALS, listen


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_not_obeyed(number):
    with listen() as received:
        assert received == []
        os.kill(os.getpid(), number)
        assert received == [number]


def test_the_second_ctrl_c_has_its_usual_effect():
    with listen() as received:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert received == [signal.SIGINT]


def test_a_terminal_that_closes_twice_is_noted_twice():
    with listen() as received:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
    assert received == [signal.SIGHUP, signal.SIGHUP]


def test_what_handled_a_signal_before_handles_it_after():
    before = [signal.getsignal(number) for number in SIGNALS]
    with listen():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_nohup_stays_in_force():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listen() as received:
            os.kill(os.getpid(), signal.SIGHUP)
        assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_than_the_main_one_leaves_signals_alone():
    seen = []

    def work():
        with listen() as received:
            seen.append(received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [[]]
