"""The 18 characters of problems and chains, one token each."""

import numpy as np
from numpy.typing import NDArray

from terse.errors import TerseError

PAD, NULL, SEPARATOR, EOS = range(4)
SIGNS = "+*/-0123456789"
VOCAB_SIZE = 4 + len(SIGNS)
_IDS = {"=": SEPARATOR} | {sign: 4 + i for i, sign in enumerate(SIGNS)}
_SIGNS = {id: sign for sign, id in _IDS.items()}


def encode(text: str) -> NDArray[np.int64]:
    """Return the tokens (T,) of a text.

    Raises TerseError for a character outside the environment's.
    """
    if unknown := sorted(set(text) - set(_IDS)):
        raise TerseError(f"{unknown[0]!r} is not a character of arithmetic; allowed: = {SIGNS}")
    return np.array([_IDS[sign] for sign in text], dtype=np.int64)


def decode(tokens: NDArray[np.int64]) -> str:
    """Return the text of tokens (T,) before the first EOS, else before the padding on the right.

    One character per token; a token without one (PAD inside, null) becomes `_`.
    """
    ids = tokens.tolist()
    if EOS in ids:
        ids = ids[: ids.index(EOS)]
    else:
        while ids and ids[-1] == PAD:
            ids.pop()
    return "".join(_SIGNS.get(id, "_") for id in ids)
