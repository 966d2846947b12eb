"""What `hacscale profile` shows."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.display import milliseconds, percent, signed
from engine.measure import Timing
from engine.results import ProfileResult


def render_profile(result: ProfileResult, base: Timing) -> RenderableType:
    """Returns how wrong the model is, what steps the device has, and what was measured on.

    Args:
        result: of the profile.
        base: the base network, as measured.
    """
    quality, key, latency = result.quality, result.key, base.latency
    figures = Table(box=None, show_header=False, pad_edge=False)
    figures.add_row("base network", f"{milliseconds(latency.ms)} ± {percent(latency.noise_floor)}")
    figures.add_row(
        "wall clock",
        f"minimum {milliseconds(latency.wall_ms_min)}, median "
        f"{milliseconds(latency.wall_ms_median)}, 95 % {milliseconds(latency.wall_ms_p95)}, "
        f"mean of up to 50 {milliseconds(latency.wall_ms_mean50)}",
    )
    if latency.cpu_ms is not None:
        figures.add_row("CPU time", f"median {milliseconds(latency.cpu_ms)}")
    if latency.energy_mj is not None and latency.power_mw is not None:
        watts = f"{latency.power_mw / 1e3:.3g} W"
        if latency.idle_mw is not None:
            watts += f", {latency.idle_mw / 1e3:.3g} W when idle"
        energy = f"{latency.energy_mj:.3g} mJ a forward, {watts}"
        figures.add_row("energy", f"{energy} ({result.environment['power']})")
    figures.add_row("networks not seen", str(len(quality.measured_ms)))
    figures.add_row("MAPE", percent(quality.mape))
    figures.add_row("RMSPE", percent(quality.rmspe))
    figures.add_row("within ±10 %", percent(quality.within_10, 0))
    figures.add_row("Spearman", signed(quality.spearman, 3))
    figures.add_row("noise floor", f"{percent(result.noise_floor)} (median of all networks)")
    if result.seconds is not None:
        figures.add_row("profiling", f"{result.seconds:.0f} s")
    steps = Table(box=None, pad_edge=False)
    steps.add_column("channels computed together")
    steps.add_column("", justify="right")
    for op, channels in result.granularity.items():
        steps.add_row(Text(op), str(channels))
    made = Table(box=None, show_header=False, pad_edge=False)
    for name, value in result.environment.items():
        made.add_row(Text(name), Text(value))
    title = Text(
        f"{base.spec.model.name} at {base.spec.resolution} px on {key.device}: {key.runtime}, "
        f"{key.layout}, {key.dtype}, {key.threads} thread(s), batch {key.batch}",
        style="bold",
    )
    return Group(title, "", figures, "", steps, "", made)
