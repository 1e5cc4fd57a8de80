"""Seeds of random streams never change, and different streams are unrelated."""

from itertools import product

import torch

from digitlab.data.seeding import coin_flips, stream_seed


def test_a_seed_never_changes_between_processes_or_versions():
    assert stream_seed("augment", 0, 1, 2) == 3022843183882875398


def test_a_seed_fits_63_bits():
    assert all(0 <= stream_seed("shuffle", number) < 2**63 for number in range(1000))


def test_neighbouring_streams_differ_in_the_32_bits_that_the_cpu_generator_keeps():
    seeds = {stream_seed("augment", *numbers) % 2**32 for numbers in product(range(10), repeat=3)}
    assert len(seeds) == 1000


def test_a_seed_depends_on_purpose_order_and_grouping_of_the_numbers():
    names = [("a", 1, 23), ("a", 12, 3), ("a", 23, 1), ("b", 1, 23), ("a", 123), ("a1", 23), ("a", 1, 23, 0)]
    assert len({stream_seed(*name) for name in names}) == len(names)


def test_coins_are_fair_and_independent_between_numbers_and_seeds():
    numbers = torch.arange(50_000)
    tosses = coin_flips(stream_seed("flip", 0), numbers).float()
    # Five standard errors each.
    for apart in (1, 2, 1000):
        assert abs((tosses[apart:] == tosses[:-apart]).float().mean() - 0.5) < 5 * 0.5 / 49_000**0.5
    assert abs(tosses.mean() - 0.5) < 5 * 0.5 / 50_000**0.5
    assert abs((tosses == coin_flips(stream_seed("flip", 1), numbers)).float().mean() - 0.5) < 5 * 0.5 / 50_000**0.5


def test_a_coin_depends_only_on_its_own_number():
    numbers = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(coin_flips(3, torch.arange(1000))[numbers], coin_flips(3, numbers))
