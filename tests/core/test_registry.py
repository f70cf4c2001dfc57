"""Plugins are found through entry points; what is wrong with one is said and hurts no other."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import topwork
import topwork.registry
from topwork.errors import PluginError
from topwork.registry import Registry, check_settings, discover
from topwork_plugins.heads.binary import BinaryConfig

Install = Callable[..., None]

HEAD = '''
    from typing import Literal
    import topwork

    class MyHeadConfig(topwork.HeadConfig):
        """A head that a test needs."""

        kind: Literal["{kind}"] = "{kind}"

        def build(self, width, labels):
            raise NotImplementedError
'''
REGISTER = """
    @topwork.hookimpl
    def register_heads(register):
        register(MyHeadConfig)
"""


def head(kind: str, more: str = REGISTER) -> str:
    """The source of a plugin module with a head of a kind."""
    return dedent(HEAD).format(kind=kind) + dedent(more)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package of one plugin module, as far as Python's import system can tell."""
    known = set(sys.modules)
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def install_package(package: str, code: str, *, entry: str = "", version: str = "0.1", module: str = "") -> None:
        module = module or package.replace("-", "_")
        (site / f"{module}.py").write_text(code)
        metadata = site / f"{package.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text(f"[topwork]\n{entry or package} = {module}\n")
        importlib.invalidate_caches()

    yield install_package
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(site)):
            del sys.modules[name]


def kinds(registry: Registry) -> list[tuple[str, str]]:
    return [(plugin.interface, plugin.kind) for plugin in registry.plugins()]


def problem(registry: Registry) -> str:
    """The only problem there is."""
    assert len(registry.problems) == 1, registry.problems
    return registry.problems[0]


SHIPPED = [
    ("backbone", "auto"),
    ("backbone", "distilbert"),
    ("backbone", "minilm"),
    ("pooling", "attention"),
    ("pooling", "cls"),
    ("pooling", "concat_layers"),
    ("pooling", "last"),
    ("pooling", "layer_mix"),
    ("pooling", "max"),
    ("pooling", "mean"),
    ("pooling", "weighted_mean"),
    ("head", "binary"),
    ("head", "classification"),
    ("head", "multilabel"),
    ("head", "ordinal"),
    ("head", "regression"),
    ("head", "similarity"),
    ("head", "tagging"),
    ("freeze strategy", "all"),
    ("freeze strategy", "all_except"),
    ("freeze strategy", "bitfit"),
    ("freeze strategy", "embeddings_only_frozen"),
    ("freeze strategy", "gradual"),
    ("freeze strategy", "last_layers"),
    ("freeze strategy", "layer_norms"),
    ("freeze strategy", "lora"),
    ("freeze strategy", "none"),
    ("optimizer grouping", "by_pattern"),
    ("optimizer grouping", "heads_and_backbone"),
    ("optimizer grouping", "layerwise_decay"),
    ("optimizer grouping", "uniform"),
    ("sampler", "proportional"),
    ("sampler", "round_robin"),
    ("sampler", "temperature"),
    ("sampler", "uniform"),
    ("sampler", "weighted"),
    ("loss weighting", "dynamic_average"),
    ("loss weighting", "fixed"),
    ("loss weighting", "torchjd"),
    ("loss weighting", "uncertainty"),
]


def test_the_shipped_plugins_are_found_without_a_problem() -> None:
    registry = discover()
    assert kinds(registry) == SHIPPED
    assert registry.problems == []


def test_without_entry_points_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topwork.registry, "entry_points", lambda group: [])
    registry = discover()
    assert kinds(registry) == []
    assert registry.problems == []
    with pytest.raises(ValueError, match=r"^no head of kind 'binary' is installed") as caught:
        registry.heads.parse({"kind": "binary"}, problems=registry.problems)
    assert "none" in str(caught.value)


def test_nothing_is_kept_between_calls(install: Install) -> None:
    before = discover()
    install("acme-heads", head("acme"))
    assert ("head", "acme") in kinds(discover())
    assert ("head", "acme") not in kinds(before)


def test_a_third_party_plugin_is_found_and_attributed_to_its_package(install: Install) -> None:
    install("acme-heads", head("acme"), version="3.2.1")
    registry = discover()
    plugin = registry.heads.plugins["acme"]
    assert (plugin.interface, plugin.kind, plugin.package, plugin.version) == ("head", "acme", "acme-heads", "3.2.1")
    assert registry.problems == []
    assert isinstance(registry.heads.parse({"kind": "acme"}, problems=[]), plugin.config)


def test_one_module_may_register_several_plugins(install: Install) -> None:
    more = """
        class Second(MyHeadConfig):
            kind: Literal["second"] = "second"

        @topwork.hookimpl
        def register_heads(register):
            register(MyHeadConfig)
            register(Second)
    """
    install("acme", head("first", more))
    registry = discover()
    assert {"first", "second"} <= registry.heads.plugins.keys()
    assert registry.problems == []


BROKEN = {
    "a broken import": ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    "a syntax error": ("def\n", "SyntaxError: invalid syntax"),
    "an error at import": ("raise RuntimeError('first line\\nsecond line')\n", "RuntimeError: first line"),
    "an error without a word at import": ("raise RuntimeError\n", "is broken: RuntimeError"),
    "an exit without a word at import": ("raise SystemExit\n", "is broken: SystemExit"),
    "a refusal without a word at import": ("import topwork\nraise topwork.PluginError\n", "is broken: PluginError"),
    "an exit at import": ("raise SystemExit('bye')\n", "SystemExit: bye"),
    "a misspelt hook": (
        head("acme", "@topwork.hookimpl\ndef register_haeds(register): ..."),
        "unknown hook 'register_haeds'",
    ),
    "a wrong hook argument": (
        head("acme", "@topwork.hookimpl\ndef register_heads(registrar): ..."),
        "'registrar'",
    ),
    "no hook argument": (head("acme", "@topwork.hookimpl\ndef register_heads(): ..."), "register_heads() got an unex"),
    "a missing hookimpl": (
        head("acme", "def register_heads(register): register(MyHeadConfig)"),
        "it registers nothing; is a hook missing its @topwork.hookimpl?",
    ),
    "a newer interface": (
        head("acme") + "\nTOPWORK_INTERFACE = 2\n",
        "it was written for interface 2, this topwork has interface 1",
    ),
    "an interface that is a text": (
        head("acme") + "\nTOPWORK_INTERFACE = '1'\n",
        "TOPWORK_INTERFACE must be a whole number such as 1, got '1'",
    ),
    "another default type of torch": (
        head("acme") + "\nimport torch\ntorch.set_default_dtype(torch.float64)\n",
        "it changes torch's default dtype from torch.float32 to torch.float64",
    ),
    "a kind without a Literal": (
        head("acme").replace('kind: Literal["acme"]', "kind: str"),
        'MyHeadConfig needs a field like `kind: Literal["x"] = "x"`',
    ),
    "a kind without a default": (
        head("acme").replace(' = "acme"', ""),
        'MyHeadConfig needs a field like `kind: Literal["x"] = "x"`',
    ),
    "an abstract config": (head("acme").replace("def build", "def bild"), "MyHeadConfig does not implement build"),
    "a config of another interface": (
        head("acme").replace("register_heads", "register_poolings"),
        "a pooling must be a subclass of PoolingConfig, got MyHeadConfig",
    ),
    "an object instead of a class": (
        head("acme").replace("register(MyHeadConfig)", "register(MyHeadConfig())"),
        "a head must be a subclass of HeadConfig, got MyHeadConfig(kind='acme')",
    ),
    "a hook that raises half-way": (
        head("acme", REGISTER + "        raise KeyError('half-way')\n"),
        "KeyError: 'half-way'",
    ),
}


@pytest.mark.parametrize(("code", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_reported_with_its_package_and_reason(install: Install, code: str, reason: str) -> None:
    install("acme", code)
    message = problem(discover())
    assert message.startswith("plugin 'acme' of package acme 0.1 is broken: ")
    assert reason in message


@pytest.mark.parametrize("code", [code for code, _ in BROKEN.values()], ids=BROKEN)
def test_a_broken_plugin_registers_nothing_and_stops_no_other(install: Install, code: str) -> None:
    install("acme", code)
    install("zenith", head("zenith"))
    assert sorted(kinds(discover())) == sorted([*SHIPPED, ("head", "zenith")])


def test_a_problem_is_one_line(install: Install) -> None:
    install("acme", "raise RuntimeError('first line\\nsecond line')\n")
    assert len(problem(discover()).splitlines()) == 1


def test_a_newer_interface_is_refused_before_its_hooks_run(install: Install, tmp_path: Path) -> None:
    touch = "\nTOPWORK_INTERFACE = 2\n@topwork.hookimpl\ndef register_heads(register): open('ran', 'w').close()\n"
    install("acme", head("acme", touch))
    discover()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("modules", [("acme", "zenith"), ("acme", "acme")], ids=["other modules", "the same module"])
def test_two_packages_with_one_entry_point_name_both_lose(install: Install, modules: tuple[str, str]) -> None:
    for package, module in zip(("acme", "zenith"), modules, strict=True):
        install(package, head(module), entry="our.head", module=module)
    registry = discover()
    assert problem(registry) == "several packages offer a plugin named 'our.head': acme 0.1 and zenith 0.1"
    assert kinds(registry) == SHIPPED


def test_two_plugins_of_one_kind_both_lose(install: Install) -> None:
    install("acme", head("twin"))
    install("zenith", head("twin"))
    registry = discover()
    assert problem(registry) == "head 'twin' is offered more than once: by acme and zenith"
    assert kinds(registry) == SHIPPED
    with pytest.raises(ValueError) as caught:
        registry.heads.parse({"kind": "twin"}, problems=registry.problems)
    assert (
        str(caught.value)
        == "head 'twin' is offered more than once: by acme and zenith; remove one of them, or give it another kind"
    )


def test_a_shipped_kind_has_no_privilege(install: Install) -> None:
    install("acme", head("binary"))
    registry = discover()
    assert problem(registry) == "head 'binary' is offered more than once: by acme and topwork"
    assert "binary" not in registry.heads.plugins


def test_three_plugins_of_one_kind_are_one_problem(install: Install) -> None:
    for package in ("acme", "middle", "zenith"):
        install(package, head("triplet"))
    registry = discover()
    assert problem(registry) == "head 'triplet' is offered more than once: by acme and middle and zenith"
    assert kinds(registry) == SHIPPED


def test_one_kind_twice_in_one_package_does_not_blame_several(install: Install) -> None:
    install("acme", head("twice", REGISTER + "        register(MyHeadConfig)\n"))
    registry = discover()
    assert "twice" not in registry.heads.plugins
    assert "several packages" not in problem(registry)


def test_the_same_kind_in_two_interfaces_is_no_conflict(install: Install) -> None:
    install("acme", head("cls"))
    registry = discover()
    assert registry.problems == []
    assert "cls" in registry.heads.plugins
    assert "cls" in registry.poolings.plugins


def test_a_missing_kind_names_the_nearest_and_the_problems(install: Install) -> None:
    install("acme", "import no_such_module\n")
    registry = discover()
    with pytest.raises(ValueError) as caught:
        registry.heads.parse({"kind": "binery"}, problems=registry.problems)
    message = str(caught.value)
    assert message.startswith("no head of kind 'binery' is installed")
    assert "binary, classification" in message
    assert "did you mean binary?" in message
    assert problem(registry) in message


@pytest.mark.parametrize("raw", ["binary", 3, None, [], {}, {"hidden": []}], ids=repr)
def test_an_entry_without_a_kind_is_explained(raw: object) -> None:
    with pytest.raises(ValueError) as caught:
        discover().heads.parse(raw, problems=[])
    assert str(caught.value) == "a head is a mapping with a kind, such as {kind: binary}"


def test_the_article_fits_the_interface() -> None:
    with pytest.raises(ValueError, match=r"^an optimizer grouping is a mapping with a kind"):
        discover().optimizer_groupings.parse({}, problems=[])


@pytest.mark.parametrize("kind", [["binary"], {"a": 1}, 3, None], ids=repr)
def test_a_kind_that_is_no_text_is_not_installed(kind: object) -> None:
    with pytest.raises(ValueError, match=r"^no head of kind .* is installed"):
        discover().heads.parse({"kind": kind}, problems=[])


def test_an_entry_becomes_the_config_of_its_kind() -> None:
    parsed = discover().heads.parse({"kind": "binary", "hidden": [7]}, problems=[])
    assert parsed == BinaryConfig(hidden=(7,))


class UnwritableConfig(BinaryConfig):
    """Settings of which one may be anything."""

    extra: Any = None


@pytest.mark.parametrize("value", [len, b"\xff", object()], ids=["function", "bytes", "object"])
def test_settings_that_cannot_be_written_are_refused(value: object) -> None:
    with pytest.raises(PluginError, match=r"plugin 'binary' of .*its settings must be written as JSON and read again"):
        check_settings(UnwritableConfig(extra=value))
    check_settings(UnwritableConfig(extra=[1, "a"]))
