"""The command works with streams of any encoding, and without a home folder."""

import os
import pwd
import subprocess
import sys

import pytest

from topwork.cli.environment import NO_HOME, ensure_home

SHOW = """\
import sys
from topwork.cli.environment import escape_what_streams_cannot_show
escape_what_streams_cannot_show()
print("caf\\u00e9 \\u6b63\\u9762 \\ud800")
print("mod\\u00e8le", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("encoding", "out", "err"),
    [
        ("ascii", b"caf\\xe9 \\u6b63\\u9762 \\ud800\n", b"mod\\xe8le\n"),
        ("latin-1", b"caf\xe9 \\u6b63\\u9762 \\ud800\n", b"mod\xe8le\n"),
        ("utf-8", "caf\u00e9 \u6b63\u9762 ".encode() + b"\\ud800\n", "mod\u00e8le\n".encode()),
    ],
)
def test_what_a_stream_cannot_show_is_escaped(encoding: str, out: bytes, err: bytes) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    shown = subprocess.run([sys.executable, "-c", SHOW], env=environment, capture_output=True, check=True)
    assert (shown.stdout, shown.stderr) == (out, err)


def test_who_has_no_home_gets_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(user: int) -> None:
        raise KeyError(user)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    ensure_home()
    assert os.environ["HOME"] == NO_HOME


def test_who_has_a_home_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    ensure_home()
    assert os.environ["HOME"] == "/home/somebody"
