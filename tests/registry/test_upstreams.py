"""Upstreams in the registry: where they may be, their secrets, and whether they answer."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.test import override_settings

from apps.registry import services, upstreams
from apps.registry.directory import describe_upstream
from apps.registry.models import Engine, HostedModel, Replica
from apps.registry.tasks import check_upstreams
from tests.factories import make_model
from tests.scripted_http import ScriptedHttp, answer_json, run_scripted_http

MODELS = {"object": "list", "data": [{"id": "there", "object": "model"}]}


@pytest.fixture
def upstream(settings: Any) -> Iterator[ScriptedHttp]:
    settings.UPSTREAM_PRIVATE_HOSTS = ["127.0.0.1"]
    with run_scripted_http() as server:
        server.handler = answer_json(MODELS)
        yield server


def make_upstream(url: str, **fields: Any) -> HostedModel:
    return make_model("far", **{"source": "there", "engine": Engine.UPSTREAM, "upstream_url": url, **fields})


@pytest.mark.parametrize(
    "url",
    ["", "ftp://a/v1", "there/v1", "http://me:secret@a/v1", "http://a/v1?key=1", "http://a b/v1", "http://a:x/v1"],
)
def test_an_address_that_cannot_be_one_is_refused(db: None, url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HostedModel(name="far", source="there", engine=Engine.UPSTREAM, upstream_url=url).full_clean()
    assert "upstream_url" in caught.value.message_dict


def test_only_upstreams_have_an_address(db: None) -> None:
    with pytest.raises(ValidationError):
        HostedModel(name="near", source="here", upstream_url="http://a/v1").full_clean()
    HostedModel(name="far", source="there", engine=Engine.UPSTREAM, upstream_url="http://llm:8000/v1").full_clean()


def test_an_upstream_has_no_replicas(db: None) -> None:
    model = make_upstream("http://a/v1", min_replicas=1)
    services.request_replica(model_id=model.pk)
    services.ensure_desired()
    assert not Replica.objects.exists()


def test_its_secret_is_kept_encrypted_and_lost_with_the_key(db: None) -> None:
    model = make_upstream("http://a/v1/")
    upstreams.set_secret(model, "sk-there")
    model.save()
    assert "sk-there" not in HostedModel.objects.values_list("upstream_secret", flat=True)[0]
    found = describe_upstream(model)
    assert (found.url, found.token, found.state) == ("http://a/v1", "sk-there", "ready")
    assert "sk-there" not in repr(found)
    with override_settings(SECRET_KEY="another"):
        lost = describe_upstream(model)
    assert (lost.state, lost.token) == ("failed", "")
    assert "entered again" in lost.error


def test_health_is_what_the_upstream_says_of_its_models(db: None, upstream: ScriptedHttp) -> None:
    model = make_upstream(upstream.url)
    upstreams.set_secret(model, "sk-there")
    assert upstreams.check(model) == ""
    assert upstream.paths == ["/v1/models"]
    assert upstream.headers[0]["Authorization"] == "Bearer sk-there"
    model.source = "nowhere"
    assert upstreams.check(model) == "It has no model 'nowhere'."
    for handler, said in (
        (answer_json({}, 401), "secret"),
        (answer_json({}, 500), "status 500"),
        (answer_json([]), "no list"),
    ):
        upstream.handler = handler
        assert said in upstreams.check(model)
    upstream.handler = answer_json({}, 404)
    assert upstreams.check(model) == ""


def test_all_are_asked_by_the_clock_and_rows_show_it(db: None, upstream: ScriptedHttp) -> None:
    make_upstream(upstream.url)
    make_model("gone", engine=Engine.UPSTREAM, upstream_url="http://127.0.0.1:9/v1")
    make_model("own")
    check_upstreams()
    errors = dict(HostedModel.objects.values_list("name", "upstream_error"))
    assert errors["far"] == errors["own"] == ""
    assert errors["gone"].startswith("It cannot be reached")
    assert set(HostedModel.objects.filter(upstream_checked_at=None).values_list("name", flat=True)) == {"own"}
