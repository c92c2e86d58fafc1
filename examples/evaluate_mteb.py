"""A UME-R1 checkpoint under mteb: its mock tasks, which need no network, or any of its tasks by name.

python examples/evaluate_mteb.py                                     # the bundled model, disc mode
python examples/evaluate_mteb.py --model zhibinlan/UME-R1-2B --mode gen --tasks VidoreDocVQARetrieval
"""

import argparse

import mteb

from umer1.integrations.mteb import Umer1Encoder

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="tiny")
parser.add_argument("--mode", default="disc", choices=("disc", "gen"))
parser.add_argument("--tasks", nargs="*", help="names that mteb knows; none: its mock tasks")
arguments = parser.parse_args()

model = Umer1Encoder(arguments.model, mode=arguments.mode)
if arguments.tasks:
    # any batch size gives the same vectors: take what fits in memory
    tasks = mteb.get_tasks(tasks=arguments.tasks)
    results = mteb.evaluate(model, tasks, encode_kwargs={"batch_size": 64})
    for each in results.task_results:
        print(f"{each.task_name}: {each.get_score():.4f}")
else:
    results = mteb.mock_run(model)
    for state, modality, failed in results.modality_summary():
        print(f"{modality}: {state} {failed}".rstrip())
    print("all passed:", results.all_passed)
