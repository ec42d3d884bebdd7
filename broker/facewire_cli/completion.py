"""`facewire completion`: the script with which a shell completes commands and options."""

from typing import Final

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from facewire_cli.main import cli

_SHELLS: Final[dict[str, type[ShellComplete]]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def completion(shell: str) -> None:
    r"""Print the script that completes commands and options in your shell.

    \b
    bash:  echo 'eval "$(facewire completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(facewire completion zsh)"' >> ~/.zshrc
    fish:  facewire completion fish > ~/.config/fish/completions/facewire.fish
    """
    click.echo(_SHELLS[shell](cli, {}, "facewire", "_FACEWIRE_COMPLETE").source())
