"""The line for a name that is not allowed."""

from terse.errors import MOST_NAMES, unknown_name


def test_all_of_a_few_names_are_listed():
    assert str(unknown_name("key", "lrr", ["steps", "lr"])) == (
        "unknown key 'lrr'; did you mean 'lr'? allowed: lr, steps"
    )
    assert str(unknown_name("key", "x", [])) == "unknown key 'x'; allowed: none"


def test_of_many_names_the_nearest_are_listed():
    names = [f"task-{i}" for i in range(MOST_NAMES)] + ["hellaswag"]
    line = str(unknown_name("task", "hellaswagg", names))
    assert (
        "did you mean 'hellaswag'? allowed: 61 names, of which the nearest are hellaswag, " in line
    )
    assert line.count(",") == 10
