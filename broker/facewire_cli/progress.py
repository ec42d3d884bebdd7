"""A progress bar on standard error, if that is a terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from facewire.counted import counted

#: Takes the device time reached, ms since 1970 UTC, and the number of events so far.
Reach = Callable[[int | None, int], None]


@contextlib.contextmanager
def progress(span: tuple[int, int] | None) -> Iterator[Reach]:
    """Show a bar inside the `with`.

    Counting the events first would read them all, so the bar shows how far their time has come.

    Args:
        span: device times of the first and the last event, ms since 1970 UTC; None if not known.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _reached, _events: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        first, last = span or (0, 0)
        task = bar.add_task("0 events", total=last - first + 1 if span else None)

        def reach(reached: int | None, events: int) -> None:
            done = None if reached is None or span is None else reached - first + 1
            bar.update(task, completed=done, description=counted(events, "event"))

        yield reach
