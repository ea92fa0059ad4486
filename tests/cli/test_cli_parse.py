"""Tests of parsing, help and errors of the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import pytest
from command import call
from tyro.conf import Positional, UseAppendAction, arg

import softmix
from softmix import cli
from softmix.cli import main
from softmix.cli.common import Interrupted, UsageError, interrupted
from softmix.cli.outputs import OutputError
from softmix.cli.parse import aliases_of, help_texts, metavar_of, overview, parse
from softmix.cli.verb import Verb
from softmix.data import DataError
from softmix.train import LostProcessError, RunError, StoppedError

HEAVY = ("torch", "numpy", "PIL", "scipy")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        ([], 2),
        (["trian"], 2),
        (["sample", "--help"], 0),
        (["sample"], 2),
        (["sample", "runs/x", "--out", "x.png", "--n", "three"], 2),
        (["sample", "runs/x", "--out", "x.png", "--n", "0"], 2),
        (["sample", "runs/x", "--out", "/proc/x.png"], 2),
        (["edit", "runs/x", "x.png", "--out", "y.png"], 2),
        (["restore", "runs/x", "--out", "y.png"], 2),
        (["restore", "runs/x", "x.png", "--out", "y.png", "--draws", "0"], 2),
        (["repeat", "x.png", "--steps", "0"], 2),
        (["papers", "--out"], 2),
    ],
)
def test_help_and_usage_errors_import_nothing_heavy(words: list[str], code: int) -> None:
    """The import of torch would take seconds and 250 MB."""
    say = (
        "import json, pathlib, sys\nfrom softmix.cli import main\ncode = 0\n"
        f"try:\n    main({words!r})\nexcept SystemExit as end:\n    code = end.code or 0\n"
        "status = pathlib.Path('/proc/self/status')\n"
        "peak = [line for line in status.read_text().splitlines() if 'VmHWM' in line] if status.exists() else []\n"
        f"print(json.dumps([code, [m for m in {HEAVY!r} if m in sys.modules], int((peak or ['x 0'])[0].split()[1])]))"
    )
    done = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, check=True)
    found, heavy, kilobytes = json.loads(done.stdout.splitlines()[-1])
    assert (found, heavy) == (code, [])
    assert kilobytes < 100_000


def test_a_room_is_imported_at_its_first_use() -> None:
    say = (
        "import sys, softmix\nassert 'torch' not in sys.modules\nassert softmix.data.load and softmix.Rng\n"
        "assert softmix.rng.Rng is softmix.Rng and softmix.config.loads and softmix.oracle.gaussian\n"
        "from softmix.train import Config\nimport softmix.train.loop\n"
        "assert softmix.Config is Config\nassert softmix.train.__name__ == 'train' and callable(softmix.train)\n"
        "assert set(softmix.__all__) <= set(dir(softmix))\nfrom softmix import *\nassert training\n"
    )
    subprocess.run([sys.executable, "-c", say], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        softmix.nothing  # noqa: B018


def test_every_public_name_is_there() -> None:
    assert [name for name in softmix.__all__ if getattr(softmix, name, None) is None] == []
    assert softmix.sample is softmix.sampler.sample
    # No module is imported twice under two names.
    assert softmix.load.__module__ == "softmix.train.model"


def test_the_overview_names_every_verb_with_a_sentence() -> None:
    code, out, _ = call("--help")
    assert code == 0
    for verb in cli.VERBS:
        line = next(line for line in out.splitlines() if line.startswith(f"  {verb} "))
        assert len(line.split()) > 3
    assert "Args:" not in out
    assert call() == (2, "", out)
    assert call("-h")[1] == out


def test_the_overview_shows_the_first_sentence_of_a_docstring() -> None:
    class Shown(Verb):
        """Does this (e.g. that) and
        no more. Then the rest.

        And more.
        """

    assert "  shown  Does this (e.g. that) and no more.\n" in overview({"shown": Shown})


@pytest.mark.parametrize("verb", cli.VERBS.values(), ids=cli.VERBS)
def test_each_verb_is_a_frozen_dataclass_with_a_help_for_each_option(verb: type[Verb]) -> None:
    texts = help_texts(verb)
    assert list(texts) == [field.name for field in fields(verb)]
    assert [name for name, text in texts.items() if not text.endswith(".")] == []
    assert verb.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_help_of_a_verb_holds_its_docstring_and_the_help_of_each_option(verb: str) -> None:
    shown = " ".join(re.sub(r"[│╭╰╮╯─]", " ", call(verb, "--help")[1]).split())
    for text in help_texts(cli.VERBS[verb]).values():
        assert text in shown
    assert " ".join((cli.VERBS[verb].__doc__ or "").split()) in shown
    assert f"For example `softmix {verb} " in shown


def test_the_version() -> None:
    code, out, _ = call("--version")
    assert code == 0
    assert out.startswith(f"softmix {softmix.__version__} (Python 3.")
    assert "torch 2." in out


@pytest.mark.parametrize(("said", "meant"), [("trian", "train"), ("evalute", "evaluate"), ("cites", "cite")])
def test_an_unknown_verb_gives_the_nearest_name(said: str, meant: str) -> None:
    code, _, err = call(said)
    assert code == 2
    assert f"did you mean {meant}?" in err
    code, _, err = call("xyz")
    assert code == 2
    assert "there are train, sample" in err
    assert "softmix --help" in err


@pytest.mark.parametrize("words", [["x"], ["x", "--out", "y", "--nn", "3"], ["x", "--out", "y", "--n", "q"]])
def test_a_wrong_word_points_to_the_help_of_its_verb(words: list[str]) -> None:
    code, _, err = call("sample", *words)
    assert code == 2
    assert "softmix sample --help" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["check", "digits", "--size", "32x48"],
            "--size 32x48 was asked for; --size takes one number, and makes squares",
        ),
        (["check", "digits", "--size=32x48"], "--size 32x48 was asked for; --size takes one number"),
        (
            ["train", "digits", "--size", "32", "48", "--out", "x"],
            "--size 32 48 was asked for; --size takes one number",
        ),
        (["train", "--size", "32", "48", "--out", "x"], "--size 32 48 was asked for; --size takes one number"),
        (
            ["train", "digits", "--out", "x", "--minutes", "2min"],
            "--minutes 2min was asked for; it takes a number. See",
        ),
        (["sample", "fashion", "--out", "x.png", "--n", "1.5"], "--n 1.5 was asked for; it takes a whole number"),
        (["sample", "fashion", "--out", "x.png", "--guidance=two"], "--guidance two was asked for; it takes a number"),
    ],
)
def test_a_word_in_place_of_a_number_is_refused(words: list[str], says: str) -> None:
    code, out, err = call(*words)
    assert code == 2
    assert not out
    assert says in err
    assert len(err.splitlines()) == 1
    assert f"See softmix {words[0]} --help" in err


def test_a_folder_whose_name_is_a_number_may_follow_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "48").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "48: pictures were asked for, but there is no file in it" in call("check", "--size", 32, "48")[2]


@pytest.mark.parametrize(
    ("verb", "first"),
    [
        ("train", "[DATA]"),
        ("sample", "RUN"),
        ("edit", "RUN IMAGE"),
        ("restore", "RUN IMAGE|FOLDER"),
        ("cite", "RUN"),
        ("papers", "[NAME]"),
        ("repeat", "PICTURE|RUN"),
    ],
)
def test_an_argument_without_a_name_is_shown_by_its_meaning(verb: str, first: str) -> None:
    usage = call(verb, "--help")[1].split("\n\n")[0]
    assert f" {first}" in usage
    assert "PATH [" not in usage.replace("[--out PATH]", "")


@pytest.mark.parametrize("verb", ["train", "sample", "restore", "edit", "evaluate", "repeat"])
def test_help_shows_no_default_of_none_and_a_plain_list(verb: str) -> None:
    out = " ".join(call(verb, "--help")[1].replace("│", " ").split())
    assert "default: None" not in out
    assert "(default: )" not in out
    assert "[STR [" not in out
    assert ("--set NAME=VALUE ..." in out) == (verb == "train")


def test_options_show_plain_types() -> None:
    out = call("sample", "--help")[1]
    assert "{None}" not in out
    assert "default: None" not in out
    assert "(default: )" not in out
    for option in (
        "--eta FLOAT",
        "--interval FLOAT FLOAT",
        "--sampler STR",
        "--precision {fp32,tf32,bf16,fp16}",
        "--label NAME",
    ):
        assert option in out
    assert "--no-dry-run" not in out


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        (int, "INT"),
        (float | None, "FLOAT"),
        (str | int | None, "STR|INT"),
        (tuple[int, float] | None, "INT FLOAT"),
        (tuple[Path, ...], "PATH [PATH ...]"),
        (Literal["a", "b"], "{a,b}"),
    ],
)
def test_the_shown_name_of_a_type(hint: object, shown: str) -> None:
    assert metavar_of(hint) == shown


@dataclass(frozen=True, kw_only=True)
class Tried(Verb):
    """A verb for the tests below."""

    what: Positional[str]
    """The argument."""
    n: int = 1
    """A number."""
    many: UseAppendAction[tuple[str, ...]] = ()
    """A list that grows."""
    to_class: Annotated[int | None, arg(aliases=("--as-class",))] = None
    """A number that may be missing, with two names."""


def test_options_come_from_words_and_from_defaults() -> None:
    tried = parse(Tried, ["a", "--to-class", "3"])
    assert isinstance(tried, Tried)
    assert (tried.what, tried.n, tried.many, tried.to_class) == ("a", 1, (), 3)


def test_an_option_may_have_a_second_name() -> None:
    tried = parse(Tried, ["a", "--as-class", "3"])
    assert isinstance(tried, Tried) and tried.to_class == 3
    assert aliases_of(Tried) == {"as_class": "to_class"}
    with pytest.raises(UsageError, match="--as-class three was asked for; it takes a whole number"):
        parse(Tried, ["a", "--as-class", "three"])


def test_an_option_is_given_once_but_for_lists_that_grow() -> None:
    tried = parse(Tried, ["a", "--many", "x", "--many", "y"])
    assert isinstance(tried, Tried)
    assert list(tried.many) == ["x", "y"]
    for words in (
        ["--n", "1", "--n", "2"],
        ["--to-class", "1", "--to_class=2"],
        ["--to-class", "1", "--as-class", "2"],
    ):
        with pytest.raises(UsageError, match="given twice"):
            parse(Tried, ["a", *words])


def test_given_options_are_those_that_differ_from_their_default() -> None:
    tried = Tried(what="a", n=2, to_class=0)
    assert tried.given("to_class", "n", "many") == {"to_class": 0, "n": 2}


def test_options_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Tried(what="a").n = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ZeroDivisionError("by zero"), 1, "went wrong in the program itself: ZeroDivisionError: by zero. With --debug"),
        (TypeError("no such thing"), 1, "TypeError"),
        (TypeError("ddim needs a mean"), 2, "softmix: ddim needs a mean"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, "softmix: /x/y: Permission denied"),
        (MemoryError(), 1, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "not enough memory"),
        (OutputError("x was not written"), 1, "softmix: x was not written"),
        (UsageError("say more"), 2, "softmix: say more"),
        (Interrupted("nothing was written"), 130, "softmix: nothing was written"),
        (KeyboardInterrupt(), 130, "softmix: stopped"),
        (RunError("x is not a run"), 2, "softmix: x is not a run"),
        (DataError("x has no images"), 2, "softmix: x has no images"),
        (StoppedError("saved", 15), 143, "softmix: saved"),
        (LostProcessError("said before"), 1, ""),
        (SystemExit(3), 3, ""),
    ],
)
def test_each_error_is_one_sentence_with_its_exit_code(
    error: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Verb) -> None:
        raise error

    monkeypatch.setattr(cli.VERBS["cite"], "__call__", fail)
    found, out, err = call("cite", "x")
    assert (found, out) == (code, "")
    assert says in err
    assert "Traceback" not in err
    assert err.count("\n") <= 1
    if not isinstance(error, SystemExit):
        with pytest.raises(type(error)):
            main(["cite", "--debug", "x"])


def test_ctrl_c_ends_with_the_sentence_of_the_verb() -> None:
    with pytest.raises(Interrupted, match="nothing was written"), interrupted("nothing was written"):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="other"), interrupted("nothing was written"):
        raise ValueError("other")


def test_a_closed_pipe_is_no_error() -> None:
    """The command `softmix papers | head -1`."""
    command = f"{sys.executable} -m softmix papers | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
