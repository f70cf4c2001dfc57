"""A single file registers plugins as a package does; it is read as text, and its code runs once for each text."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plugin_files import HEAD, forget, write_head
from topwork.errors import ConfigurationError, PluginError
from topwork.plugin_file import import_plugin_file, name_of_module, not_trusted, read_plugin_file
from topwork.registry import Registry, discover, package_of, with_files

Write = Callable[..., Path]


def test_a_plugin_file_registers_what_a_package_would(tmp_path: Path) -> None:
    file = read_plugin_file(write_head(tmp_path / "my_head.py"))
    plugin = discover([file]).heads.plugins["shifted"]
    assert (plugin.package, plugin.version, plugin.is_installed) == ("my_head.py", file.sha256[:12], False)
    assert package_of(plugin.config) == "file my_head.py"
    assert "shifted" not in discover().heads.plugins
    assert discover().heads.plugins["binary"].is_installed


def test_equal_text_is_one_module_wherever_it_lies(tmp_path: Path) -> None:
    files = [read_plugin_file(write_head(tmp_path / name, "1.5")) for name in ("one.py", "other.py")]
    assert import_plugin_file(files[0]) is import_plugin_file(files[1])
    changed = read_plugin_file(write_head(tmp_path / "one.py", "2.5"))
    assert import_plugin_file(changed) is not import_plugin_file(files[0])


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    plain = read_plugin_file(write_head(tmp_path / "plain.py"))
    (tmp_path / "marked.py").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "plain.py").read_bytes())
    assert read_plugin_file(tmp_path / "marked.py").sha256 == plain.sha256


def test_files_are_added_to_a_copy_of_a_registry(tmp_path: Path) -> None:
    before = discover()
    after = with_files(before, [read_plugin_file(write_head(tmp_path / "my_head.py"))])
    assert "shifted" in after.heads.plugins
    assert "shifted" not in before.heads.plugins
    assert with_files(after, after.files).heads.plugins.keys() == after.heads.plugins.keys()  # adds none twice


def test_code_runs_only_where_it_is_trusted_or_has_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)
    file = read_plugin_file(write_head(tmp_path / "my_head.py", "3.5"))
    assert not_trusted([file], trusted=False) == "my_head.py (34 lines)"
    assert not_trusted([file], trusted=True) == ""
    import_plugin_file(file)
    assert not_trusted([file], trusted=False) == ""


def test_a_module_of_another_kind_has_no_file_name() -> None:
    assert name_of_module("topwork_plugins.heads.binary") is None
    assert name_of_module("topwork_plugin_file_x") is None


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("head.txt", b"", "a plugin file is a Python file, such as my_head.py, got 'head.txt'; what is installed as a"),
        ("head.py", b"x = '\xff'", "head.py cannot be read: byte 0xff is not UTF-8"),
        ("nowhere.py", None, "nowhere.py cannot be read: No such file or directory"),
        ("null\0.py", None, "is not a path: embedded null byte"),
    ],
)
def test_what_is_no_python_file_is_refused(tmp_path: Path, name: str, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read_plugin_file(tmp_path / name)
    assert told in str(caught.value)


def broken(write: Write, text: str) -> str:
    """What is said of a plugin file with this text."""
    path = write("broken.py", text)
    with pytest.raises(PluginError) as caught:
        discover([read_plugin_file(path)])
    return str(caught.value).replace(str(path), "FILE")


REGISTER = "\n@topwork.hookimpl\ndef register_heads(register):\n    register({})\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import topwork\n\nclass", "plugin file FILE is broken: SyntaxError: invalid syntax (broken.py, line 3)"),
        ("import torhc\n", "plugin file FILE is broken: ModuleNotFoundError: No module named 'torhc' (FILE:1)"),
        (
            "def f():\n    return 1 / 0\n\nf()\n",
            "plugin file FILE is broken: ZeroDivisionError: division by zero (FILE:2)",
        ),
        ("raise SystemExit(3)\n", "plugin file FILE is broken: SystemExit: 3 (FILE:1)"),
        ("import topwork\n", "FILE is broken: it registers nothing; is a hook missing its @topwork.hookimpl?"),
        (
            f"import topwork\n{REGISTER.format('int')}",
            "a head must be a subclass of HeadConfig, got int (FILE:5)",
        ),
        (f"import torch\ntorch.set_default_dtype(torch.float64)\n{HEAD}", "it changes torch's default dtype from"),
    ],
)
def test_what_is_wrong_in_a_plugin_file_is_told_with_its_line(write: Write, text: str, told: str) -> None:
    assert told in broken(write, text)


def test_a_file_that_imports_another_beside_it_is_refused(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    write("own_helper_of_this_test.py", "X = 1\n")
    told = broken(write, f"import own_helper_of_this_test\n{HEAD.replace('BIAS', '7.5')}")
    assert "it imports own_helper_of_this_test from beside it, and only its own text is kept" in told


def test_a_file_that_failed_is_run_again_when_it_is_named_again(tmp_path: Path, write: Write) -> None:
    text = f"import pathlib\nassert pathlib.Path({str(tmp_path / 'there')!r}).exists()\n"
    assert "AssertionError (FILE:2)" in broken(write, text)
    (tmp_path / "there").touch()
    assert "it registers nothing" in broken(write, text)


def test_all_broken_files_are_told_at_once(write: Write) -> None:
    files = [read_plugin_file(write(f"{name}.py", f"raise ValueError('{name}')\n")) for name in ("one", "two")]
    with pytest.raises(PluginError) as caught:
        discover(files)
    assert len(str(caught.value).splitlines()) == 2
    assert not any(file.module in sys.modules for file in files)


def test_a_kind_that_is_taken_is_refused_with_both_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(write_head(path).read_text().replace('"shifted"', '"binary"'))
    with pytest.raises(PluginError) as caught:
        with_files(Registry(), [])
        discover([read_plugin_file(path)])
    assert str(caught.value) == (
        f"plugin file {path}: head 'binary' is offered more than once: by topwork and mine.py; give yours another kind"
    )
