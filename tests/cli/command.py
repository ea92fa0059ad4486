"""Calls of the command line in the process of the test."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout

from softmix.cli import main


def call(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `softmix ARGUMENTS`."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


def refused(*arguments: object) -> str:
    """The error of a command that must end with exit code 2 and no traceback."""
    code, out, err = call(*arguments)
    assert code == 2, (code, out, err)
    assert err.strip() and "Traceback" not in err
    return err
