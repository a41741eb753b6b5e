"""The link to engines that speak OpenAI's HTTP API: vLLM, SGLang, TGI, and upstreams anywhere."""

from apps.inference.clients.openai_http.link import HttpLink, HttpTarget

__all__ = ["HttpLink", "HttpTarget"]
