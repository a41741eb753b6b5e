"""The documentation is complete: whatever a client or an operator can set or meet is written down."""

import inspect
import json
import re
from pathlib import Path

import pytest

from apps.anthropic_api.parameters import BOOKKEEPING as BOOKKEEPING_OF_MESSAGES
from apps.anthropic_api.parameters import NEUTRAL as NEUTRAL_OF_MESSAGES
from apps.anthropic_api.schemas import body
from apps.anthropic_api.urls import consumers as messages_consumers
from apps.batches.urls import urlpatterns as batch_urlpatterns
from apps.core import errors
from apps.openai_api.parameters import (
    BOOKKEEPING,
    CHAT_NEUTRAL,
    COMPLETION_NEUTRAL,
    EMBEDDING_NEUTRAL,
    RANKING_NEUTRAL,
    RESPONSES_NEUTRAL,
)
from apps.openai_api.schemas import (
    chat,
    completions,
    embeddings,
    generation_config,
    ranking,
    responses,
    tokenize,
    transcriptions,
)
from apps.openai_api.urls import consumers, posts, urlpatterns
from project import checks

ROOT = Path(__file__).parent.parent
API = (ROOT / "docs" / "api.md").read_text()


def read_section(title: str) -> str:
    """The text below this heading, up to the next one of any level."""
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", API, re.MULTILINE | re.DOTALL)
    assert match, f"docs/api.md has no section {title!r}"
    return match[1]


def find_undocumented(names: object, text: str) -> list[str]:
    """Names that do not stand in the text as `name`."""
    return [name for name in sorted(names) if f"`{name}`" not in text]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("Honoured by both endpoints", chat.HONOURED & completions.HONOURED),
        ("Honoured by chat completions", chat.HONOURED - completions.HONOURED),
        ("Honoured by completions", completions.HONOURED - chat.HONOURED),
        ("Accepted without effect", BOOKKEEPING),
        ("Refused unless neutral", CHAT_NEUTRAL.keys() | COMPLETION_NEUTRAL.keys()),
        ("Honoured by responses", responses.HONOURED | RESPONSES_NEUTRAL.keys()),
        ("POST /v1/embeddings", embeddings.HONOURED | EMBEDDING_NEUTRAL.keys()),
        ("POST /v1/rerank", ranking.RERANK_HONOURED),
        ("POST /v1/score", ranking.SCORE_HONOURED | RANKING_NEUTRAL.keys()),
        ("Honoured by transcriptions", transcriptions.HONOURED | transcriptions.NEUTRAL.keys()),
        ("Honoured by messages", body.HONOURED | BOOKKEEPING_OF_MESSAGES.keys() | NEUTRAL_OF_MESSAGES.keys()),
        ("Tokens", tokenize.HONOURED | tokenize.DETOKENIZE_HONOURED | tokenize.NEUTRAL.keys()),
        ("generation_config", generation_config.MAPPED.keys() | generation_config.NEUTRAL.keys()),
    ],
)
def test_every_parameter_is_documented_in_its_class(section: str, names: set[str]) -> None:
    assert find_undocumented(names, read_section(section)) == []


def test_no_documented_parameter_is_unknown() -> None:
    known = chat.HONOURED | completions.HONOURED | BOOKKEEPING.keys() | CHAT_NEUTRAL.keys() | COMPLETION_NEUTRAL.keys()
    for section in ("Honoured by both endpoints", "Accepted without effect", "Refused unless neutral"):
        documented = re.findall(r"^\| `(\w+)`", read_section(section), re.MULTILINE)
        assert documented
        assert set(documented) <= known


def test_every_error_code_is_documented() -> None:
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == errors.__name__]
    codes = {cls.code for cls in classes if cls.code}
    for path in (ROOT / "apps").rglob("*.py"):
        codes |= set(re.findall(r'\bcode="(\w+)"', path.read_text())) - {"model_name"}  # that is a form's
    assert find_undocumented(codes, read_section("Errors")) == []


def test_every_problem_of_a_batch_is_documented() -> None:
    sources = [path.read_text() for path in (ROOT / "apps" / "batches").glob("*.py")]
    codes = {code for source in sources for code in re.findall(r'Problem\(\s*"(\w+)"', source)}
    codes |= {f"batch_{reason}" for reason in ("cancelled", "expired")}
    assert len(codes) > 8
    assert find_undocumented(codes, read_section("Batches")) == []


def test_every_path_is_documented() -> None:
    routes = (*urlpatterns, *batch_urlpatterns)
    paths = {*consumers, *messages_consumers, *posts, *(str(route.pattern) for route in routes)}
    named = {path for path in paths if path.startswith("v1/") or path in ("load_model", "health", "ready", "schema")}
    missing = [path for path in named if f" /{re.sub(r'<[^>]+>', '{id}', path)}`" not in API]
    assert missing == []


def test_every_setting_is_documented() -> None:
    source = (ROOT / "project" / "settings.py").read_text()
    names = re.findall(r'env_\w+\(\s*"(\w+)"', source)
    assert len(names) > 20
    assert find_undocumented(names, (ROOT / "docs" / "settings.md").read_text()) == []


def test_every_check_has_its_own_id() -> None:
    ids = re.findall(r'id="(atrium\.[EW]\d{3})"', inspect.getsource(checks))
    assert len(ids) == len(set(ids)) > 5


def test_index_of_clients_names_every_page_and_the_versions_that_are_run() -> None:
    index = (ROOT / "docs" / "clients" / "README.md").read_text()
    pages = {path.name for path in (ROOT / "docs" / "clients").glob("*.md")} - {"README.md"}
    assert set(re.findall(r"\]\(([\w-]+\.md)", index)) == pages
    lists = ROOT / "tests" / "live" / "clients"
    pins = json.loads((lists / "package.json").read_text())["dependencies"]
    for name in ("requirements.txt", "requirements-openai2.txt"):
        found = re.findall(r"^([\w-]+)==(\S+)", (lists / name).read_text(), re.MULTILINE)
        pins |= {f"{name} {package}": pin for package, pin in found}
    clients = ["huggingface_hub", "langchain-openai", "openai", "openai-agents", "pydantic-ai-slim"]
    named = [f"requirements.txt {client}" for client in clients]
    named += [f"requirements-openai2.txt {client}" for client in ("litellm", "llama-index-llms-openai-like")]
    named += ["openai", "ai", "@openai/codex", "opencode-ai", "@continuedev/cli", "@anthropic-ai/claude-code"]
    assert [client for client in named if f"| {pins[client]} " not in index] == []
