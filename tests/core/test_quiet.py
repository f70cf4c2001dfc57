"""Other libraries keep silent where they are asked to, and no longer."""

from transformers.utils import logging

from topwork.quiet import quiet_transformers


def test_transformers_is_quiet_for_a_while_and_then_as_before() -> None:
    before = logging.get_verbosity()
    with quiet_transformers():
        assert logging.get_verbosity() == logging.ERROR
    assert logging.get_verbosity() == before
