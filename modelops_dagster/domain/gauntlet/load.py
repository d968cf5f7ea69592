"""What the performance suite sends, and what counts as a good answer."""

from pydantic import Field, field_validator

from modelops_dagster.domain.values import Value


class Goodput(Value):
    """A request is good when it meets every limit that is set."""

    ttft_ms: float | None = Field(default=None, gt=0)
    tpot_ms: float | None = Field(default=None, gt=0)
    e2el_ms: float | None = Field(default=None, gt=0)


class OpenLoop(Value):
    """Requests that come when they come, whether or not earlier ones were answered: what users do."""

    rates: tuple[float, ...] = Field(min_length=1, description="requests/s to offer, one rate after the other")
    requests: int = Field(default=60, ge=1, description="per rate; a Poisson process, so more tells more")
    seed: int = Field(default=1, description="of the arrivals, so that two models meet the same ones")
    max_in_flight: int = Field(
        default=256, ge=1, le=4096, description="what comes beyond that waits in the client, and its waiting counts"
    )

    @field_validator("rates")
    @classmethod
    def _offers(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < rate < 1e5 for rate in value):
            raise ValueError("a rate must be above 0 requests/s")
        return value


class Load(Value):
    """What the performance suite sends: a closed loop at each concurrency, and an open loop at each rate if asked."""

    concurrencies: tuple[int, ...] = Field(default=(1, 4), min_length=1)
    requests: int = Field(default=8, ge=1, description="per concurrency, at least; rounded up to a multiple of it")
    warmups: int = Field(default=3, ge=0, description="requests whose times are thrown away")
    input_words: int = Field(default=64, ge=1, description="random words per prompt, about as many tokens")
    shared_words: int = Field(
        default=0, ge=0, description="words that all prompts begin with besides; 0: no cache of prefixes helps"
    )
    output_tokens: int = Field(default=32, ge=1)
    ignore_eos: bool = Field(default=True, description="ask for exactly output_tokens, where the engine knows how")
    goodput: Goodput = Goodput()
    open_loop: OpenLoop | None = Field(default=None, description="None: no open loop")
    max_lag_ms: float = Field(
        default=5, gt=0, description="p99 event-loop lag of the client above which a run is void…"
    )
    max_lag_share: float = Field(
        default=0.25, ge=0, lt=1, description="…unless it is below this share of the median time to first token"
    )
