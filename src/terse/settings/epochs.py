"""Training lengths given as n_epochs, of n_train_loops steps each or of the whole corpus."""

from typing import Any


def steps_of_epochs(raw: Any) -> Any:
    """Return a run's raw settings with max_steps = n_epochs x n_train_loops if these are given.

    It is then validated after each epoch, unless eval_interval says otherwise. n_epochs alone are
    epochs, passes over the corpus. Raises ValueError if max_steps or epochs disagrees.
    """
    if not isinstance(raw, dict):
        return raw
    epochs, loops = raw.get("n_epochs"), raw.get("n_train_loops")
    if epochs is None and loops is None:
        return raw
    if loops is None:
        if raw.get("epochs") not in (None, epochs):
            raise ValueError(f"n_epochs {epochs} and epochs {raw['epochs']} differ: give one")
        return {key: value for key, value in raw.items() if key != "n_epochs"} | {"epochs": epochs}
    if not isinstance(epochs, int) or not isinstance(loops, int):
        raise ValueError("n_train_loops, the steps of an epoch, needs n_epochs; both are integers")
    if raw.get("max_steps") not in (None, epochs * loops):
        raise ValueError(
            f"max_steps {raw['max_steps']} is not n_epochs x n_train_loops = {epochs * loops}"
        )
    return {"eval_interval": loops, **raw, "max_steps": epochs * loops}
