"""The matrix as a figure: coloured where a gain can be told from 0."""

import math

from topwork.lab.study.transfer_figure import MAX_WRITTEN, draw_transfer
from topwork.lab.study.transfer_result import ALL
from transfer_helpers import GAINS, gain, result_of


def test_each_cell_has_its_number_and_sure_ones_are_bold() -> None:
    axes = draw_transfer(result_of(GAINS)).axes[0]
    written = {(text.get_position(), text.get_text(), text.get_fontweight()) for text in axes.texts}
    assert written == {((1, 0), "+0.100", "bold"), ((0, 1), "-0.100", "bold"), ((3, 0), "+0.010", "normal")}
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a", "b", "c", ALL]
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"{task} (accuracy)" for task in "abc"]


def test_colours_are_even_on_both_sides_of_0() -> None:
    colors = draw_transfer(result_of(GAINS)).axes[0].images[1]
    assert colors.get_clim() == (-0.1, 0.1)
    assert math.isnan(colors.get_array().filled(math.nan)[0, 3])


def test_without_anything_sure_there_is_no_colour_bar() -> None:
    assert len(draw_transfer(result_of({("a", "b"): gain(0.1, -0.1, 0.3)})).axes) == 1


def test_many_tasks_have_no_numbers_in_their_cells() -> None:
    tasks = tuple(f"task_{number}" for number in range(MAX_WRITTEN + 1))
    result = result_of({(tasks[0], tasks[1]): gain(0.1, 0.02, 0.2)}, tasks)
    assert list(draw_transfer(result).axes[0].texts) == []
