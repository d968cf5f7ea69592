"""`python -m modelops_dagster.cli`, for programs that start a command with their own interpreter."""

from modelops_dagster.cli.main import main

main()
