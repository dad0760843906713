from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicdet.data.order import epoch_order, image_seed, rank_indices, sampling_seed

counts = st.integers(1, 40)
small = st.integers(1, 5)
seeds = st.integers(-(2**70), 2**70)


def all_ranks(n: int, seed: int, epoch: int, world: int, batch: int, accumulate: int) -> list[list[list[int]]]:
    return [
        rank_indices(n, seed=seed, epoch=epoch, rank=rank, world_size=world, batch_size=batch, accumulate=accumulate)
        for rank in range(world)
    ]


@given(counts, seeds, st.integers(0, 300))
def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_only(n: int, seed: int, epoch: int) -> None:
    order = epoch_order(n, seed, epoch).tolist()
    assert sorted(order) == list(range(n))
    assert order == epoch_order(n, seed, epoch).tolist()


def test_epochs_and_seeds_differ_and_do_not_repeat_each_other_shifted() -> None:
    orders = {(seed, epoch): tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(8) for epoch in range(8)}
    assert len(set(orders.values())) == 64


@given(counts, seeds, st.integers(0, 5), small, small, small)
def test_ranks_get_equally_many_full_batches_and_every_image_is_seen(
    n: int, seed: int, epoch: int, world: int, batch: int, accumulate: int
) -> None:
    ranks = all_ranks(n, seed, epoch, world, batch, accumulate)
    step = world * batch * accumulate
    for batches in ranks:
        assert len(batches) == -(-n // step) * accumulate
        assert all(len(indices) == batch for indices in batches)
    seen = Counter(index for batches in ranks for indices in batches for index in indices)
    assert set(seen) == set(range(n))
    assert max(seen.values()) - min(seen.values()) <= 1


@given(counts, seeds, st.sampled_from([1, 2, 3, 4, 6, 12]), st.sampled_from([1, 2, 3, 4, 6, 12]), small)
def test_a_global_batch_is_the_same_however_many_ranks_share_it(
    n: int, seed: int, world: int, other: int, accumulate: int
) -> None:
    def globally(world: int) -> list[list[int]]:
        ranks = all_ranks(n, seed, 1, world, 12 // world, accumulate)
        return [[index for indices in batches for index in indices] for batches in zip(*ranks, strict=True)]

    assert globally(world) == globally(other)


@given(counts, seeds, st.sampled_from([(1, 12), (2, 6), (3, 4), (12, 1)]), st.sampled_from([1, 2, 3]))
def test_an_optimiser_step_is_the_same_however_it_is_accumulated(
    n: int, seed: int, split: tuple[int, int], world: int
) -> None:
    accumulate, batch = split

    def flat(world: int, batch: int, accumulate: int) -> list[int]:
        ranks = all_ranks(n, seed, 0, world, batch, accumulate)
        return [i for batches in zip(*ranks, strict=True) for indices in batches for i in indices]

    assert flat(world, batch, accumulate) == flat(1, 12 * world, 1)


def test_seeds_are_63_bits_and_all_different() -> None:
    grid = [(seed, epoch, index) for seed in (-1, 0, 1, 2) for epoch in range(15) for index in range(100)]
    augmentation = [image_seed(*numbers) for numbers in grid]
    sampling = [sampling_seed(seed) for seed in augmentation]
    assert len({*augmentation, *sampling}) == 2 * len(grid)
    assert all(0 <= seed < 2**63 for seed in augmentation + sampling)


def test_every_bit_of_a_seed_is_set_in_half_of_the_cases() -> None:
    """Neighbouring images' seeds must not be neighbours: torch's generator reads their low 32 bits alone."""
    values = [image_seed(0, 0, index) for index in range(2000)]
    for bit in range(63):
        ones = sum(value >> bit & 1 for value in values)
        assert 850 < ones < 1150, bit  # 6.7 standard deviations


@pytest.mark.parametrize("fault", [{"n": 0}, {"rank": 2}, {"rank": -1}, {"batch_size": 0}, {"accumulate": 0}])
def test_senseless_numbers_are_refused(fault: dict[str, int]) -> None:
    good = {"n": 5, "seed": 0, "epoch": 0, "rank": 0, "world_size": 2, "batch_size": 2, "accumulate": 1}
    with pytest.raises(ValueError, match="rank"):
        rank_indices(**{**good, **fault})
