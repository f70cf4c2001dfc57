"""What docstrings say of settings is read off them."""

import sys

from topwork.experiment.docstrings import attributes_of, summary_of


class Base:
    """Settings of something,
    in two lines.

    More about it.

    Attributes:
        width: how wide it is,
            in columns: from 1.
        low, high: bounds.

    Raises:
        ValueError: it is not wide.
    """


class Derived(Base):
    """Settings of something else.

    Attributes:
        width: something else.
    """


class Silent(Base):
    pass


def test_the_summary_is_the_first_paragraph_in_one_line() -> None:
    assert summary_of(Base) == "Settings of something, in two lines."
    assert summary_of(Silent) == ""
    assert summary_of(sys.modules[__name__]) == "What docstrings say of settings is read off them."


def test_attributes_are_read_with_all_their_lines() -> None:
    assert attributes_of(Base) == {
        "width": "how wide it is, in columns: from 1.",
        "low": "bounds.",
        "high": "bounds.",
    }


def test_a_class_says_more_of_what_its_bases_have() -> None:
    assert attributes_of(Derived) == attributes_of(Base) | {"width": "something else."}
    assert attributes_of(Silent) == attributes_of(Base)
