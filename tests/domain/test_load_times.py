"""One recorded stream, and what four tools call its times. The expected values are worked out by hand."""

import json
import statistics
from pathlib import Path

import pytest

from modelops_dagster.clients.gauntlet.wire import Stream
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.load_times import (
    StreamTimes,
    as_aiperf,
    as_guidellm,
    as_modelops,
    as_vllm,
    poisson_arrivals,
)

RECORDED = Path(__file__).resolve().parents[1] / "golden" / "stream.jsonl"


def recorded() -> Completion:
    """The stream as the client reads it: a role at 6 ms, two chunks of reasoning, three of content, a finish, usage."""
    stream, sent = Stream(), 1000.0
    for line in RECORDED.read_text().splitlines():
        chunk = json.loads(line)
        stream.take(chunk["event"], sent + chunk["at_ms"] / 1000)
    return stream.completion(sent)


def times() -> StreamTimes:
    got = recorded()
    assert got.is_ok
    assert got.first_chunk_ms is not None
    assert got.ttft_ms is not None
    assert got.e2el_ms is not None
    return StreamTimes(
        first_chunk_ms=got.first_chunk_ms,
        ttft_ms=got.ttft_ms,
        ttfot_ms=got.ttfot_ms,
        e2el_ms=got.e2el_ms,
        itl_ms=got.itl_ms,
        chunk_gaps_ms=got.chunk_gaps_ms,
        tokens_out=got.tokens_out,
    )


def test_our_own_names() -> None:
    got = recorded()
    assert (got.first_chunk_ms, got.ttft_ms, got.ttfot_ms, got.e2el_ms) == pytest.approx((6, 200, 250, 331))
    assert got.tpot_ms == pytest.approx((331 - 200) / 5)
    assert times().last_text_ms == pytest.approx(330)
    ours = as_modelops(times())
    assert (ours.ttft_ms, ours.tpot_ms, ours.e2el_ms) == pytest.approx((200, 26.2, 331))
    assert ours.itl_ms == pytest.approx((20, 30, 40, 40))


def test_vllm_s_names() -> None:
    theirs = as_vllm(times())
    assert (theirs.ttft_ms, theirs.tpot_ms, theirs.e2el_ms) == pytest.approx((6, (331 - 6) / 5, 331))
    assert theirs.itl_ms == pytest.approx((194, 20, 30, 40, 40, 1))


def test_guidellm_s_names() -> None:
    theirs = as_guidellm(times())
    assert (theirs.ttft_ms, theirs.tpot_ms) == pytest.approx((200, 330 / 6))
    assert theirs.itl_ms == pytest.approx(((330 - 200) / 5,))


def test_aiperf_s_names() -> None:
    theirs = as_aiperf(times())
    assert (theirs.ttft_ms, theirs.e2el_ms) == pytest.approx((200, 330))
    assert theirs.itl_ms == pytest.approx(((330 - 200) / 5,))
    assert theirs.tpot_ms is None
    assert statistics.mean(times().itl_ms) == pytest.approx(32.5), "its inter chunk latency"


@pytest.mark.parametrize("tokens", [None, 0, 1])
def test_one_token_has_no_time_per_token_after_the_first(tokens: int | None) -> None:
    short = times().model_copy(update={"tokens_out": tokens})
    for tool in (as_modelops, as_vllm, as_aiperf):
        assert tool(short).tpot_ms is None
    assert as_guidellm(short).itl_ms == ()
    assert as_guidellm(short).tpot_ms == (pytest.approx(330) if tokens == 1 else None)


def test_arrivals_are_poisson_at_the_rate_asked_for() -> None:
    due = poisson_arrivals(8.0, 4000, seed=3)
    assert due == poisson_arrivals(8.0, 4000, seed=3) != poisson_arrivals(8.0, 4000, seed=4)
    assert due[-1] == pytest.approx(4000 / 8)
    gaps = [b - a for a, b in zip((0.0, *due), due, strict=False)]
    assert min(gaps) > 0
    # an exponential's standard deviation is its mean; 4000 gaps know it to 2 %
    assert statistics.pstdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.08)
    # and counts in windows vary as much as they are large
    counts = [sum(second <= moment < second + 1 for moment in due) for second in range(500)]
    assert statistics.pvariance(counts) == pytest.approx(8, rel=0.25)
