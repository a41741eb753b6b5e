"""What every part of loading raises. Imports nothing heavy: the server knows these errors before torch is there."""

from gpu_worker.protocol import RepositoryCode


class LoadError(Exception):
    """The model cannot be loaded; the message is a sentence for the operator."""


class UnapprovedCodeError(LoadError):
    """The repository's code would have to run, and is not what was approved."""

    def __init__(self, message: str, code: RepositoryCode) -> None:
        super().__init__(message)
        self.code = code
