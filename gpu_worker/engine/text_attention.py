"""Switches the attention of a model's language part, and leaves a vision tower as it is. It knows no cache."""

from typing import Any


def get_text_attention(model: Any) -> str:
    """The name of the implementation in use."""
    name: str = model.config.get_text_config()._attn_implementation
    return name


def set_text_attention(model: Any, name: str) -> None:
    """A model that does not take the name keeps its own."""
    config = model.config
    text_config = config.get_text_config()
    if text_config is config:
        model.set_attn_implementation(name)
        return
    parts = [part for part in config.sub_configs if getattr(config, part, None) is text_config]
    model.set_attn_implementation(dict.fromkeys(parts, name))
