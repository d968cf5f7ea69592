"""Token ids to text as they come."""

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"  # what an unfinished UTF-8 sequence decodes to


class TextStream:
    """Gives out text once it is certain: no half characters, no stop string, no beginning of one.

    Args:
        decode: token ids to text.
        stops: generation ends at the first of these to appear, and it is not part of the text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = [stop for stop in stops if stop]
        self._ids: list[int] = []
        # ids[start:] are decoded again with each token, because a token's text may depend on the one before it
        self._start = self._read = 0
        self._held = ""
        self.stopped = False

    def feed(self, token_id: int) -> str:
        """The text that became certain with this token."""
        self._ids.append(token_id)
        before, now = self._window()
        if now.endswith(REPLACEMENT) or len(now) <= len(before):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return self._release(now[len(before) :])

    def finish(self) -> str:
        """The text that was held back, once no token follows."""
        if self.stopped:
            return ""
        before, now = self._window()
        text = self._release(now[len(before) :])
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _window(self) -> tuple[str, str]:
        return self._decode(self._ids[self._start : self._read]), self._decode(self._ids[self._start :])

    def _release(self, text: str) -> str:
        pending = self._held + text
        found = [at for stop in self._stops if (at := pending.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return pending[: min(found)]
        cut = len(pending) - max((_overlap(pending, stop) for stop in self._stops), default=0)
        self._held = pending[cut:]
        return pending[:cut]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, the whole of it left out."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
