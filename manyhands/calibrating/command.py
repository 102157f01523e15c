"""`manyhands ledger calibrate MODEL`: thresholds between honest and cheating work, measured here.

In: a model that fits this machine whole. Out: a profile file, which auditors judge by.
"""

import json
import platform
from pathlib import Path
from typing import Any

import click

from ledger.options import home_option, json_option
from manyhands.crediting.handing_over import ledger
from manyhands.home import Home
from protocol.errors import ConfigError, UsageError
from protocol.files import write_whole
from protocol.fp_profile import FingerprintProfile, file_name
from protocol.wire import FORMATS

__all__ = ["ledger"]  # with one more command

ENOUGH = 0.95  # of windows of cheaper weights have to be rejected


@ledger.command()
@click.argument("model")
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto"
)
@click.option("--quantize", type=click.Choice(["none", "int8", "4bit"]), default="none")
@click.option("--wire", type=click.Choice(sorted(FORMATS)), help="Default: as it is computed.")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--windows", default=2000, show_default=True, help="Honest ones to measure.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: in the home.")
@home_option
@json_option
def calibrate(
    model: str,
    dtype: str,
    quantize: str,
    wire: str | None,
    device: str,
    windows: int,
    out: Path | None,
    home: Path,
    as_json: bool,
) -> None:
    """Measure how far honest runs of MODEL differ here, and set the thresholds of audits by it.

    Batches, cuts of prompts, threads and kernels are tried, and then whether cheaper weights are
    told apart: if not, that is said, and ends with 2.
    """
    if windows < 100:
        raise UsageError("fewer than 100 windows set no threshold", hint="--windows 2000")
    profile, digest = _measured(model, dtype, quantize, wire, device, windows)
    path = out or Home.at(home).calibrations / file_name(digest, profile.execution)
    try:
        write_whole(path, profile.encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    missed = [name for name, share in profile.rejected.items() if share < ENOUGH]
    view = json.loads(profile.encode()) | {
        "name": profile.name,
        "file": str(path),
        "missed": missed,
    }
    click.echo(json.dumps(view)) if as_json else _show(view)
    if missed:
        raise click.exceptions.Exit(2)


def _measured(
    model: str, dtype: str, quantize: str, wire: str | None, device: str, windows: int
) -> tuple[FingerprintProfile, str]:
    """The profile, and the model's digest in hex."""
    from manyhands import __version__
    from manyhands.calibrating.measuring import calibrate as measure
    from manyhands.devices import choose_device, look
    from manyhands.models import find_model
    from manyhands.progress import shown
    from manyhands.signals import ending_at_once
    from node.engine import load_shard

    with ending_at_once(), shown(model) as report:
        found = find_model(model, progress=report)
        if found.store is not None:
            raise ConfigError(
                "a model is calibrated where its weights lie whole",
                hint=f"download it first, and name its directory instead of {model}",
            )
        chosen = choose_device(device, look()).device
        engine = load_shard(
            found.directory, None, dtype=dtype, quantize=quantize, device=chosen, progress=report
        )
        digest = found.manifest.digest.hex()
        profile = measure(
            found.directory,
            engine,
            wire=wire or engine.profile.wire,
            manifest=digest,
            n_windows=windows,
            software=f"manyhands/{__version__} on {platform.machine()}, {engine.device.type}",
            report=report,
        )
    return profile, digest


def _show(view: dict[str, Any]) -> None:
    click.echo(f"{view['execution']}, from {view['n_windows']:,} honest windows")
    click.echo(f"{'blocks':>6}{'mean, seen':>14}{'allowed':>10}{'of one row':>14}{'allowed':>10}")
    for depth, limits in sorted(view["thresholds"].items(), key=lambda item: int(item[0])):
        seen = view["honest"][depth]
        rows = f"{seen['mean']:>14.2e}{limits['mean']:>10.2e}{seen['worst']:>14.2e}"
        click.echo(f"{depth:>6}{rows}{limits['worst']:>10.2e}")
    click.echo(f"draws may fall short by {view['drawn']:.2e}")
    for name, share in view["rejected"].items():
        mark = "✗" if name in view["missed"] else "✓"
        click.echo(f"{mark} {share:.1%} of windows run as {name} are rejected")
    if not view["rejected"]:
        click.echo("no cheaper weights could be tried here: pip install 'manyhands[quant]'")
    click.echo(f"{view['name']}\n{view['file']}")
