"""Steps given as epochs of a fixed number of steps, for users who prefer that."""

from typing import Any


def steps_of_epochs(raw: Any) -> Any:
    """Return a run's raw settings with max_steps = n_epochs x n_train_loops if these are given.

    It is then validated after each epoch, unless eval_interval says otherwise. Raises ValueError if
    only one of them is given, or max_steps disagrees.
    """
    if not isinstance(raw, dict):
        return raw
    epochs, loops = raw.get("n_epochs"), raw.get("n_train_loops")
    if epochs is None and loops is None:
        return raw
    if not isinstance(epochs, int) or not isinstance(loops, int):
        raise ValueError("n_epochs and n_train_loops go together: give both, as integers")
    if raw.get("max_steps") not in (None, epochs * loops):
        raise ValueError(
            f"max_steps {raw['max_steps']} is not n_epochs x n_train_loops = {epochs * loops}"
        )
    return {"eval_interval": loops, **raw, "max_steps": epochs * loops}
