"""Append made-up rows to a shard until there are as many as asked for, a batch at a time."""

import pathlib
import sys

from experiments.harness import records, shards


def row(number):
    key = f"random/{number}"
    return records.Record(
        key, "a.jpg", "random", 1, (-0.5, -1.0), -0.1, 7, "é" * 50, 3, "4A==", "0" * 16
    )


folder, total = pathlib.Path(sys.argv[1]), int(sys.argv[2])
shard = shards.Shard(folder)
done = set(records.read_records(folder))
missing = [row(number) for number in range(total) if f"random/{number}" not in done]
for begin in range(0, len(missing), 4):
    shard.append(missing[begin : begin + 4])
shard.close()
