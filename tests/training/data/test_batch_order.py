"""The order of samples is a function of the step, without repeats in an epoch, the same however the work is shared."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.batch_order import Order
from training.data.segments import segments_of

BUCKETS = ["square"] * 7 + ["rec"] * 4 + ["vec"] * 1


def test_every_sample_comes_once_an_epoch_and_steps_go_on_into_the_next() -> None:
    order = Order(BUCKETS, batch=1, accumulation=2, world=1, seed=0)
    assert order.steps_an_epoch == 6 and order.steps_of(10) == 60
    assert sorted(i for step in range(6) for i in order.of_step(step)) == [*range(12)]
    assert sorted(i for step in range(6, 12) for i in order.of_step(step)) == [*range(12)]
    # twelve samples in steps of eight: two epochs are three steps, and the second step has samples of both
    order = Order(BUCKETS, batch=1, accumulation=4, world=2, seed=0)
    assert order.steps_an_epoch == 2 and order.steps_of(2) == 3
    assert Counter(i for step in range(3) for i in order.of_step(step)) == dict.fromkeys(range(12), 2)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("clips", [10, 20, 30])
def test_an_epoch_repeats_only_what_fills_a_buckets_last_micro_batch(clips: int, world: int, batch: int) -> None:
    """Clips of 3 to 10 s in three aspects, eight micro-batches a step on each process."""
    lengths = [48 + 112 * clip // (clips - 1) for clip in range(clips)]
    buckets = [
        (aspect, segment.frames, segment.continued)
        for frames in lengths
        for aspect in ("rec", "square", "vec")
        for segment in segments_of(frames)
    ]
    order, epochs = Order(buckets, batch, 8, world, 0), 8 * world
    computed = [i for step in range(order.steps_of(epochs)) for i in order.of_step(step)]
    counts = Counter(computed)
    fills = sum(-count % batch for count in Counter(buckets).values())
    assert min(counts.values()) == epochs and len(computed) == epochs * (len(buckets) + fills)
    assert batch > 1 or set(counts.values()) == {epochs}


@given(st.integers(0, 40), st.integers(1, 3), st.sampled_from([1, 2, 4]))
def test_a_micro_batch_has_one_bucket_and_processes_seldom_compute_different_ones(
    step: int, batch: int, world: int
) -> None:
    order = Order(BUCKETS, batch=batch, accumulation=4, world=world, seed=1)
    each = [[order.of_micro_batch(step, micro, rank) for rank in range(world)] for micro in range(4)]
    found = [[{BUCKETS[i] for i in some} for some in at_once] for at_once in each]
    assert all(len(kinds) == 1 for at_once in found for kinds in at_once)
    mixed = sum(len(set.union(*at_once)) > 1 for at_once in found)
    # they are in order, so that only where a bucket ends two can meet
    assert mixed <= len({BUCKETS[i] for i in order.of_step(step)}) - 1


def test_epochs_differ_and_each_is_what_it_is() -> None:
    order, again = (Order(BUCKETS, batch=1, accumulation=2, world=1, seed=3) for _ in range(2))
    later = [again.of_step(step) for step in range(6, 12)]
    assert later == [order.of_step(step) for step in range(12)][6:]
    assert later != [order.of_step(step) for step in range(6)]
    assert [Order(BUCKETS, 1, 2, 1, seed=4).of_step(step) for step in range(6)] != later


@given(st.integers(0, 40), st.integers(1, 2))
def test_two_processes_see_what_one_sees_that_accumulates_twice_as_often(step: int, batch: int) -> None:
    one = Order(BUCKETS, batch=batch, accumulation=4, world=1, seed=1)
    two = Order(BUCKETS, batch=batch, accumulation=2, world=2, seed=1)
    mine = {one.number(step, micro, 0): one.of_micro_batch(step, micro, 0) for micro in range(4)}
    theirs = {
        two.number(step, micro, rank): two.of_micro_batch(step, micro, rank) for micro in range(2) for rank in range(2)
    }
    assert mine == theirs
    assert sorted(i for some in mine.values() for i in some) == sorted(one.of_step(step))
