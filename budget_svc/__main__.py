"""`python -m budget_svc` runs the service with settings from the environment and `dbp.toml`."""

from budget_svc.server import main

main()
