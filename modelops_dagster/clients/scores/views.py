"""The views that the published score history and `modelops scores --sql` offer, in the order they are created."""

VIEWS: dict[str, str] = {
    # every score with the one before it on the same instrument: what changed when the model did
    "score_history": """
        select evaluated_at, repo_id, commit_hash, lane, scheme, engine, engine_version, suite, metric, value, ci_low,
               ci_high, n, unit, lag(value) over earlier as previous_value, value - lag(value) over earlier as change,
               n_samples, n_unscored, suite_digest, instrument, endpoint, run_id
        from scores
        window earlier as (partition by repo_id, lane, suite, metric, instrument order by evaluated_at, run_id)
    """,
    # the metrics of each suite's latest run; a metric that run no longer reports is not carried over from an older one
    "latest_scores": """
        select * from scores
        qualify rank() over (partition by repo_id, lane, suite order by evaluated_at desc, run_id desc) = 1
    """,
    "latest_verdicts": """
        select * from verdicts
        qualify row_number() over (partition by repo_id, lane order by decided_at desc, verdict_id desc) = 1
    """,
    # one row per model and lane; ranks compare only models that answered the same questions
    "leaderboard": """
        with standing as (
            select repo_id, lane, arg_max(commit_hash, evaluated_at) as commit_hash,
                   arg_max(engine, evaluated_at) as engine,
                   max(value) filter (suite = 'quality' and metric = 'accuracy') as accuracy,
                   max(ci_low) filter (suite = 'quality' and metric = 'accuracy') as accuracy_low,
                   max(ci_high) filter (suite = 'quality' and metric = 'accuracy') as accuracy_high,
                   max(value) filter (suite = 'compliance' and metric = 'refusal_rate') as refusal_rate,
                   max(value) filter (suite = 'compliance' and metric = 'over_refusal_rate') as over_refusal_rate,
                   max(value) filter (suite = 'contract' and metric = 'pass_rate') as contract_pass_rate,
                   max(value) filter (suite = 'performance' and metric = 'ttft_p95_ms@1') as ttft_p95_ms,
                   max(value) filter (suite = 'performance' and metric like 'output_tokens_per_s@%')
                       as output_tokens_per_s,
                   max(suite_digest) filter (suite = 'quality') as quality_digest,
                   max(evaluated_at) as evaluated_at
            from latest_scores group by repo_id, lane
        )
        select rank() over (partition by quality_digest order by accuracy desc nulls last) as rank,
               s.repo_id, s.lane, s.commit_hash, s.engine, v.outcome as verdict, s.accuracy, s.accuracy_low,
               s.accuracy_high, s.refusal_rate, s.over_refusal_rate, s.contract_pass_rate, s.ttft_p95_ms,
               s.output_tokens_per_s, s.quality_digest, s.evaluated_at
        from standing s
        left join latest_verdicts v on v.repo_id = s.repo_id and v.lane = s.lane and v.commit_hash = s.commit_hash
        order by s.quality_digest, rank, s.repo_id, s.lane
    """,
}
