"""Ctrl-C, TERM and HUP: the first becomes an exception, the second is counted, the third ends the process at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from drorae.runtime.signals import ENDING, WORDS, Interrupted, Signals, Stopped, exception

HEAD = """
import os, signal, sys, time
from drorae.runtime.signals import Interrupted, Signals, Stopped
def send(signum=signal.SIGTERM):
    os.kill(os.getpid(), signum)
def say(*words):
    print(*words, flush=True)
"""
EVERY = pytest.mark.parametrize("signum", ENDING, ids=WORDS.get)


def child(code: str, *before: str) -> subprocess.CompletedProcess[str]:
    """Runs code in an interpreter of its own, which other words may stand before."""
    return subprocess.run([*before, sys.executable, "-c", HEAD + code], capture_output=True, text=True, timeout=300)


def kind(signum: int) -> type[BaseException]:
    return Interrupted if signum == signal.SIGINT else Stopped


@pytest.fixture(autouse=True)
def same_handlers() -> Iterator[None]:
    """Every test leaves the handlers as they were."""
    before = [signal.getsignal(signum) for signum in ENDING]
    yield
    assert [signal.getsignal(signum) for signum in ENDING] == before


@EVERY
def test_the_first_signal_is_raised_once(signum: signal.Signals) -> None:
    with Signals() as signals:
        assert signals.received is None
        signals.check()
        with pytest.raises(kind(signum)) as caught:
            os.kill(os.getpid(), signum)
            time.sleep(10)
        assert caught.value.signum == signum
        assert not caught.value.said
        assert signals.received == signum
        # The second finds the work ending, and so does one of another kind.
        os.kill(os.getpid(), signal.SIGTERM if signum == signal.SIGINT else signal.SIGINT)
        time.sleep(0.01)
        assert signals.received == signum
        assert signals._count == 2


@EVERY
def test_uncaught_it_ends_the_process_with_the_code_of_a_shell(signum: signal.Signals) -> None:
    done = child(f"with Signals():\n    send({signum:d})\n    time.sleep(10)\nsay('not reached')")
    # Python ends by SIGINT itself after a KeyboardInterrupt, so that a shell's loop ends, too.
    assert done.returncode == (-signal.SIGINT if signum == signal.SIGINT else 128 + signum)
    assert done.stdout == ""
    assert (done.stderr.splitlines() or [""])[-1] == ("KeyboardInterrupt" if signum == signal.SIGINT else "")


@EVERY
def test_the_third_leaves_at_once(signum: signal.Signals) -> None:
    done = child(f"""
with Signals() as signals:
    signals.leave = lambda: say('left')
    try:
        send({signum:d})
        time.sleep(10)
    except BaseException as error:
        say(type(error).__name__)
    try:
        send({signum:d})
        say('goes on')
        send({signum:d})
        time.sleep(10)
    finally:
        say('not reached')
""")
    assert done.returncode == 128 + signum
    assert done.stdout.split("\n") == [kind(signum).__name__, "goes on", "left", ""]
    assert done.stderr == ""


def test_whatever_goes_wrong_with_leaving_does_not_keep_it() -> None:
    done = child("""
with Signals() as signals, signals.deferred():
    signals.leave = lambda: 1 / 0
    send(); send(); send()
    time.sleep(10)
""")
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


@EVERY
def test_a_deferred_block_ends_first(signum: signal.Signals) -> None:
    steps = []
    with Signals() as signals:
        with pytest.raises(kind(signum)), signals.deferred():
            os.kill(os.getpid(), signum)
            time.sleep(0.01)
            signals.check()
            steps.append("end of the block")
        steps.append("raised behind it")
        assert signals.received == signum
    assert steps == ["end of the block", "raised behind it"]


def test_what_came_before_a_deferred_block_is_not_raised_again() -> None:
    with Signals() as signals:
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        assert signals.received == signal.SIGTERM


def test_a_deferred_block_without_a_signal_raises_nothing() -> None:
    with Signals() as signals:
        with signals.deferred():
            pass
        # The deferral is over: the next one is raised where it comes.
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)


def test_an_error_in_a_deferred_block_is_not_lost() -> None:
    with Signals() as signals:
        with pytest.raises(ValueError, match="while it ended"), signals.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            raise ValueError("while it ended")
        with pytest.raises(Stopped):
            signals.check()


@EVERY
def test_one_inside_another_tells_it(signum: signal.Signals) -> None:
    with Signals() as outer:
        with pytest.raises(kind(signum)), Signals():
            os.kill(os.getpid(), signum)
            time.sleep(10)
        assert outer.received == signum
        assert outer._count == 1
        with pytest.raises(kind(signum)):
            outer.check()
        # It was raised before, so that this one is the second.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert (outer.received, outer._count) == (signum, 2)


def test_only_the_outermost_lets_a_plain_interrupt_out() -> None:
    inner: list[type[BaseException]] = []
    with pytest.raises(KeyboardInterrupt) as caught, Signals():
        try:
            with Signals():
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)
        except KeyboardInterrupt as error:
            inner.append(type(error))
            raise
    assert inner == [Interrupted]
    assert type(caught.value) is KeyboardInterrupt
    # The traceback still leads to the line that was interrupted.
    assert caught.traceback[-1].name == "_handle"


def test_one_inside_another_without_a_signal_changes_nothing() -> None:
    with Signals() as outer:
        with Signals():
            pass
        assert (outer.received, outer._count) == (None, 0)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(10)


def test_the_former_handlers_are_back() -> None:
    got = []
    former = signal.signal(signal.SIGTERM, lambda signum, frame: got.append(signum))
    try:
        with Signals() as signals:
            assert signal.getsignal(signal.SIGTERM) == signals._handle
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert got == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, former)
    # By default Ctrl-C is Python's own, and the others end the process, both before and after.
    done = child("""
names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
before = [signal.getsignal(name) for name in names]
with Signals():
    pass
say(before == [signal.getsignal(name) for name in names] == [signal.default_int_handler, 0, 0])
send()
time.sleep(10)
""")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "True\n", "")


def test_they_are_back_after_an_error_too() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), Signals():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_library_that_sets_its_own_is_put_aside_again() -> None:
    with Signals() as signals:
        signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(15))
        signals.install()
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)


def test_nohup_keeps_its_word() -> None:
    code = """
with Signals() as signals:
    send(signal.SIGHUP)
    time.sleep(0.01)
    signals.check()
    signals.install()
    send(signal.SIGHUP)
    time.sleep(0.01)
    say(signals.received)
send(signal.SIGHUP)
say('alive')
with Signals():
    send(signal.SIGTERM)
    time.sleep(10)
"""
    done = child(code, "nohup")
    assert (done.returncode, done.stdout) == (143, "None\nalive\n")


def test_other_threads_change_nothing() -> None:
    before = [signal.getsignal(signum) for signum in ENDING]
    seen = []

    def work() -> None:
        with Signals() as signals:
            seen.append([signal.getsignal(signum) for signum in ENDING])
            signals.install()
            with signals.deferred():
                signals.check()
            seen.append([signal.getsignal(signum) for signum in ENDING])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, before]


@EVERY
def test_what_a_library_made_of_a_signal_is_what_was_meant(signum: signal.Signals) -> None:
    with Signals() as signals:
        with pytest.raises(kind(signum)):
            os.kill(os.getpid(), signum)
            time.sleep(10)
        for error in (KeyboardInterrupt(), SystemExit(1), SystemExit("text"), SystemExit()):
            end = signals.meant(error)
            assert type(end) is kind(signum)
            assert end.signum == signum  # type: ignore[attr-defined]
            assert isinstance(end, Interrupted) or end.code == 128 + signum  # type: ignore[attr-defined]


def test_what_no_signal_made_stays_itself() -> None:
    signals = Signals()
    for error in (SystemExit(1), SystemExit(), ValueError(), Stopped(signal.SIGHUP), Interrupted()):
        assert signals.meant(error) is error
    # Python's own, where a handler was never set, as in a thread, or was taken away.
    assert type(signals.meant(KeyboardInterrupt())) is Interrupted
    # And Ray's, while it is joined, whose code is the signal's number.
    joined = signals.meant(SystemExit(signal.SIGTERM))
    assert isinstance(joined, Stopped) and joined.code == 143
    # One that knows what it was keeps it, and whether it was told, whatever came first.
    signals.received = signal.SIGTERM
    told = Interrupted()
    told.said = True
    assert signals.meant(told) is told


def test_check_raises_for_a_signal_that_got_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    # Python drops what is raised in a destructor, and says so here.
    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: dropped.append(unraisable.exc_type))

    class Late:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    with Signals() as signals:
        thing = Late()
        del thing
        assert dropped == [Stopped]
        assert signals.received == signal.SIGTERM
        for _ in range(2):
            with pytest.raises(Stopped) as caught:
                signals.check()
            assert caught.value.code == 143
        with signals.deferred():
            signals.check()


def test_exceptions_are_of_pythons_kinds() -> None:
    assert isinstance(exception(signal.SIGINT), KeyboardInterrupt)
    assert isinstance(exception(signal.SIGTERM), SystemExit)
    assert not isinstance(exception(signal.SIGTERM), Exception)
    assert [exception(signum).signum for signum in ENDING] == list(ENDING)
    assert set(WORDS) == set(ENDING)
