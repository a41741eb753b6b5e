"""Files from the hub, and in a sentence why they cannot be had. Blocking. It knows no model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


class HubError(Exception):
    """A repository cannot be had; the message is a sentence."""


@contextmanager
def explain_hub_errors(source: str, revision: str | None) -> Iterator[None]:
    """Raises HubError for whatever goes wrong with this repository."""
    where = f"{source}@{revision}" if revision else source
    try:
        yield
    except GatedRepoError as error:
        raise HubError(f"{where} is gated: accept its terms on the hub and set HF_TOKEN.") from error
    except RepositoryNotFoundError as error:
        raise HubError(f"The hub has no model {where}, or it is private and HF_TOKEN does not open it.") from error
    except RevisionNotFoundError as error:
        raise HubError(f"{source} has no revision {revision}.") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise HubError(f"{where} is not on this machine and the hub cannot be reached.") from error
    except HFValidationError as error:
        raise HubError(f"{source!r} is neither a folder nor a hub id.") from error
    except (HfHubHTTPError, OSError) as error:
        raise HubError(f"Downloading {where} failed: {error}") from error


def download(source: str, revision: str | None, *, patterns: list[str], local_files_only: bool) -> Path:
    """The folder of a snapshot with those of its files that are wanted. Raises HubError."""
    with explain_hub_errors(source, revision):
        return Path(
            snapshot_download(source, revision=revision, allow_patterns=patterns, local_files_only=local_files_only)
        )
