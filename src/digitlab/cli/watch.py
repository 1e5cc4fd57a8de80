"""``digitlab watch``: a live page in the browser about all runs and sweeps, also those that train now."""

import gc
from pathlib import Path
from typing import Annotated

import typer

from digitlab.cli.app import app

# TensorBoard's usual port is 6006.
_PORT = 6007


@app.command()
def watch(
    root: Annotated[Path | None, typer.Option(help="The folder with the runs and sweeps (default: outputs).")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port of the page; 0 chooses a free port.")] = _PORT,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-browser", help="Open the page in the browser, or only print its address.")
    ] = False,
) -> None:
    """Show a live page about all runs and sweeps: curves, tables, time left, failures, links to reports.

    Open the address that it prints in a browser on this machine; Ctrl-C stops the command.

    The command only reads: it changes nothing under the folder and does not disturb a training.
    """
    from digitlab.config.compose import ROOT
    from digitlab.core.system import let_others_go_first
    from digitlab.results.run_hints import require_folder
    from digitlab.watch.laboratory import Laboratory
    from digitlab.watch.server import WatchApp, WatchServer

    folder = ROOT / "outputs" if root is None else require_folder(root, "--root")
    server = WatchServer(WatchApp(Laboratory(folder)), port=port)
    # A training that uses all cores would wait for this process otherwise: its threads wait for each other.
    let_others_go_first()
    print(f"watching {folder} until you press Ctrl-C:")
    print(server.address, flush=True)
    if open_browser:
        import webbrowser

        webbrowser.open(server.address)
    server.serve()
    # When a process ends, Python searches all objects for garbage, and the user would wait for it after Ctrl-C.
    # ``freeze`` leaves the objects out of the search.
    gc.freeze()
