"""What an engine must hold to, as tests to inherit."""

from __future__ import annotations

from core.testing.suites.cancel import CancelSuite
from core.testing.suites.continuation import ContinuationSuite
from core.testing.suites.declaration import DeclarationSuite
from core.testing.suites.embeddings import EmbeddingSuite
from core.testing.suites.formats import FormatSuite
from core.testing.suites.process import ProcessSuite
from core.testing.suites.rerank import RerankSuite
from core.testing.suites.text import TextSuite

__all__ = ["EngineConformance"]


# pytest runs the tests of the last base first: the quick and simple rules, then what needs processes.
class EngineConformance(
    ProcessSuite,
    CancelSuite,
    EmbeddingSuite,
    RerankSuite,
    ContinuationSuite,
    FormatSuite,
    TextSuite,
    DeclarationSuite,
):
    """Inherit it, set two attributes, run pytest::

        class TestEcho(EngineConformance):
            backend = gateway_backends()[0]
            model = gateway_models()[0]

    Tests that the backend's capabilities or the model's tasks rule out are skipped, each with its reason,
    which ``pytest -rs`` shows.
    See `core.testing.suites.base.Suite` for the attributes that may be set besides. Needs the packages of
    ``ai-gateway[test]``.
    """
