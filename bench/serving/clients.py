"""The clients of the load test: most ask and wait, some leave without a word, some send garbage."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from bench.serving.connection import Connection, ServerGone
from bench.serving.garbage import garbage
from bench.serving.mix import Mix, Request

VANISH, GARBAGE = 0.10, 0.05  # of the requests
LEAVING = ("half a request", "at once", "while it waits", "in the stream")


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that got its 200, with the answer as it came. seconds: from the first byte sent."""

    request: Request
    body: bytes
    seconds: float


@dataclass
class Told:
    """What all clients have seen.

    Attributes:
        answered: in the order in which they were.
        statuses: of good requests that got another one than 200, by kind and status. 429 is counted in `refused`,
            and the request comes again.
        garbage: of bad requests, by name and status; wrong: those whose status is not the right one.
        vanished: by how they left; broken: connections that the server dropped.
    """

    answered: list[Answered] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)
    refused: int = 0
    garbage: Counter = field(default_factory=Counter)
    wrong: Counter = field(default_factory=Counter)
    vanished: Counter = field(default_factory=Counter)
    broken: Counter = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)  # of what should not have been


class Clients:
    """Args: address, host and port of the server; seconds, after which nobody asks again."""

    def __init__(self, address: tuple[str, int], mix: Mix, count: int, seconds: float, seed: int):
        self.address, self.mix = address, mix
        self.count, self.seconds, self.seed = count, seconds, seed
        self.told = Told()
        self._asked = 0

    async def run(self) -> float:
        """Until all have their answers: the seconds from the first request to the last answer."""
        self._began = time.monotonic()
        await asyncio.gather(*(self._live(number) for number in range(self.count)))
        return time.monotonic() - self._began

    async def _live(self, number: int) -> None:
        chance = Random(self.seed * 100_003 + number)
        connection = Connection(*self.address)
        while time.monotonic() < self._began + self.seconds:
            self._asked += 1
            lot = chance.random()
            try:
                if lot < GARBAGE:
                    await self._send_garbage(connection, chance)
                elif lot < GARBAGE + VANISH:
                    await self._vanish(connection, chance)
                else:
                    await self.ask(connection, self.mix.draw(chance, self._asked))
            except ServerGone as error:
                self.told.broken[str(error)] += 1
                await asyncio.sleep(0.5)
        connection.abort()

    async def ask(self, connection: Connection, request: Request) -> None:
        """Until it is answered: after a 429 it comes again when the server says so."""
        while True:
            began = time.monotonic()
            await connection.send("POST", request.path, request.body)
            answer = await connection.answer()
            if answer.status != 429:
                break
            self.told.refused += 1
            await asyncio.sleep(float(answer.headers["retry-after"]))
        if answer.status == 200:
            seconds = time.monotonic() - began
            self.told.answered.append(Answered(request, answer.body, seconds))
        else:
            self.told.statuses[request.kind, answer.status] += 1
            self._keep(request.kind, answer)

    async def _send_garbage(self, connection: Connection, chance: Random) -> None:
        sent = garbage(chance, self.mix.model)
        await connection.write(sent.content)
        answer = await connection.answer()
        self.told.garbage[sent.name, answer.status] += 1
        if answer.status not in sent.statuses:
            self.told.wrong[sent.name, answer.status] += 1
            self._keep(sent.name, answer)

    async def _vanish(self, connection: Connection, chance: Random) -> None:
        """Leave while the server reads, waits, computes or answers."""
        how = chance.choice(LEAVING)
        request = self.mix.draw(chance, self._asked)
        while how == "in the stream" and request.kind != "chat stream":
            request = self.mix.draw(chance, self._asked)
        if how == "half a request":
            await connection.send_part("POST", request.path, request.body, chance.random())
        else:
            await connection.send("POST", request.path, request.body)
        if how == "while it waits":
            await asyncio.sleep(chance.random())
        elif how == "in the stream":
            status, _ = await connection.head()
            for _ in range(chance.randint(1, 5) if status == 200 else 0):
                await connection.chunk()
        connection.abort()
        self.told.vanished[how] += 1

    def _keep(self, name: str, answer) -> None:
        if len(self.told.examples) < 20:
            self.told.examples.append(f"{name}: {answer.status} {answer.body[:300]!r}")
