"""Stop strings: found wherever the text is cut, never shown, and nothing else is ever lost."""

from hypothesis import given
from hypothesis import strategies as st

from gpu_worker.frontend.stop import StopMatcher
from tests.worker.frontend.conftest import cut


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    sent = ""
    for piece in pieces:
        text, stop = matcher.push(piece)
        sent += text
        if stop is not None:
            return sent, stop
    return sent + matcher.flush(), None


def run_slowly(stops: list[str], text: str) -> tuple[str, str | None]:
    """The rule itself, character by character."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4),
    text=st.text("abc", max_size=30),
    sizes=st.lists(st.integers(0, 5), max_size=12),
)
def test_outcome_follows_the_rule_however_the_text_is_cut(stops: list[str], text: str, sizes: list[int]) -> None:
    assert run(stops, cut(text, sizes)) == run_slowly(stops, text)


def test_text_that_may_begin_a_stop_string_is_held() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("so E").text == "so "
    assert matcher.push("N").text == ""
    assert matcher.push("ough").text == "ENough"


def test_text_that_begins_no_stop_string_is_sent_at_once() -> None:
    assert StopMatcher(["END"]).push("hello").text == "hello"


def test_stop_string_over_several_tokens_is_not_shown() -> None:
    assert run(["\n\nUser:"], ["Hi", "\n", "\nUs", "er", ": more"]) == ("Hi", "\n\nUser:")


def test_first_complete_stop_string_wins() -> None:
    assert run(["abc", "b"], ["abc"]) == ("a", "b")


def test_longest_of_stop_strings_that_end_together_wins() -> None:
    assert run(["c", "bc"], ["abc"]) == ("a", "bc")
