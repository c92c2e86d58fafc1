"""umer1 doctor"""

import typer

from umer1.cli.output import JsonOption


def doctor(json: JsonOption = False) -> None:
    """Show what works on this machine, and why the rest does not.

    Versions, devices, CPU features, kernel backends, the compiled extension, the packing planner,
    optional packages, the bundled model. Ends with status 1 when something that umer1 cannot do without is broken.

    \b
    Examples:
      umer1 doctor
      umer1 doctor --json > machine.json
    """
    from umer1.cli.diagnosis import diagnose
    from umer1.cli.output import print_json

    found = diagnose()
    if json:
        print_json(found)
    else:
        _show(found)
    if found["problems"]:
        raise typer.Exit(1)


def _show(found):
    for title, section in found.items():
        if title == "problems":
            continue
        typer.echo(title.replace("_", " "))
        width = max(map(len, section), default=0)
        for name, value in section.items():
            typer.echo(f"  {name:<{width}}  {_text(value)}")
        typer.echo()
    for problem in found["problems"]:
        typer.echo(f"problem: {problem}")
    if not found["problems"]:
        typer.echo("everything that umer1 needs is there")


def _text(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)
