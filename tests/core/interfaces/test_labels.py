"""Label spaces are equal where what their targets mean is the same."""

from topwork.interfaces.labels import Classes, LabelSet, Numbers


def test_how_often_a_name_occurs_makes_no_other_label_space() -> None:
    assert Classes(("a", "b"), counts=(1, 2)) == Classes(("a", "b"), counts=(5, 0))
    assert LabelSet(("a", "b"), counts=(1, 2)) == LabelSet(("a", "b"))
    assert Numbers(("x",), mean=(0.0,), scale=(1.0,)) == Numbers(("x",), mean=(3.0,), scale=(2.0,))


def test_names_and_their_order_make_another_label_space() -> None:
    assert Classes(("a", "b")) != Classes(("b", "a"))
    assert Classes(("a", "b"), ordered=True) != Classes(("a", "b"))
    assert Classes(("a", "b")) != LabelSet(("a", "b"))
