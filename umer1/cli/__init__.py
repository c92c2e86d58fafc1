"""The `umer1` command. One file per command; what is heavy is imported when a command runs."""

import os
import sys

# errors of input and environment: one line for the user; others are defects and keep a traceback
EXPECTED = (ValueError, TypeError, OSError, ModuleNotFoundError, FloatingPointError)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 (failed), 2 (wrong usage), 130
    (interrupted).

    UMER1_DEBUG=1 shows the traceback of expected errors too.
    """
    from umer1.cli.app import app
    from umer1.cli.output import error

    try:
        status = app(args=arguments, prog_name="umer1", standalone_mode=True)
    except SystemExit as stop:
        status = stop.code
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        # the reader (head, less) has seen enough; nothing more can be written, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except EXPECTED as problem:
        if os.environ.get("UMER1_DEBUG"):
            raise
        hint = " (UMER1_DEBUG=1 shows where)" if isinstance(problem, TypeError) else ""
        error((str(problem) or type(problem).__name__) + hint)
        status = 1
    return status if isinstance(status, int) else 0
