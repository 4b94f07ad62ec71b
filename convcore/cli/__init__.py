"""The command ``convcore``: whatever goes wrong is one red sentence on stderr and exit status 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; those of the process by default.
    """
    sys.exit(_run(sys.argv[1:] if arguments is None else list(arguments)))


def _run(arguments: list[str]) -> int:
    debug = False
    try:
        from convcore.cli.commands import app
        from convcore.config import parse_bool

        debug = parse_bool("CONVCORE_DEBUG", os.environ.get("CONVCORE_DEBUG", "0"))
        return app(arguments or ["--help"], prog_name="convcore", standalone_mode=False) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has heard enough; the flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        return _complain(error)


def _complain(error: Exception) -> int:
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRA_OF:
        message = f'this command needs {error.name}: pip install "convcore[{_EXTRA_OF[error.name]}]"'
    elif hasattr(error, "format_message"):  # a wrong option or argument
        message = f"{error.format_message().rstrip('.')} (see convcore --help)"
    else:
        message = str(error) or type(error).__name__
    colours = ("\033[31m", "\033[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    print(f"{colours[0]}convcore: {message}{colours[1]}", file=sys.stderr)
    return 2


_EXTRA_OF = {
    "PIL": "cli",
    "hypothesis": "testing",
    "kernel_tuner": "tune",
    "matplotlib": "demo",
    "png": "cli",
    "pytest": "testing",
    "rich": "cli",
    "scipy": "learn",
    "skimage": "demo",
    "sklearn": "learn",
    "typer": "cli",
}
