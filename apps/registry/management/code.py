"""What `serve` and `models` do with --trust-remote-code: approve a repository's code as it is on this machine now."""

from django.core.management.base import CommandError

from apps.registry import approvals
from apps.registry.models import HostedModel
from apps.registry.repository import RepositoryError, fetch_code


def approve_code(model: HostedModel, through: str) -> str:
    """Returns what was approved, in words. Blocking: may ask the hub. Raises CommandError."""
    try:
        code = fetch_code(model.source, model.revision)
    except RepositoryError as error:
        raise CommandError(str(error)) from error
    if not code.files:
        return f"{model.name} brings no code."
    approvals.approve(row=approvals.record_code(model=model, code=code), by=None, through=through)
    names = ", ".join(file.path for file in code.files)
    return f"Approved the code of {model.name}: {names} (SHA-256 {code.sha256})"
