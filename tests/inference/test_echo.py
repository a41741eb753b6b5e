"""An echo that a second replica begins anew reaches the client once."""

from apps.inference.echo import EchoFilter
from gpu_worker.protocol import Delta, TokenLogprob


def make(*numbers: int, text: str = "", index: int = 0) -> Delta:
    logprobs = [TokenLogprob(number, str(number), -1.0, b"", []) for number in numbers]
    return Delta("r", index=index, text=text, logprobs=logprobs or None, is_prompt=True)


def take(echo: EchoFilter, delta: Delta) -> tuple[str, list[int]] | None:
    passed = echo.take(delta)
    return None if passed is None else (passed.text, [token.token_id for token in passed.logprobs or ()])


def test_what_was_passed_on_is_not_passed_on_again() -> None:
    echo = EchoFilter(2)
    echo.begin_attempt()
    assert take(echo, make(text="once")) == ("once", [])
    assert take(echo, make(1, 2, 3)) == ("", [1, 2, 3])
    assert take(echo, make(1, index=1)) == ("", [1])
    echo.begin_attempt()
    assert take(echo, make(text="once")) is None
    assert take(echo, make(1, 2)) is None
    assert take(echo, make(3, 4, 5)) == ("", [4, 5])
    assert take(echo, make(1, 2, index=1)) == ("", [2])
    assert take(echo, make(text="once", index=1)) == ("once", [])
    echo.begin_attempt()
    assert take(echo, make(1, 2, 3, 4, 5, 6)) == ("", [6])
