"""``python -m app``: the command, for processes that are started without an installed script."""

from app.cli import main

main()
