"""Bytes that are held at once."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from streamer.budget import ByteBudget, SharedBudget


async def test_budget_spent_makes_the_next_wait() -> None:
    """What is given back goes to who waits longest, also when a later one needs less."""
    budget = ByteBudget(10)
    await budget.take(8)
    large, small = asyncio.create_task(budget.take(9)), asyncio.create_task(budget.take(1))
    await asyncio.sleep(0)
    budget.give(8)
    assert await large == 9
    assert await small == 1
    assert budget.free == 0


async def test_budget_asked_for_more_than_all_gives_all() -> None:
    """One that is larger than the budget passes alone instead of waiting for ever."""
    assert await ByteBudget(10).take(1000) == 10


async def test_budget_cancelled_wait_takes_nothing() -> None:
    """An event that is superseded while it waits leaves the queue, also at the moment of its turn."""
    budget = ByteBudget(10)
    await budget.take(10)
    gone, late, next_one = (asyncio.create_task(budget.take(6)) for _ in range(3))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    budget.give(10)
    late.cancel()
    assert await next_one == 6
    assert budget.free == 4


@given(st.lists(st.tuples(st.integers(0, 15), st.booleans()), max_size=30))
def test_budget_in_any_history_is_never_overdrawn_and_comes_back(wishes: list[tuple[int, bool]]) -> None:
    """Whoever takes, gives back or is cancelled, no byte is held twice and none is lost."""

    async def run() -> None:
        budget = ByteBudget(10)

        async def hold(size: int) -> None:
            taken = await budget.take(size)
            try:
                assert budget.free >= 0
                await asyncio.sleep(0)
            finally:
                budget.give(taken)

        tasks = []
        for size, cancelled in wishes:
            tasks.append(asyncio.create_task(hold(size)))
            await asyncio.sleep(0)
            if cancelled:
                tasks[len(tasks) // 2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert budget.free == 10

    asyncio.run(run())


async def test_shared_budget_keeps_half_for_others_and_forgets_owners() -> None:
    """Whoever wants all gets half of it; a second wish of theirs waits, another's does not."""
    budget = SharedBudget(10)
    first = await budget.take("a", 100)
    assert first.size == 5
    more = asyncio.create_task(budget.take("a", 1))
    other = await asyncio.wait_for(budget.take("b", 4), 1)
    await asyncio.sleep(0)
    assert not more.done()
    assert budget.free == 1
    first.shrink(2)
    assert (await asyncio.wait_for(more, 1)).size == 1
    for held in (first, other, more.result()):
        held.shrink(0)
        held.shrink(0)
    assert budget.free == 10
    del first, other, more, held
    assert len(budget._shares) == 0


async def test_shared_budget_cancelled_wait_gives_the_share_back() -> None:
    """Who waits for the others' half and is cancelled has kept nothing of their own."""
    budget = SharedBudget(10)
    a, b = await budget.take("a", 5), await budget.take("b", 5)
    waiting = asyncio.create_task(budget.take("c", 3))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    a.shrink(0)
    b.shrink(0)
    assert budget.free == 10
    assert (await asyncio.wait_for(budget.take("c", 5), 1)).size == 5
