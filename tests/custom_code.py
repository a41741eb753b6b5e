"""A model repository with code of its own, which leaves a mark where it runs. Its architecture is Llama's, renamed."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, TOKENIZER_MAPPING, PreTrainedTokenizerFast

from tests.tiny_models import VOCAB_SIZE, make_model

ARCHITECTURE = "llama"
MODELING = "modeling_homemade.py"
TOKENIZATION = "tokenization_homemade.py"

_CONFIGURATION_CODE = """
from transformers import LlamaConfig

class HomemadeConfig(LlamaConfig):
    model_type = "homemade"
"""
_MODELING_CODE = """
from pathlib import Path

from transformers import LlamaForCausalLM

from .configuration_homemade import HomemadeConfig

Path({marker!r}).touch()

class HomemadeForCausalLM(LlamaForCausalLM):
    config_class = HomemadeConfig
"""
_TOKENIZATION_CODE = """
from pathlib import Path

from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, TOKENIZER_MAPPING, PreTrainedTokenizerFast

Path({marker!r}).touch()

class HomemadeTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture(autouse=True)
def forget_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test's code registered is not known in the next: a worker loads one model, and these tests many."""
    for mapping in (CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, TOKENIZER_MAPPING):
        monkeypatch.setattr(mapping, "_extra_content", dict(mapping._extra_content))


def save_words(folder: Path) -> None:
    """A tokenizer of the words w0, w1 and so on, one for each token id."""
    words = Tokenizer(WordLevel({f"w{index}": index for index in range(VOCAB_SIZE)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2").save_pretrained(folder)


def make_repository(folder: Path, marker: Path) -> Path:
    """A whole repository. `marker` exists once its modeling file has run."""
    make_model(ARCHITECTURE).save_pretrained(folder)
    save_words(folder)
    edit_json(
        folder / "config.json",
        model_type="homemade",
        architectures=["HomemadeForCausalLM"],
        auto_map={
            "AutoConfig": "configuration_homemade.HomemadeConfig",
            "AutoModelForCausalLM": "modeling_homemade.HomemadeForCausalLM",
        },
    )
    (folder / "configuration_homemade.py").write_text(_CONFIGURATION_CODE)
    (folder / MODELING).write_text(_MODELING_CODE.format(marker=str(marker)))
    return folder


def make_tokenizer_repository(folder: Path, marker: Path) -> Path:
    """A model of a known architecture with a tokenizer of its own."""
    make_model(ARCHITECTURE).save_pretrained(folder)
    save_words(folder)
    edit_json(
        folder / "tokenizer_config.json",
        tokenizer_class="HomemadeTokenizer",
        auto_map={"AutoTokenizer": [None, "tokenization_homemade.HomemadeTokenizer"]},
    )
    (folder / TOKENIZATION).write_text(_TOKENIZATION_CODE.format(marker=str(marker)))
    return folder


def edit_json(path: Path, **fields: object) -> None:
    """Set these fields of the object in the file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
