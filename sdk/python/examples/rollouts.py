#!/usr/bin/env python3
"""Rollouts as a trainer makes them: a policy proposes programs, sandboxes run them, a verifier gives rewards.

The policy here draws from a few shell programs, right and wrong ones, so that all outcomes are seen. A task is a file of
numbers whose sum is wanted; images are used in turn, and need nothing but `sh`.

    rollouts.py --proxy 127.0.0.1:7180 --image registry.example/python-data:1 --image registry.example/python-data:2
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import random
import statistics
import sys
import time
from dataclasses import dataclass

import lamina

# What the policy may say, and how likely it is to: two are right.
PROGRAMS = {
    "loop": (4, 'sum=0; while read -r n; do sum=$((sum + n)); done < numbers; echo "$sum" > answer'),
    "expression": (3, 'echo "$(( $(tr "\\n" "+" < numbers) 0 ))" > answer || exit 3'),
    "first line only": (2, 'read -r n < numbers; echo "$n" > answer'),
    "crash": (1, "echo no idea >&2; exit 3"),
    "no answer": (1, "exit 0"),
    "endless": (1, "while :; do :; done"),
}


@dataclass
class Rollout:
    """One attempt at one task in one sandbox."""

    image: str
    outcome: str
    reward: float
    startup: float
    seconds: float


def propose(dice: random.Random) -> str:
    """The policy: a program."""
    weights = [weight for weight, _ in PROGRAMS.values()]
    return PROGRAMS[dice.choices(list(PROGRAMS), weights)[0]][1]


def verify(done: lamina.Completed, expected: int) -> tuple[str, float]:
    """The verifier: what became of a program, and its reward."""
    if done.reason is lamina.EndReason.TIMED_OUT:
        return "timed out", 0.0
    if not done.ok:
        return "failed", 0.0
    answer = done.files.get("/work/answer", b"").strip()
    return ("right", 1.0) if answer == str(expected).encode() else ("wrong", 0.0)


async def rollout(client: lamina.AsyncClient, image: str, number: int, options: argparse.Namespace) -> Rollout:
    """Draws a task and a program, runs it, and verifies what it left."""
    dice = random.Random(options.seed * 1_000_000 + number)
    numbers = [dice.randrange(1000) for _ in range(dice.randrange(2, 50))]
    # Where `tr` is missing the program fails, which is an outcome like others.
    files = {"/work/numbers": "".join(f"{n}\n" for n in numbers), "/work/program": propose(dice)}
    began = time.monotonic()
    done = await client.run(
        image,
        entrypoint=["sh"],
        command=["/work/program"],
        workdir="/work",
        files=files,
        outputs=["/work/answer"],
        memory_mb=options.memory_mb,
        timeout=options.timeout,
        start_timeout=600,
    )
    outcome, reward = verify(done, sum(numbers))
    return Rollout(image, outcome, reward, done.usage.startup, time.monotonic() - began)


async def collect(options: argparse.Namespace) -> list[Rollout]:
    """All rollouts, so many at a time."""
    places = asyncio.Semaphore(options.parallel)
    async with lamina.AsyncClient(options.proxy, tls=options.tls) as client:

        async def one(number: int) -> Rollout:
            async with places:
                return await rollout(client, options.image[number % len(options.image)], number, options)

        return await asyncio.gather(*(one(number) for number in range(options.rollouts)))


def table(rollouts: list[Rollout]) -> str:
    """A line for each image, and one for all."""
    by_image: dict[str, list[Rollout]] = collections.defaultdict(list)
    for each in rollouts:
        by_image[each.image].append(each)
    outcomes = ["right", "wrong", "failed", "timed out"]
    rows = [["image", "rollouts", "reward", *outcomes, "start p50 ms", "p50 ms"]]
    for name, group in [*sorted(by_image.items()), ("all", rollouts)]:
        counts = collections.Counter(each.outcome for each in group)
        reward = statistics.mean(each.reward for each in group)
        times = [statistics.median(times) * 1000 for times in zip(*((each.startup, each.seconds) for each in group), strict=True)]
        rows.append(
            [name, str(len(group)), f"{reward:.2f}", *(str(counts[one]) for one in outcomes), *(f"{ms:.1f}" for ms in times)]
        )
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines: list[str] = []
    for name, *cells in rows:
        lines.append("  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))]))
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """0 when every rollout has an outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxy", help="HOST:PORT; unless given, LAMINA_PROXY or this machine's")
    parser.add_argument("--tls", help="directory of ca.crt, tls.crt and tls.key")
    parser.add_argument("--image", action="append", required=True, help="repeat it; used in turn")
    parser.add_argument("--rollouts", type=int, default=200)
    parser.add_argument("--parallel", type=int, default=64)
    parser.add_argument("--memory-mb", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds for each program")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(words)
    began = time.monotonic()
    rollouts = asyncio.run(collect(options))
    seconds = time.monotonic() - began
    print(table(rollouts))
    print(f"{len(rollouts)} rollouts in {seconds:.1f} s, {len(rollouts) / seconds:.1f} a second")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
