"""The views that the published score history and `modelops scores --sql` offer, in the order they are created."""

# What every snapshot works out once: name -> the table, and which of a model's rows are the latest.
LATEST: dict[str, tuple[str, str]] = {
    # the metrics of each suite's latest run; a metric that run no longer reports is not carried over from an older one
    "latest_scores": (
        "scores",
        "qualify rank() over (partition by repo_id, lane, suite order by evaluated_at desc, run_id desc) = 1",
    ),
    "latest_verdicts": (
        "verdicts",
        "qualify row_number() over (partition by repo_id, lane order by decided_at desc, verdict_id desc) = 1",
    ),
}

VIEWS: dict[str, str] = {
    # every score with the one before it on the same instrument: what changed when the model did
    "score_history": """
        select evaluated_at, repo_id, commit_hash, lane, scheme, engine, engine_version, suite, metric, value, ci_low,
               ci_high, n, unit, lag(value) over earlier as previous_value, value - lag(value) over earlier as change,
               n_samples, n_unscored, suite_digest, instrument, endpoint, run_id
        from scores
        window earlier as (partition by repo_id, lane, suite, metric, instrument order by evaluated_at, run_id)
    """,
    # one row per model and lane; ranks compare only models that answered the same questions. What another tool scored,
    # in suites called `<tool>:<task>`, has no place here
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
            from latest_scores where suite not like '%:%' group by repo_id, lane
        )
        select rank() over (partition by quality_digest order by accuracy desc nulls last) as rank,
               s.repo_id, s.lane, s.commit_hash, s.engine, v.outcome as verdict, s.accuracy, s.accuracy_low,
               s.accuracy_high, s.refusal_rate, s.over_refusal_rate, s.contract_pass_rate, s.ttft_p95_ms,
               s.output_tokens_per_s, s.quality_digest, s.evaluated_at
        from standing s
        left join latest_verdicts v on v.repo_id = s.repo_id and v.lane = s.lane and v.commit_hash = s.commit_hash
        order by s.quality_digest, rank, s.repo_id, s.lane
    """,
    # shares whose interval lies wholly on the worse side of the one before, on the same instrument
    "regressions": """
        with shares as (
            select *, metric like '%over_refusal%' or metric like '%violation%' or metric like '%unscored%'
                      or metric like '%truncated%' or metric like '%empty%' as lower_is_better
            from scores where unit = 'share' or unit is null
        ),
        pairs as (
            select repo_id, lane, suite, metric, commit_hash, value, ci_low, ci_high, lower_is_better, n, evaluated_at,
                   run_id, instrument, lag(commit_hash) over earlier as previous_commit,
                   lag(value) over earlier as previous_value, lag(ci_low) over earlier as previous_low,
                   lag(ci_high) over earlier as previous_high
            from shares
            window earlier as (partition by repo_id, lane, suite, metric, instrument order by evaluated_at, run_id)
        )
        select evaluated_at, repo_id, lane, suite, metric, commit_hash, previous_commit, value, previous_value,
               value - previous_value as change, ci_low, ci_high, previous_low, previous_high, n, instrument, run_id
        from pairs
        where case when lower_is_better then ci_low > previous_high else ci_high < previous_low end
        order by evaluated_at desc, repo_id, lane, suite, metric
    """,
    # samples that candidate and incumbent of a verdict did not answer alike
    "flips": """
        with decided as (
            select verdict_id, repo_id, lane, endpoint, decided_at,
                   unnest(from_json(comparisons, '["json"]')) as compared, evidence
            from verdicts where comparisons is not null
        ),
        pairs as (
            select verdict_id, repo_id, lane, endpoint, decided_at, compared->>'suite' as suite,
                   compared->'incumbent'->>'run_id' as incumbent_run,
                   compared->'incumbent'->>'endpoint' as incumbent,
                   list_filter(from_json(evidence, '["json"]'), lambda e: e->>'suite' = compared->>'suite')[1]
                       ->>'run_id' as run_id
            from decided
        )
        select p.decided_at, p.verdict_id, p.repo_id, p.lane, p.suite, c.sample_id, c.epoch, c.category, c.cluster,
               case when c.score > i.score then 'better' else 'worse' end as change, c.input, c.expected,
               c.score as score, i.score as incumbent_score, c.completion, i.completion as incumbent_completion,
               c.explanation, i.explanation as incumbent_explanation, p.endpoint, p.incumbent, p.run_id, c.item_uid
        from pairs p
        join samples c on c.run_id = p.run_id and c.suite = p.suite and c.endpoint = p.endpoint
        join samples i on i.run_id = p.incumbent_run and i.suite = p.suite and i.endpoint = p.incumbent
             and i.item_uid = c.item_uid and i.epoch = c.epoch
        where c.score <> i.score
    """,
    # models that do not stand on the first rung, and why they left those above; the newest climb of each
    "fallbacks": """
        with newest as (
            select * from rungs qualify rank() over (partition by repo_id, lane order by tried_at desc, run_id desc) = 1
        )
        select max(tried_at) as tried_at, repo_id, lane, any_value(commit_hash) as commit_hash,
               max(rung) filter (reason is null) as stands_on, count(*) filter (reason is not null) as rungs_left,
               string_agg(rung || ': ' || reason, '; ' order by position) filter (reason is not null) as why,
               max(start_seconds) as start_seconds, max(tokens_per_second) as tokens_per_second,
               any_value(run_id) as run_id
        from newest group by repo_id, lane having count(*) filter (reason is not null) > 0
    """,
    # from the moment a revision appeared on the Hub to the moment the gateway let developers call it; one that a person
    # asked for before the Watcher saw it, or that the Watcher did not find, counts from the request of its first run
    "time_to_preview": """
        with first as (
            select repo_id, commit_hash, lane, min(first_seen_at) as first_seen_at, min(requested_at) as requested_at,
                   min(registered_at) filter (tags like '%"preview"%') as preview_at,
                   arg_max(outcome, registered_at) as outcome
            from registrations group by repo_id, commit_hash, lane
        )
        select repo_id, commit_hash, lane, first_seen_at, requested_at, preview_at,
               epoch(preview_at - least(first_seen_at, requested_at)) / 3600 as hours,
               epoch(preview_at - requested_at) / 3600 as hours_from_request, outcome
        from first
    """,
    # calls by day and who made them; what shadows got is nobody's spending
    "spend": """
        select time::date as day, team, key_alias, alias, endpoint, commit_hash, count(*) as calls,
               count(*) filter (status <> 200 or error is not null) as failed, sum(tokens_in)::bigint as tokens_in,
               sum(tokens_out)::bigint as tokens_out, sum(tokens_cached)::bigint as tokens_cached,
               sum(cost_usd) as cost_usd
        from gateway_requests where is_shadow = 0 and key_id is not null
        group by all
    """,
    "runs": """
        select run_id, repo_id, commit_hash, lane, endpoint, any_value(engine) as engine,
               any_value(engine_version) as engine_version, list_sort(list(distinct suite)) as suites,
               min(evaluated_at) as first_evaluated_at, max(evaluated_at) as last_evaluated_at
        from scores group by run_id, repo_id, commit_hash, lane, endpoint
    """,
    "instruments": """
        select instrument, any_value(suite) as suite, any_value(suite_digest) as suite_digest,
               any_value(instrument_parts) as instrument_parts, count(distinct run_id) as runs,
               min(evaluated_at) as first_used_at, max(evaluated_at) as last_used_at
        from scores group by instrument
    """,
    "items": """
        select item_uid, any_value(sample_id) as sample_id, any_value(category) as category,
               any_value(cluster) as cluster, any_value(expected) as expected, any_value(severity) as severity,
               any_value(weight) as weight, any_value(input) as input, count(*) as asked, avg(score) as mean_score,
               count(*) filter (score is null) as unscored
        from samples group by item_uid
    """,
    "dataset_items": "select distinct suite_digest, suite, item_uid, sample_id from samples",
}

# Questions with arguments: `from flips_between('org/a', 'org/b', 'quality')`.
MACROS: dict[str, str] = {
    "flips_between(candidate, incumbent, of_suite)": """
        with asked as (
            select repo_id, instrument, arg_max(run_id, evaluated_at) as run_id, max(evaluated_at) as evaluated_at
            from scores where suite = of_suite and lane = 'raw' and repo_id in (candidate, incumbent)
            group by repo_id, instrument
        ),
        shared as (
            select instrument from asked group by instrument having count(*) = 2 order by min(evaluated_at) desc limit 1
        ),
        newest as (select repo_id, run_id from asked where instrument in (from shared)),
        answers as (
            select s.* from samples s join newest n on n.run_id = s.run_id and n.repo_id = s.repo_id
            where s.suite = of_suite and s.lane = 'raw' and coalesce(s.arm, 'candidate') <> 'incumbent'
        )
        select c.sample_id, c.epoch, c.category, case when c.score > i.score then 'better' else 'worse' end as change,
               c.input, c.expected, c.score as score, i.score as incumbent_score, c.completion,
               i.completion as incumbent_completion
        from answers c join answers i on i.item_uid = c.item_uid and i.epoch = c.epoch and i.repo_id = incumbent
        where c.repo_id = candidate and c.score <> i.score
    """,
}
