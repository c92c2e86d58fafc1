"""umer1 eval submission"""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.output import JsonOption


def submission(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Output directories of evaluations, together one model; or .json files to read."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the leaderboard's file here.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="Which scores: gen, disc, gen-disc, disc-gen (queries first).")
    ] = "gen",
    pages: Annotated[
        str | None,
        typer.Option(help="Data of the page tasks, where the run does not say: fixed or old."),
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="Name on the leaderboard.")] = None,
    model_backbone: Annotated[str | None, typer.Option(help="For example Qwen2-VL.")] = None,
    model_size: Annotated[str | None, typer.Option(help="For example 2B.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest input in tokens.")] = None,
    release_date: Annotated[str | None, typer.Option(help="Of the model: YYYY-MM-DD.")] = None,
    url: Annotated[str | None, typer.Option(help="Paper, code or weights.")] = None,
    json: JsonOption = False,
) -> None:
    """Write MMEB's leaderboard file from finished runs, or read such files.

    Means are over MMEB-V2's 78 tasks and their groups; an asterisk marks a mean
    that does not cover its group, and what is missing is named. Files to upload
    go to the Hub Space TIGER-Lab/MMEB-Leaderboard.

    \b
    Examples:
      umer1 eval submission runs/2b --model-name UME-R1-2B -o UME-R1-2B.json
      umer1 eval submission runs/image runs/video runs/visdoc --mode disc
      umer1 eval submission ours.json VLM2Vec-V2.0-Qwen2VL-2B.json
    """
    from umer1.cli.output import note, print_json
    from umer1.evaluation.means.collect import collect_submission
    from umer1.evaluation.means.means_table import describe, print_means
    from umer1.evaluation.means.submission import read_submission, write_submission

    read = [path for path in runs if path.suffix == ".json" and not path.is_dir()]
    if read and (len(read) != len(runs) or output is not None):
        raise ValueError("runs: need directories, or .json files to read without --output")
    if output is not None and not model_name:
        raise ValueError("--model-name: the leaderboard's file needs one")
    notes = []
    if read:
        columns = {str(path): read_submission(path) for path in read}
    else:
        gathered, notes = collect_submission(
            runs,
            mode,
            pages=pages,
            model_name=model_name,
            model_backbone=model_backbone,
            model_size=model_size,
            max_length_tokens=max_length,
            model_release_date=release_date,
            url=url,
        )
        columns = {model_name or mode: gathered}
    if output is not None:
        write_submission(output, gathered)
    described = {name: describe(one) for name, one in columns.items()}
    if json:
        print_json({"files": described, "notes": notes})
    else:
        print_means(described)
        for sentence in notes:
            note(sentence)
    if output is not None:
        note(f"the leaderboard's file is {output}")
