"""An engine over the reference runner, and requests to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest_asyncio
from decoding.engine import DecodingEngine
from decoding.reference import ReferenceRunner
from decoding.scheduler import Limits
from decoding.template import ChatTemplate
from decoding.testing import byte_level
from decoding.tokens import Vocabulary

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
MakeEngine = Callable[..., DecodingEngine]


@pytest_asyncio.fixture
async def make_engine() -> AsyncIterator[MakeEngine]:
    """Makes engines over reference runners of a few slots; closes them."""
    made = []

    def make(*, template: str | None = TEMPLATE, **options: Any) -> DecodingEngine:
        tokenizer = byte_level()
        tokenizer.chat_template = template
        vocabulary = Vocabulary(tokenizer, eos=[tokenizer.eos_token_id])
        runner = ReferenceRunner(**({"vocab_size": vocabulary.size} | options))
        engine = DecodingEngine(
            vocabulary=vocabulary,
            template=ChatTemplate(tokenizer),
            limits=Limits(prefill_tokens=8, prefill_tokens_alone=24),
            runner=runner,
            embedder=runner,
        )
        made.append(engine)
        return engine

    yield make
    for engine in made:
        await engine.close()
