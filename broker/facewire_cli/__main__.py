"""`python -m facewire_cli`, for processes that start further commands."""

from facewire_cli.main import main

main()
