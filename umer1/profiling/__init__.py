"""Where the time of a loss, a prefill, decoding or a training step goes, and how near that is to the machine.

`request` (what to profile) -> `workload` (the real thing, ready to run) -> `trace` (operators and kernels that ran) ->
`costs` (bytes and FLOPs of each) and `roofs` (what the machine can do) -> `profile` (rows, stages) -> `table`, `plot`.
"""
