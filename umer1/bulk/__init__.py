"""Very large collections, shard by shard: what any scheduler of many workers needs, and none of them.

inputs   files -> shards, the same ones every time
rows     a line of JSON or a row of parquet -> (id, item)
run      what is being computed, and where its files lie
worker   one shard -> one file
"""

from umer1.bulk.inputs import Shard
from umer1.bulk.run import Run
from umer1.bulk.worker import Receipt, ShardWorker

__all__ = ["Receipt", "Run", "Shard", "ShardWorker"]
