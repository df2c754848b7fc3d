"""`python -m relevancy.cli`, where no `relevancy` command is installed."""

from relevancy.cli import main

main()
