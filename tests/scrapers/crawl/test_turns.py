"""Turns among hosts: never more than there are, and each host in its turn."""

from __future__ import annotations

import random

from scrapers.crawl.turns import Turns
from scrapers.fetch.host import Host
from scrapers.fetch.pace import Backoff, HostPace


def host(name: str) -> Host:
    pace = HostPace(max_slots=4, rate=None, outage=Backoff(), rng=random.Random(0), now=0.0)
    return Host(name, pace)


def test_hosts_that_find_no_turn_get_the_next_ones_in_order_and_once_each() -> None:
    turns, hosts = Turns(2), [host(f"h{number}") for number in range(5)]
    assert [turns.take(one) for one in hosts] == [True, True, False, False, False]
    assert not turns.take(hosts[2])  # It waits already.
    assert turns.next_host() is None
    order = []
    for _ in range(3):
        turns.give_back()
        found = turns.next_host()
        assert found is not None
        assert turns.take(found)
        order.append(found.origin)
    assert order == ["h2", "h3", "h4"]
    assert not turns.is_contested
    assert turns.taken == 2


def test_a_host_that_does_not_use_its_turn_leaves_it_to_the_next() -> None:
    turns, first, second, third = Turns(1), host("a"), host("b"), host("c")
    assert turns.take(first)
    turns.line_up(second)
    turns.line_up(third)
    turns.give_back()
    assert turns.next_host() is second
    assert turns.next_host() is third
    assert turns.next_host() is None
