"""What a checkpoint without a hint costs, beside an empty loop and the same test on a memoryview in Python.

``python checkpoint.py SOCKET [ROUNDS]`` registers with the agent there and prints JSON: ns per round of each arm's loop,
loop by loop. The order of the arms is reversed every round; `empty_again` is the noise floor.
"""

import json
import sys
import time

import morpheus

LOOP = 10_000
view = memoryview(bytearray(4096)).cast("I")


def empty() -> float:
    rounds = range(LOOP)
    start = time.perf_counter_ns()
    for _ in rounds:
        pass
    return (time.perf_counter_ns() - start) / LOOP


def checkpoint() -> float:
    rounds = range(LOOP)
    call = morpheus.checkpoint
    start = time.perf_counter_ns()
    for _ in rounds:
        call()
    return (time.perf_counter_ns() - start) / LOOP


def hint_pending() -> float:
    rounds = range(LOOP)
    call = morpheus.hint_pending
    start = time.perf_counter_ns()
    for _ in rounds:
        if call():
            pass
    return (time.perf_counter_ns() - start) / LOOP


def memoryview_inlined() -> float:
    rounds = range(LOOP)
    words = view
    start = time.perf_counter_ns()
    for _ in rounds:
        if words[16] != words[32]:
            pass
    return (time.perf_counter_ns() - start) / LOOP


def main() -> None:
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    arms = [empty, checkpoint, hint_pending, memoryview_inlined]
    samples: dict[str, list[float]] = {arm.__name__: [] for arm in arms} | {"empty_again": []}
    with morpheus.register("bench", socket=sys.argv[1], required=True) as worker:
        for turn in range(rounds):
            for arm in arms if turn % 2 == 0 else reversed(arms):
                samples[arm.__name__].append(arm())
            samples["empty_again"].append(empty())
        attached = worker.attached
    if not attached:
        sys.exit("the agent went away")
    json.dump(samples, sys.stdout)


if __name__ == "__main__":
    main()
