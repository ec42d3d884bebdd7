"""Newcomers are bounded in all and for each address, and one that is quick always gets in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facewire_broker.newcomers import Newcomers, network_of

steps = st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.sampled_from("abcd")), max_size=120)


@given(steps=steps)
def test_both_bounds_hold_and_the_oldest_of_the_fullest_address_makes_room(steps: list[tuple[bool, int, str]]) -> None:
    newcomers: Newcomers[tuple[int, str]] = Newcomers(10, 4)
    plain: list[tuple[int, str]] = []
    for number, (adding, name, address) in enumerate(steps):
        who = (number if adding else name, address)
        if not adding:
            newcomers.remove(who, address)
            plain = [other for other in plain if other != who]
            continue
        evicted = newcomers.add(who, address)
        of_each = {name: [other for other in plain if other[1] == name] for _, name in plain}
        if len(of_each.get(address, ())) == 4:
            assert evicted == of_each[address][0]
        elif len(plain) == 10:
            assert evicted is not None
            assert evicted == of_each[evicted[1]][0]
            assert len(of_each[evicted[1]]) == max(map(len, of_each.values()))
        else:
            assert evicted is None
        plain = [other for other in plain if other != evicted] + [who]
        assert len(newcomers) == len(plain) <= 10


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_an_address_is_what_one_customer_has(host: str, network: str) -> None:
    assert network_of(host) == network


def test_an_attacker_with_one_address_pushes_out_nobody_of_another() -> None:
    newcomers: Newcomers[str] = Newcomers(2_000, 500)
    for number in range(300):
        assert newcomers.add(f"honest {number}", f"10.0.0.{number}") is None
    evicted = {newcomers.add(f"hostile {number}", "10.9.9.9") for number in range(8_000)}
    assert not any(name and name.startswith("honest") for name in evicted)
    assert len(newcomers) == 800
