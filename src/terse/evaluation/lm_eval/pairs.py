"""A context and its continuation as tokens, with every character of the continuation scored."""

from collections.abc import Callable

from terse.errors import TerseError

Encode = Callable[[str], list[int]]


def spaces_moved(context: str, text: str) -> tuple[str, str]:
    """Return a pair whose context ends without a space: tokens of words begin with their space."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + text


def joined(encode: Encode, context: str, text: str) -> tuple[int, list[int]]:
    """Return where the continuation begins among the tokens of both, and these tokens.

    Both are encoded together, as text is read. Where a token would span the boundary, the
    continuation is encoded separately: otherwise its first letters, in a token of the context,
    would cost nothing.

    Raises TerseError for a continuation without tokens: its probability would be 1.
    """
    before, whole = encode(context), encode(context + text)
    if whole[: len(before)] != before or len(whole) == len(before):
        whole = before + (inside(encode, text) if text else [])
    if len(whole) == len(before):
        raise TerseError(
            f"a requested continuation has no token, so it has no likelihood: {text!r} "
            f"after {context[-40:]!r}"
        )
    return len(before), whole


def inside(encode: Encode, text: str) -> list[int]:
    """Return a text's tokens inside a longer text: many tokenizers put a space before a start."""
    line = encode("\n")
    behind = encode("\n" + text)
    return behind[len(line) :] if line and behind[: len(line)] == line else encode(text)
