"""Errors of the hub's libraries, each as a clear one-line message."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from terse.errors import TerseError
from terse.hub.unreachable import UnreachableError

NO_NETWORK = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.ProxyError,
    OfflineModeIsEnabled,
    LocalEntryNotFoundError,
    ConnectionRefusedError,
)
CANNOT_REACH = "cannot reach the hub"
BROKEN = (httpx2.TransportError, ConnectionError, TimeoutError)


@contextmanager
def hub_errors(kind: str, hub_id: str, revision: str) -> Iterator[None]:
    """Turn the hub's errors on a "model" or "dataset" into a one-line TerseError."""
    try:
        yield
    except TerseError:
        raise
    except Exception as error:
        sentence = explain(error, kind, hub_id, revision)
        if sentence is None:
            raise
        out_of_reach = sentence.startswith(CANNOT_REACH)
        raise (UnreachableError if out_of_reach else TerseError)(sentence) from error


def explain(error: Exception, kind: str, hub_id: str, revision: str) -> str | None:
    """Return what an error of the hub's libraries means and what to do; None for other errors."""
    causes = list(chain(error))
    missing = (
        f"there is no {kind} {hub_id} on the hub, or it is private and HF_TOKEN does not give "
        "access to it"
    )
    for wanted, sentence in (
        (GatedRepoError, gated(kind, hub_id)),
        (RevisionNotFoundError, f"{kind} {hub_id} has no revision {revision!r}"),
        (RepositoryNotFoundError, missing),
        (HFValidationError, f"{hub_id!r} is not a {kind} id; an id is a name or owner/name"),
    ):
        if any(isinstance(cause, wanted) for cause in causes):
            return sentence
    for cause in causes:
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            if "Invalid credentials" in str(cause):
                return "the hub does not know the given token; correct HF_TOKEN"
            if status == 401:  # the hub's answer without a token if there is no such repository
                return missing
            return f"the hub answered {status} for {kind} {hub_id}: {one_line(cause)}"
    # The library of datasets says so in words only.
    unreached = isinstance(causes[-1], ConnectionError) and "Couldn't reach" in str(causes[-1])
    if unreached or any(isinstance(cause, NO_NETWORK) for cause in causes):
        return (
            f"{CANNOT_REACH} at {constants.ENDPOINT} for {kind} {hub_id} "
            f"({one_line(causes[-1])}); run this on a machine with a network"
        )
    if any(isinstance(cause, BROKEN) for cause in causes):
        return (
            f"the transfer of {kind} {hub_id} broke off ({one_line(causes[-1])}); run this again, "
            "it resumes from there"
        )
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
        return f"the disk is full before {kind} {hub_id} is complete"
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it, outermost first."""
    while error is not None:
        yield error
        hidden = error.__suppress_context__
        error = error.__cause__ or (None if hidden else error.__context__)


def gated(kind: str, hub_id: str) -> str:
    """Return what to do about a gated repository."""
    if os.environ.get("HF_TOKEN"):
        return (
            f"{kind} {hub_id} is gated and your token has no access to it; request access on its "
            "page on the hub"
        )
    return (
        f"{kind} {hub_id} is gated: request access on its page on the hub, then set HF_TOKEN to "
        "a token of your account"
    )


def one_line(error: BaseException) -> str:
    """Return an error's name and message without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
