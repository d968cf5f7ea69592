"""Whether a grader still judges as it did when it was admitted: answers that people labelled, judged again."""

from collections.abc import Sequence
from itertools import chain, zip_longest

from pydantic import Field

from modelops_dagster.domain.values import Value


class Anchor(Value):
    """An answer that people labelled, and what an admitted grader said of it then."""

    grader: str = Field(description="uid")
    category: str = Field(description="the group it was admitted for")
    item_uid: str
    sample_id: str
    answer_uid: str
    answer: str
    good: bool = Field(description="what people say")
    then: bool = Field(description="the grader's verdict behind its admission")


class Drift(Value):
    """A grader's anchors of one category, judged again."""

    grader: str
    category: str
    anchors: int = Field(description="with a verdict now")
    lost: int = Field(description="judged as people do then, and otherwise now")
    gained: int = Field(description="the reverse")

    def is_beyond(self, bound: float) -> bool:
        """Whether it is wrong about a larger share of its anchors than it was, by more than the bound."""
        return self.anchors > 0 and (self.lost - self.gained) / self.anchors > bound

    @property
    def said(self) -> str:
        """What became of it, as a clause."""
        again = f", and gets {self.gained} right that it got wrong" if self.gained else ""
        return (
            f"the grader {self.grader} has drifted in {self.category}: of {self.anchors} labelled answers it now gets "
            f"{self.lost} wrong that it got right when it was admitted{again}"
        )


def chosen(anchors: Sequence[Anchor], split: Sequence[str], most: int) -> list[Anchor]:
    """At most `most` anchors of one grader and category, always the same ones: answers to samples of the split `anchor`
    first (their uids are `split`), good and bad ones in turn, else in the order of their uids, which is random."""
    own = set(split)
    order = sorted(anchors, key=lambda a: (a.item_uid not in own, a.answer_uid))
    good, bad = ([a for a in order if a.good is kind] for kind in (True, False))
    return [a for a in chain.from_iterable(zip_longest(good, bad)) if a is not None][:most]


def drift_of(grader: str, category: str, judged: Sequence[tuple[Anchor, bool | None]]) -> Drift:
    """Compare what a grader says of its anchors now with what it said then; one without a verdict says nothing."""
    known = [(anchor, now) for anchor, now in judged if now is not None]
    lost = sum(anchor.then == anchor.good != now for anchor, now in known)
    gained = sum(anchor.then != anchor.good == now for anchor, now in known)
    return Drift(grader=grader, category=category, anchors=len(known), lost=lost, gained=gained)
