"""How much two token sequences have in common: BLEU and ROUGE-L."""

import math
from collections import Counter
from collections.abc import Sequence

MAX_ORDER = 4


def bleu(candidate: Sequence[int], reference: Sequence[int]) -> float:
    """Return BLEU-4 of one sequence against one reference, 0..1.

    One is added to both counts of n-gram precisions above order 1, to smooth them for short
    sequences (Lin & Och 2004, https://aclanthology.org/C04-1072; BLEU:
    https://aclanthology.org/P02-1040).
    """
    if not candidate or not reference:
        return 0.0
    logs = []
    for order in range(1, MAX_ORDER + 1):
        found, wanted = _ngrams(candidate, order), _ngrams(reference, order)
        matches, total = (found & wanted).total(), found.total()
        smooth = int(order > 1)
        if matches + smooth == 0 or total + smooth == 0:
            return 0.0
        logs.append(math.log((matches + smooth) / (total + smooth)))
    shortness = min(0.0, 1 - len(reference) / len(candidate))
    return math.exp(shortness + sum(logs) / MAX_ORDER)


def rouge_l(candidate: Sequence[int], reference: Sequence[int]) -> float:
    """Return the F1 of the longest common subsequence, 0..1 (https://aclanthology.org/W04-1013)."""
    if not candidate or not reference:
        return 0.0
    return 2 * longest_common(candidate, reference) / (len(candidate) + len(reference))


def longest_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the longest common subsequence."""
    best = [0] * (len(second) + 1)
    for a in first:
        before = best
        best = [0]
        for j, b in enumerate(second):
            best.append(before[j] + 1 if a == b else max(before[j + 1], best[j]))
    return best[-1]


def _ngrams(tokens: Sequence[int], order: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))
