"""The loaded model as its server knows it: vocabulary, template, texts to tokens and back, vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from core.api import RequestError
from llamacpp_backend.body import TemplateCaps
from llamacpp_backend.client import LlamaClient

__all__ = ["ServedModel"]


class _Meta(msgspec.Struct, frozen=True):
    n_vocab: int = 0
    n_ctx_train: int = 0
    n_embd: int = 0
    n_params: int = 0
    size: int = 0
    ftype: str = ""


class _Props(msgspec.Struct, frozen=True):
    bos_token: str = ""
    chat_template: str = ""
    chat_template_caps: TemplateCaps = TemplateCaps()


class _Model(msgspec.Struct, frozen=True):
    meta: _Meta


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model]


class _Rendered(msgspec.Struct, frozen=True):
    prompt: str


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[int]


class _Text(msgspec.Struct, frozen=True):
    content: str


class _Vector(msgspec.Struct, frozen=True):
    embedding: list[float]


class _Vectors(msgspec.Struct, frozen=True):
    data: list[_Vector]


class ServedModel:
    """Asks the server and remembers what never changes; made by `ask`."""

    def __init__(self, client: LlamaClient, meta: _Meta = _Meta(), props: _Props = _Props()) -> None:  # noqa: B008 - frozen
        self._client = client
        self._bos = props.bos_token
        self.meta = meta
        self.caps = props.chat_template_caps
        self.template = props.chat_template

    @classmethod
    async def ask(cls, client: LlamaClient) -> ServedModel:
        """Return what the server serves."""
        props = msgspec.json.decode(await client.call("/props"), type=_Props)
        models = msgspec.json.decode(await client.call("/v1/models"), type=_Models)
        return cls(client, models.data[0].meta, props)

    def prompt(self, given: str | tuple[int, ...], *, param: str) -> str | list[int]:
        """Return the prompt as llama.cpp takes it; an empty text becomes the model's first token.

        Raises:
            RequestError: it is empty, or has token ids that the model does not have.
        """
        if isinstance(given, str):
            if given or self._bos:
                return given or self._bos
        elif given:
            self._check_ids(given, param)
            return list(given)
        msg = f"'{param}' holds an empty text."
        raise RequestError(msg, param=param)

    async def tokens_of(self, given: str | tuple[int, ...], *, param: str) -> list[int]:
        """Return the tokens of a prompt; raises as `prompt` does."""
        prompt = self.prompt(given, param=param)
        if isinstance(prompt, list):
            return prompt
        body = {"content": prompt, "add_special": True, "parse_special": True}
        try:
            return msgspec.json.decode(await self._client.call("/tokenize", body), type=_Tokens).tokens
        except RequestError as error:
            error.param = param
            raise

    async def tokens_of_text(self, text: str) -> list[int]:
        """Return the tokens of a text that the model has written: nothing in it is a special token."""
        body = {"content": text, "add_special": False, "parse_special": False}
        return msgspec.json.decode(await self._client.call("/tokenize", body), type=_Tokens).tokens

    async def rendered(self, chat: dict[str, Any]) -> str:
        """Return the prompt that the template makes of the fields of a chat."""
        return msgspec.json.decode(await self._client.call("/apply-template", chat), type=_Rendered).prompt

    async def text_of(self, given: str | tuple[int, ...]) -> str:
        """Return a prompt as text."""
        if isinstance(given, str):
            return given
        answer = await self._client.call("/detokenize", {"tokens": list(given)})
        return msgspec.json.decode(answer, type=_Text).content

    async def vector(self, tokens: list[int]) -> list[float]:
        """Return the embedding of one input."""
        answer = await self._client.call("/v1/embeddings", {"input": [tokens]})
        return msgspec.json.decode(answer, type=_Vectors).data[0].embedding

    def check_bias(self, bias: dict[int, float]) -> None:
        """Refuse biases of tokens that there are not; llama.cpp would ignore them.

        Raises:
            RequestError: there is one.
        """
        self._check_ids(bias, "logit_bias")

    def _check_ids(self, ids: Iterable[int], param: str) -> None:
        wrong = next((token for token in ids if not 0 <= token < self.meta.n_vocab), None)
        if wrong is not None:
            msg = f"'{param}' has the token id {wrong}, but this model's ids go from 0 to {self.meta.n_vocab - 1}."
            raise RequestError(msg, param=param)
