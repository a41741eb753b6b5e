"""Who is asking: what every layer below the edge is told of a person or a key."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. Made by `auth.py` alone, from an API key or a session."""

    user_id: int
    username: str
    team_id: int
    key_id: int | None = None  # None: a browser session
    is_admin: bool = False  # may manage the whole installation
