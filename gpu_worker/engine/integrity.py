"""How broken invariants are reported: also where Python runs without assertions."""


class IntegrityError(Exception):
    """An invariant of the engine's bookkeeping is broken: a bug of ours."""


def require(condition: bool, message: str) -> None:
    """Raise IntegrityError unless the condition holds."""
    if not condition:
        raise IntegrityError(message)
