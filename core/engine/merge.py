"""Fewer frames for an answer that is wanted whole: text deltas are joined on their way out."""

from __future__ import annotations

from collections.abc import Iterable

from core.api.messages import EngineEvent, TextDelta

__all__ = ["TextMerger"]

# Bounds what is held back, and so how long a cancel or a death can go unseen by the peer.
_MOST_HELD = 256


class TextMerger:
    """Joins neighbouring text deltas of one choice; everything else passes in its place.

    The very first event passes at once: its arrival is the time to first token.
    """

    def __init__(self) -> None:
        self._held: list[TextDelta] = []
        self._begun = False

    def see(self, event: EngineEvent) -> Iterable[EngineEvent]:
        """Return what may be sent, now that ``event`` has come."""
        held = self._held
        if not self._begun or type(event) is not TextDelta or event.logprobs:
            self._begun = True
            return (*self.rest(), event)
        if held and (held[0].choice != event.choice or len(held) >= _MOST_HELD):
            out = self.rest()
            self._held = [event]
            return out
        held.append(event)
        return ()

    def rest(self) -> Iterable[EngineEvent]:
        """Return what is held back, joined; nothing is held back afterwards."""
        held, self._held = self._held, []
        if not held:
            return ()
        text = "".join(delta.text for delta in held)
        tokens = sum(delta.tokens for delta in held)
        ids = tuple(token for delta in held for token in delta.token_ids)
        return (TextDelta(choice=held[0].choice, text=text, tokens=tokens, token_ids=ids),)
