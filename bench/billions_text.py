"""The words of docs/billions.md; `python -m bench.billions` puts the numbers in."""

TEXT = """# {items} items

What it takes to embed a collection of this size, to keep the vectors, and to search them. Written by

    python -m bench.billions                 # --help: every assumption is an option

from result files; nothing is typed by hand. Three kinds of numbers are kept apart: **measured** (with the command that measures again), **calculated** (bounds of a machine, not measured), and **assumed** (the last table). How such a run is started: [clusters_ray.md](clusters_ray.md).

## Embedding

Measured at the shape of the 2B model, bfloat16 (`python -m bench --json bench/results/cpu.json`; how the parts are put together: `bench/engine/composed.py`). An item is one picture and a short text; in gen mode the answer has 96 tokens on average.

{measured}

The same {items} items on other machines. These rows are not measured:

{others}
{gpu}
If you know what one of your machines does (`umer1 embed --engine ray` shows items/s while it runs; divide by the workers):

{plain}

* Machines do not talk to each other, so machine-days divide by their number: what a worker gets is the description of a shard, what it gives back a receipt. A shard costs, besides its items, one read of its rows, one file written and flushed, and one task of Ray.
* For both vectors of an item use `--mode both`: the disc vector comes from gen's own prefill. Two runs pay for the tower twice.
* Decoding and resizing of pictures are not in the rows that are not measured: they are work for the CPUs beside a GPU, and hundreds of pictures per second want several cores each.
* A killed worker loses at most one shard: {assumed.shard_items} items. On machines that are taken away every few hours choose `--shard-items` so that a shard takes minutes.

## Storage

Vectors of {items} items in both modes, {files} files of about {file_mb} MB (`--shard-items {assumed.shard_items}`):

{storage}

The inputs themselves are not in this table, and are read once: a picture of 100 kB each is 100 TB for 10⁹ of them. Float32 is what the model gives; an index keeps what it needs (below) and the files can be read again to build another one.

## Search

Measured: {search_on}, `{search_command}`. Times are of one core. Vectors are made up (the module says how), so recall compares types and settings, not models.

{searched}

Calculated from it for {items} items, whole collections in memory. Exact search is bound by reading: {flat_gbs} GB/s per core. IVF-PQ: {cell_ns} ns for each centroid and {code_ns} ns for each code, 4·√n cells. HNSW: a line over log n, fitted to the sizes above. Other dimensions: in proportion. {short} numbers per vector are for checkpoints that were trained for them (Matryoshka).

{index}

* Recall at this size is not measured and will be lower than above for the same number of probes: a probe sees a smaller share of the cells. Raise the probes until the recall on a sample with known answers is enough; the time grows with them.
* Exact search counts one query at a time, each reading everything, at most {memory_gbs} GB/s per machine. Queries that are asked together share the reading.
* HNSW over {items} float32 vectors is memory that nothing else can use. It is the right type for each of many parts, up to some 10⁷ vectors, when latency matters most.
* IVF-PQ is what fits: the codes are in memory, and the candidates' exact vectors are read from disk (100 of them per query, {candidate_kb} kB at {full} dimensions).
* Parts. No single index is needed: cut the collection into parts of 10⁷ to 10⁸, one or several per machine, ask all, and merge the best. Time per query and core is then that of a part times the parts, and building is as parallel as embedding. The machines in the table hold for both ways.
* Both modes are two indexes: twice the memory and twice the time.

## Assumptions

{assumptions}

`cores_embed` scales the measured rate of {assumed.threads} cores in proportion, which is the best case: tower and prefill are bound by products and do scale, decode steps read all weights and share the memory's bandwidth. `memory_gb` is {memory} GB of one machine, all of it for the index. `answer_bytes` counts four bytes for a token.
"""

NO_GPU = """
No GPU has been measured yet. The rows of the H200 are {share:.0f} % of what bounds it: {products:.0f} TFLOP/s of products for tower and prefill, {bandwidth:.1f} TB/s for decode steps of {assumed.batch} rows at {assumed.context} tokens of context. Measured rows take their place as soon as a result file in bench/results holds `engine_generate` on CUDA.
"""
