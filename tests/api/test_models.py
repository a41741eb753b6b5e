"""GET /v1/models and GET /v1/models/{id}: the registry as the caller may see it."""

from drf_spectacular.validation import validate_schema

from tests.api.conftest import Api
from tests.factories import make_key, make_model, make_team


def test_list_holds_what_the_team_may_use(api: Api) -> None:
    team = make_team()
    secret = make_key(team=team).secret
    everyones = make_model("org/everyones", max_model_len=4096)
    make_model("ours", teams=(team,))
    make_model("theirs", teams=(make_team(),))
    make_model("off", enabled=False)
    with api.client() as client:
        answer = client.get("/v1/models", headers={"authorization": f"Bearer {secret}"}).json()
        assert client.get("/models", headers={"authorization": f"Bearer {secret}"}).json() == answer
    assert answer["object"] == "list"
    assert sorted(model["id"] for model in answer["data"]) == ["org/everyones", "ours"]
    assert answer["data"][0] == {
        "id": "org/everyones",
        "object": "model",
        "created": int(everyones.created_at.timestamp()),
        "owned_by": "atrium",
        "parent": None,
        "context_length": 4096,
        "input_modalities": None,
        "task": None,
        "type": "model",
        "display_name": "org/everyones",
        "created_at": everyones.created_at.replace(microsecond=0).isoformat(),
        "max_input_tokens": 4096,
    }
    assert (answer["has_more"], answer["first_id"], answer["last_id"]) == (False, "org/everyones", "ours")


def test_one_model_by_a_name_with_slashes(api: Api) -> None:
    make_model("org/name")
    with api.client() as client:
        assert client.get("/v1/models/org/name").json()["id"] == "org/name"
        assert client.get("/models/org/name").json()["id"] == "org/name"


def test_one_gguf_model_by_its_id(api: Api) -> None:
    name = "org/tiny-GGUF:tiny.Q8_0.gguf"
    make_model(name)
    with api.client() as client:
        assert client.get(f"/v1/models/{name}").json()["id"] == name
        assert client.get("/v1/models/org/tiny-GGUF:other.gguf").status_code == 404


def test_outsider_gets_404_as_for_an_unknown_name(api: Api) -> None:
    make_model("theirs", teams=(make_team(),))
    with api.client() as client:
        theirs, nobodys = client.get("/v1/models/theirs"), client.get("/v1/models/nobodys")
    assert (theirs.status_code, nobodys.status_code) == (404, 404)
    assert theirs.json()["error"]["code"] == nobodys.json()["error"]["code"] == "model_not_found"


def test_schema_describes_generating_and_other_endpoints(api: Api) -> None:
    with api.client() as client:
        schema = client.get("/schema").json()
    assert {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/score",
        "/load_model",
        "/v1/models",
    } <= set(schema["paths"])
    body = schema["components"]["schemas"]["ChatBody"]
    assert "temperature" in body["properties"]
    validate_schema(schema)
