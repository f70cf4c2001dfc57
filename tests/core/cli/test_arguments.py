"""What several commands take is declared once, with a help text each."""

from typer.models import ArgumentInfo, OptionInfo

from topwork.cli import arguments


def test_every_argument_says_what_it_is() -> None:
    declared = {name: one for name, one in vars(arguments).items() if hasattr(one, "__metadata__")}
    assert len(declared) > 9
    for name, one in declared.items():
        (info,) = one.__metadata__
        assert isinstance(info, ArgumentInfo | OptionInfo), name
        assert info.help, name
