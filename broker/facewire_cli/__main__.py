"""`python -m facewire_cli`, for processes that start more of themselves."""

from facewire_cli.main import main

main()
