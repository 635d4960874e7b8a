"""The queue of the lanes: nobody waits while it has an item, whoever is cancelled."""

from __future__ import annotations

import asyncio
import random

import pytest

from syncworker.system.gather import QuickQueue


@pytest.mark.parametrize("seed", range(50))
def test_every_item_is_taken_once_whoever_is_cancelled_and_whoever_takes_without_waiting(seed: int) -> None:
    chance = random.Random(seed)
    taken: list[int] = []

    async def take(queue: QuickQueue[int]) -> None:
        while True:
            ready = queue.items and chance.random() < 0.5
            taken.append(queue.items.popleft() if ready else await queue.get())
            if chance.random() < 0.5:
                await asyncio.sleep(0)

    async def main() -> None:
        queue: QuickQueue[int] = QuickQueue()
        takers = [asyncio.create_task(take(queue)) for _ in range(chance.randint(1, 8))]
        for item in range(100):
            queue.put(item)
            if chance.random() < 0.3:
                at = chance.randrange(len(takers))
                takers[at].cancel()
                takers[at] = asyncio.create_task(take(queue))
            for _ in range(chance.randint(0, 2)):
                await asyncio.sleep(0)
        for _ in range(1000):
            await asyncio.sleep(0)
        for taker in takers:
            taker.cancel()

    asyncio.run(main())
    assert sorted(taken) == list(range(100))


def test_one_that_is_cancelled_with_an_item_in_its_hands_wakes_the_next_one() -> None:
    async def main() -> int:
        queue: QuickQueue[int] = QuickQueue()
        first, second = (asyncio.create_task(queue.get()) for _ in range(2))
        await asyncio.sleep(0)
        queue.put(1)
        first.cancel()
        return await asyncio.wait_for(second, 5)

    assert asyncio.run(main()) == 1
