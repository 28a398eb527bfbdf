"""The order of samples is a function of the step, one bucket at a time, the same however the work is shared."""

from hypothesis import given
from hypothesis import strategies as st

from training.data.batch_order import Order

BUCKETS = ["square"] * 7 + ["rec"] * 4 + ["vec"] * 1


def test_every_sample_comes_once_an_epoch_and_a_step_has_one_bucket() -> None:
    order = Order(BUCKETS, batch=1, accumulation=2, world=1, seed=0)
    assert order.steps_an_epoch == 4 + 2 + 1
    steps = [order.of_step(step) for step in range(order.steps_an_epoch)]
    assert all(len({BUCKETS[i] for i in step}) == 1 for step in steps)
    seen = [i for step in steps for i in step]
    assert set(seen) == set(range(12)) and len(seen) == 14  # two buckets are filled up


def test_epochs_differ_and_each_is_what_it_is() -> None:
    order, again = (Order(BUCKETS, batch=1, accumulation=2, world=1, seed=3) for _ in range(2))
    later = [again.of_step(step) for step in range(7, 14)]
    assert later == [order.of_step(step) for step in range(14)][7:]
    assert later != [order.of_step(step) for step in range(7)]
    assert Order(BUCKETS, batch=1, accumulation=2, world=1, seed=4).of_step(0) != order.of_step(0)


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
