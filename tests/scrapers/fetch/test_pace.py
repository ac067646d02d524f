"""Slots, pauses and waits, with a clock made of numbers."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from scrapers.fetch.pace import START_SLOTS, Backoff, HostPace, parse_retry_after, start_slots
from scrapers.fetch.verdict import HostSign


def make_pace(max_slots: int = 32, rate: float | None = None) -> HostPace:
    outage = Backoff(base_s=1.0, cap_s=8.0)
    return HostPace(max_slots=max_slots, rate=rate, outage=outage, rng=random.Random(0), now=0.0)


def serve(pace: HostPace, sign: HostSign, times: int, now: float = 1.0) -> None:
    for _ in range(times):
        pace.start(now)
        pace.finish(sign, started=now, now=now)


def test_good_answers_add_slots_up_to_the_limit() -> None:
    pace = make_pace(max_slots=16)
    serve(pace, "good", START_SLOTS)
    assert START_SLOTS + 0.9 < pace.slots < START_SLOTS + 1
    serve(pace, "good", 1000)
    assert pace.slots == 16


@pytest.mark.parametrize("sign", ["neutral", "down", "overload"])
def test_errors_never_speed_a_host_up(sign: HostSign) -> None:
    pace = make_pace()
    serve(pace, sign, 100)
    assert pace.slots <= START_SLOTS


def test_overload_halves_the_slots_once_a_round() -> None:
    pace = make_pace()
    for _ in range(START_SLOTS):
        pace.start(1.0)
    for _ in range(START_SLOTS):
        pace.finish("overload", started=1.0, now=2.0)
    assert pace.slots == START_SLOTS / 2
    serve(pace, "overload", 1, now=3.0)
    assert pace.slots == START_SLOTS / 4


def test_there_is_always_one_slot() -> None:
    pace = make_pace()
    for now in range(1, 9):
        serve(pace, "overload", 1, now=float(now))
    assert pace.slots == 1.0
    assert pace.wait_s(10.0) == 0.0


def test_full_slots_say_to_wait_for_an_answer() -> None:
    pace = make_pace(max_slots=2)
    pace.start(0.0)
    assert pace.wait_s(0.0) == 0.0
    pace.start(0.0)
    assert pace.wait_s(0.0) is None


def test_a_rate_spaces_requests_out() -> None:
    pace = make_pace(rate=4.0)
    pace.start(0.0)
    assert pace.wait_s(0.0) == 0.25
    assert pace.wait_s(0.25) == 0.0
    pace.start(10.0)
    assert pace.wait_s(10.0) == 0.25


def test_retry_after_pauses_the_host() -> None:
    pace = make_pace()
    pace.start(0.0)
    pace.finish("overload", started=0.0, now=1.0, retry_after_s=30.0)
    assert pace.wait_s(1.0) == 30.0
    assert pace.wait_s(31.0) == 0.0


def overload(pace: HostPace, *, started: float, now: float, **more: float) -> None:
    pace.start(started)
    pace.finish("overload", started=started, now=now, answered=True, **more)


def test_an_archive_rests_a_minute_and_each_time_a_minute_more() -> None:
    pace = make_pace()
    pace.rest_s = 60.0
    overload(pace, started=0.0, now=1.0)
    assert pace.asked_until == pace.rests_until == 61.0
    overload(pace, started=0.5, now=2.0)  # was under way already
    assert pace.asked_until == 61.0
    overload(pace, started=61.0, now=62.0)
    assert pace.asked_until == 62.0 + 120.0
    overload(pace, started=182.0, now=183.0)
    assert pace.silent_s(183.0) > 300.0  # left for another run
    serve(pace, "good", 1, now=400.0)
    overload(pace, started=401.0, now=402.0)
    assert pace.asked_until == 462.0


def test_what_a_host_asks_for_goes_before_its_rest() -> None:
    pace = make_pace()
    pace.rest_s = 60.0
    overload(pace, started=0.0, now=1.0, retry_after_s=5.0)
    assert pace.asked_until == 6.0


def test_a_timeout_and_a_plain_host_get_no_rest() -> None:
    pace = make_pace()
    overload(pace, started=0.0, now=1.0)
    pace.rest_s = 60.0
    pace.start(2.0)
    pace.finish("overload", started=2.0, now=3.0)
    assert pace.asked_until == 0.0


def test_a_host_that_asks_to_wait_is_silent_until_then() -> None:
    pace = make_pace()
    serve(pace, "good", 1, now=50.0)
    pace.start(50.0)
    pace.finish("overload", started=50.0, now=60.0, retry_after_s=30.0)
    assert pace.silent_s(60.0) == 30.0
    pace.start(90.0)
    pace.finish("overload", started=90.0, now=91.0, retry_after_s=99999999.0)
    assert pace.silent_s(91.0) == 31.0 + 99999999.0
    serve(pace, "good", 1, now=100.0)
    pace = make_pace()
    serve(pace, "down", 1, now=500.0)
    assert pace.silent_s(900.0) == 0.0


def test_an_outage_is_tried_with_one_request_after_growing_pauses() -> None:
    pace = make_pace()
    serve(pace, "down", 10, now=1.0)
    assert pace.strikes == 1
    pauses = []
    now = 1.0
    for _ in range(6):
        wait = pace.wait_s(now)
        assert wait is not None
        pauses.append(wait)
        now += wait
        pace.start(now)
        assert pace.wait_s(now) is None
        pace.finish("down", started=now, now=now)
    assert pauses == sorted(pauses) or max(pauses) <= 8.0
    assert pauses[0] <= 1.0
    assert 4.0 <= pauses[-1] <= 8.0
    assert pace.silent_s(now) == pytest.approx(now - 1.0)
    now += pace.wait_s(now) or 0.0
    serve(pace, "good", 1, now=now)
    assert pace.strikes == 0
    assert pace.silent_s(now) == 0.0


def test_a_refusal_between_failures_is_no_outage() -> None:
    pace = make_pace()
    for _ in range(20):
        serve(pace, "down", 9)
        serve(pace, "neutral", 1)
    assert pace.strikes == 0


def test_waits_double_up_to_the_cap_with_jitter() -> None:
    rng = random.Random(1)
    backoff = Backoff(base_s=0.5, cap_s=10.0)
    for failures, top in ((1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (6, 10.0), (5000, 10.0)):
        delays = [backoff.delay_s(failures, rng) for _ in range(200)]
        assert top / 2 <= min(delays) < max(delays) <= top
        assert max(delays) - min(delays) > top / 4


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 60.0),
        ("Fri, 02 Jan 2026 03:05:05", 60.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("99999999", 99999999.0),
        ("99999999999999999999", 999999999.0),
        ("Sat, 03 Jan 2026 03:04:05 GMT", 86400.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("²", None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_both_forms(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


def test_a_host_that_asked_for_a_long_wait_is_not_asked_before_by_a_shorter_one() -> None:
    pace = HostPace(max_slots=4, rate=None, outage=Backoff(), rng=random.Random(0), now=0.0)
    for at, wait in ((0.0, 100.0), (1.0, 5.0)):
        pace.start(at)
        pace.finish("overload", started=at, now=at, retry_after_s=wait)
    assert pace.wait_s(1.0) == pytest.approx(99.0)
    pace.start(1.0)
    pace.finish("overload", started=1.0, now=1.0, retry_after_s=300.0)
    assert pace.wait_s(1.0) == pytest.approx(300.0)


def test_a_crawl_delay_never_makes_it_faster() -> None:
    pace = HostPace(max_slots=4, rate=0.5, outage=Backoff(), rng=random.Random(0), now=0.0)
    pace.slow_to(1.0)
    pace.start(0.0)
    assert pace.wait_s(0.0) == pytest.approx(2.0)
    pace.slow_to(5.0)
    pace.finish("good", started=0.0, now=2.0)
    pace.start(2.0)
    assert pace.wait_s(2.0) == pytest.approx(5.0)


def test_a_request_is_written_an_interval_after_the_last_one_was() -> None:
    pace = make_pace(rate=1.0)
    assert pace.send_wait_s(0.0) == 0.0
    pace.start(0.0)
    pace.note_sent(0.9)  # Connecting took that long.
    assert pace.wait_s(1.0) == 0.0  # The next one may connect,
    assert pace.send_wait_s(1.0) == pytest.approx(0.9)  # but has to wait then.
    assert pace.send_wait_s(1.9) == pytest.approx(0.0)
    assert not pace.is_at_rest(1.0)


def test_no_request_starts_while_others_wait_to_be_written() -> None:
    pace = make_pace(rate=1.0)
    pace.start(0.0)
    pace.note_sent(0.0)
    pace.at_gate = 2
    assert pace.wait_s(1.0) == pytest.approx(2.0)
    pace.at_gate = 0
    assert pace.wait_s(1.0) == 0.0


def test_a_crawl_delay_counts_from_the_robots_txt_that_asks_for_it() -> None:
    pace = make_pace()
    pace.note_sent(10.0)
    assert pace.send_wait_s(10.0) == 0.0
    pace.slow_to(5.0)
    assert pace.send_wait_s(12.0) == pytest.approx(3.0)


def test_many_hosts_start_with_fewer_slots_each_and_get_more_as_they_answer() -> None:
    assert [start_slots(number) for number in (0, 1, 8, 9, 16, 64, 10_000)] == [8, 8, 8, 7, 4, 1, 1]
    pace = HostPace(
        max_slots=32, rate=None, outage=Backoff(), rng=random.Random(0), now=0.0, slots=1
    )
    pace.start(0.0)
    assert pace.wait_s(0.0) is None
    pace.finish("good", started=0.0, now=1.0)
    assert pace.slots == 2.0
