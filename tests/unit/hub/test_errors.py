"""What errors of the hub's libraries mean, where only their words say it."""

from terse.hub.errors import explain


def test_a_dataset_that_is_out_of_reach_is_no_broken_transfer() -> None:
    offline = ConnectionError("Couldn't reach 'a/b' on the Hub (LocalEntryNotFoundError)")
    assert str(explain(offline, "dataset", "a/b", "main")).startswith("cannot reach the hub at ")
    broken = ConnectionError("the other side closed the connection")
    assert "broke off" in str(explain(broken, "dataset", "a/b", "main"))
