"""The Dagster daemon that `modelops up` starts; before all else it fails the runs that a killed platform took along.

Only the code server that started a run sees its process end. When the whole platform is killed, a run stays in progress
until `max_runtime_seconds`, and no other run of its model starts. One program holds the home and has stopped what was
left there, so a run that is in progress when the daemon begins has no process; failed, it is started again by
`run_retries` where it stood.
"""

import dagster as dg
from dagster._daemon.cli import main  # what `dagster-daemon` runs

MESSAGE = "The platform was killed while this run was in progress; it is started again where it stood."
HAVE_A_PROCESS = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


def fail_abandoned(instance: dg.DagsterInstance) -> list[str]:
    """End every run that claims to have a process; who asked for a cancellation gets one. Returns their ids."""
    runs = instance.get_runs(dg.RunsFilter(statuses=list(HAVE_A_PROCESS)))
    for run in runs:
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run)
        else:
            instance.report_run_failed(run, MESSAGE)
    return [run.run_id for run in runs]


if __name__ == "__main__":
    with dg.DagsterInstance.get() as instance:
        for run_id in fail_abandoned(instance):
            print(f"run {run_id}: {MESSAGE}", flush=True)
    main()
