"""The flags of `serve`: both spellings, and nothing that is silently ignored."""

import argparse

import pytest
from django.core.management import CommandError, call_command, get_commands, load_command_class

from apps.registry.management.commands.serve import make_environment, register_served_model
from apps.registry.models import Adapter, HostedModel
from apps.registry.serve_options import OptionError, ServeOptions, find_allowed_hosts, read_options
from tests.factories import make_model

assert get_commands()["serve"] == "apps.registry"


def parse(*arguments: str) -> ServeOptions:
    command = load_command_class("apps.registry", "serve")
    parser: argparse.ArgumentParser = command.create_parser("manage.py", "serve")
    return read_options(vars(parser.parse_args(arguments)))


def test_without_flags_it_is_the_demo_model_on_localhost():
    options = parse()
    assert (options.name, options.host, options.port, options.num_workers) == (None, "localhost", 8000, 1)
    assert options.is_kept_loaded
    assert options.fields == {}
    assert not options.enable_cors
    assert not options.force_model


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["--dtype", "bfloat16"], {"dtype": "bfloat16"}),
        (["--device", "cuda:1"], {"device": "cuda:1"}),
        (["--attn-implementation", "sdpa_paged"], {"attn_implementation": "sdpa_paged"}),
        (["--attn_implementation", "paged_attention"], {"attn_implementation": "paged_attention"}),
        (["--model-timeout", "60"], {"idle_timeout_s": 60}),
        (["--model_timeout", "-1"], {"idle_timeout_s": 0}),
        (["--max-model-len", "4096", "--max_num_seqs", "8"], {"max_model_len": 4096, "max_num_seqs": 8}),
        (["--max-loras", "3"], {"max_loras": 3}),
        (["--kv-cache-bytes", "1000000"], {"kv_cache_bytes": 1_000_000}),
        (["--default-seed", "7"], {"generation_defaults": {"seed": 7}}),
        (["--reasoning", "off"], {"reasoning": "off"}),
        (["--tool-call-parser", "hermes"], {"tool_call_parser": "hermes"}),
        (["--reasoning_parser", "none"], {"reasoning_parser": "none"}),
        (["--speculation", "ngram"], {"speculation": "ngram"}),
        (["--batch-invariant"], {"batch_invariant": True}),
        (["--chat-template-kwargs", '{"a": 1}'], {"chat_template_kwargs": {"a": 1}}),
        (["--continuous-batching"], {}),
        (["--continuous_batching"], {}),
    ],
)
def test_flags_become_settings_of_the_model(arguments, fields):
    assert parse(*arguments).fields == fields


@pytest.mark.parametrize("flag", ["--trust-remote-code", "--trust_remote_code"])
def test_trust_approves_the_code_and_is_no_setting(flag):
    options = parse("m", flag)
    assert (options.approves_code, options.fields) == (True, {})
    assert not parse("m").approves_code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "tpu"], "--device"),
        (["--port", "0"], "--port"),
        (["--workers", "0"], "--workers"),
        (["--load-in-4bit", "--load-in-8bit"], "one quantization"),
        (["--load-in-4bit", "--quantization", "bnb-8bit"], "one quantization"),
        (["a/b", "--force-model", "c/d"], "contradict"),
        (["/no/such/folder"], "no folder"),
        (["has space"], "has space"),
        (["--served-model-name", "x"], "needs a model"),
        (["--chat-template-kwargs", "[1]"], "object"),
        (["--chat-template-kwargs", "{"], "not JSON"),
        (["--default-seed", "-1"], "--default-seed"),
        (["--max-loras", "-1"], "--max-loras"),
        (["--kv-cache-bytes", "0"], "--kv-cache-bytes"),
        (["--lora", "tuned"], "NAME=SOURCE"),
        (["--lora", "=org/tuned"], "NAME=SOURCE"),
        (["--lora", "a b=org/tuned"], "a b"),
        (["--lora", "tuned=/no/such/folder"], "no folder"),
        (["--lora", "tuned=org/tuned/deep"], "Give a hub id"),
    ],
)
def test_what_cannot_be_honoured_is_an_error(arguments, message):
    with pytest.raises(OptionError, match=message):
        parse(*arguments)


def test_quantization_without_its_package_is_an_error(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match="bitsandbytes"):
        parse("--load_in_4bit")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert parse("--load_in_4bit").fields == {"quantization": "bnb-4bit"}
    assert parse("--load-in-8bit").fields == {"quantization": "bnb-8bit"}


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_quantization_of_our_own_needs_no_package(monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert parse("--quantization", name).fields == {"quantization": name}


def test_unknown_flags_and_bad_choices_are_errors():
    for arguments in (
        ["--tensor-parallel", "2"],
        ["--tool-call-parser", "x"],
        ["--dtype", "int3"],
        ["--log-level", "loud"],
    ):
        with pytest.raises(CommandError):
            call_command("serve", *arguments)


def test_a_model_is_an_id_a_pinned_id_or_a_folder(tmp_path):
    options = parse("Qwen/Qwen3-4B@abc123")
    assert (options.name, options.source, options.revision) == ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B", "abc123")
    folder = tmp_path / "my-model"
    folder.mkdir()
    options = parse(str(folder))
    assert (options.name, options.source) == ("my-model", str(folder))
    assert parse(str(folder), "--served-model-name", "team/mine").name == "team/mine"


def test_a_gguf_file_is_named_behind_an_id_or_a_folder(tmp_path):
    options = parse("org/tiny-GGUF@abc:tiny-q8_0.gguf")
    assert (options.source, options.revision) == ("org/tiny-GGUF:tiny-q8_0.gguf", "abc")
    assert options.name == "org/tiny-GGUF:tiny-q8_0.gguf"
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.gguf").touch()
    for text in (f"{tmp_path}/deep:a.gguf", f"{tmp_path}/deep/a.gguf"):
        options = parse(text)
        assert (options.name, options.source) == ("deep:a.gguf", f"{tmp_path}/deep:a.gguf")
    assert parse(f"{tmp_path}:deep/a.gguf").name == f"{tmp_path.name}:deep/a.gguf"
    with pytest.raises(OptionError, match=r"no file b\.gguf"):
        parse(f"{tmp_path}/deep:b.gguf")
    with pytest.raises(OptionError, match="no folder"):
        parse("/no/such/folder/a.gguf")


def test_flags_that_were_given_change_an_existing_model_and_others_do_not(db):
    make_model("m", source="m", dtype="float16", device="cpu", generation_defaults={"top_k": 5}, enabled=False)
    model = register_served_model(parse("m", "--dtype", "float32", "--default-seed", "1"))
    model.refresh_from_db()
    assert (model.dtype, model.device, model.enabled) == ("float32", "cpu", True)
    assert model.generation_defaults == {"top_k": 5, "seed": 1}
    assert HostedModel.objects.count() == 1


def test_adapters_are_hub_ids_pinned_ids_or_folders(tmp_path):
    options = parse("m", "--lora", "a=org/a", "--lora", "team/b=org/b@v2", "--lora", f"c={tmp_path}")
    assert options.adapters == {"a": ("org/a", ""), "team/b": ("org/b", "v2"), "c": (str(tmp_path.resolve()), "")}
    assert parse().adapters == {}


def test_adapters_of_the_served_model_are_made_or_brought_in_line(db):
    other = make_model("other")
    Adapter.objects.create(name="a", hosted_model=other, source="old", revision="v1", enabled=False)
    model = register_served_model(parse("m", "--lora", "a=org/a", "--lora", "b=org/b@v2"))
    rows = [(row.name, row.hosted_model, row.source, row.revision, row.enabled) for row in Adapter.objects.all()]
    assert rows == [("a", model, "org/a", "", True), ("b", model, "org/b", "v2", True)]
    with pytest.raises(CommandError, match="a model has this name"):
        register_served_model(parse("m", "--lora", "other=org/a"))


def test_the_children_are_told(db, settings):
    model = make_model("m")
    settings.PRELOAD_MODELS = []
    told = make_environment(parse("m", "--enable-cors", "--log-level", "debug"), model)
    assert told["ATRIUM_CORS_ALLOWED_ORIGINS"] == "*"
    assert told["ATRIUM_LOG_LEVEL"] == "debug"
    assert told["ATRIUM_PRELOAD_MODELS"] == "m"
    assert "ATRIUM_FORCE_MODEL" not in told
    assert make_environment(parse("--force-model", "m"), model)["ATRIUM_FORCE_MODEL"] == "m"
    assert "ATRIUM_PRELOAD_MODELS" not in make_environment(parse("m", "--model-timeout", "60"), model)


def test_hosts_a_server_may_be_called_by():
    assert find_allowed_hosts("localhost") == []
    assert find_allowed_hosts("192.0.2.7") == ["192.0.2.7"]
    assert find_allowed_hosts("2001:db8::1") == ["[2001:db8::1]"]
    everywhere = find_allowed_hosts("0.0.0.0")
    assert "127.0.0.1" in everywhere
    assert "*" not in everywhere
