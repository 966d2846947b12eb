"""Energy by the sensors of the device: NVML, RAPL, or the INA sensors of a Jetson board.

What no sensor measures is left out; nothing here is estimated. A sensor measures all that the
device uses, so the idle power is told beside it, and energy includes it.
"""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

SYSTEM = Path("/sys")
LOOP_SECONDS = 1.0
"""Forwards are repeated so long: RAPL counts every ms, NVML's counter every 20 to 100 ms."""
IDLE_SECONDS = 0.5
CALMING_SECONDS = 0.3
"""From the last forward to the idle power: what is measured lags behind what is done."""
SAMPLE_SECONDS = 0.005
"""Least time between two readings of a sensor that tells power, not energy."""


class SensorFailed(Exception):
    """A sensor that has answered before does not."""


class PowerMeter(Protocol):
    """A sensor of the device.

    Attributes:
        name: for people.
    """

    name: str

    def energy_mj(self) -> float:
        """Returns the energy used since a moment in the past that stays the same, in mJ.

        Only differences of two readings count. It must be read at least once a minute.

        Raises:
            SensorFailed: it does not answer.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Energy of a network.

    Attributes:
        energy_mj: of one forward, with what the device uses when idle.
        power_mw: mean over the forwards, idle power included.
        idle_mw: power of the device right before, with nothing to do.
        forwards: how many were averaged.
    """

    energy_mj: float
    power_mw: float
    idle_mw: float
    forwards: int


def measure_energy(
    meter: PowerMeter,
    forward: Callable[[], object],
    *,
    seconds: float = LOOP_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Energy:
    """Measures the energy of forwards that are repeated for ``seconds``.

    Args:
        forward: makes one, and returns when the device has finished it.
        clock, sleep: of the machine.
    """
    sleep(CALMING_SECONDS)
    began, before, idle_mj = clock(), meter.energy_mj(), 0.0
    while clock() - began < IDLE_SECONDS:
        sleep(SAMPLE_SECONDS)
        idle_mj = meter.energy_mj() - before
    idle_mw = idle_mj / (clock() - began)
    began, before, forwards, sampled = clock(), meter.energy_mj(), 0, clock()
    while (now := clock()) - began < seconds or not forwards:
        forward()
        forwards += 1
        if now - sampled >= SAMPLE_SECONDS:
            meter.energy_mj()  # a meter that integrates power must be read meanwhile
            sampled = now
    used_mj = meter.energy_mj() - before
    return Energy(
        energy_mj=used_mj / forwards,
        power_mw=used_mj / (clock() - began),
        idle_mw=idle_mw,
        forwards=forwards,
    )


def power_meter(accelerator: str, system: Path = SYSTEM) -> tuple[PowerMeter | None, str]:
    """Returns the sensor of a device, or None and the reason.

    Args:
        accelerator: ``cpu`` or ``cuda``.
        system: where the kernel shows its sensors.
    """
    jetson = JetsonMeter.find(system)
    if jetson:  # CPU and GPU share one board and its sensors
        return jetson, ""
    if accelerator == "cuda":
        return _nvml_meter()
    try:
        domains = _packages(system / "class/powercap")
    except OSError as error:
        return None, f"RAPL does not answer: {error}"
    if not domains and list(_ina_sensors(system)):
        return None, "the board has an INA3221 sensor, but none of its rails is the board's input"
    if not domains:
        return None, "the system shows no RAPL counter and no INA sensor"
    try:
        return RaplMeter(domains), ""
    except SensorFailed as error:
        return None, f"RAPL does not answer: {error}"


def _packages(powercap: Path) -> list[Path]:
    """RAPL's domains of whole CPU packages; ``psys``, all of the machine, has them in it."""
    domains = sorted(powercap.glob("intel-rapl:?"))
    return [domain for domain in domains if (domain / "name").read_text().startswith("package")]


def _ina_sensors(system: Path) -> Generator[Path]:
    """Directories of the INA3221 sensors of a board."""
    for name in sorted((system / "class/hwmon").glob("hwmon*/name")):
        try:
            found = "ina3221" in name.read_text()
        except OSError:
            continue
        if found:
            yield name.parent


class RaplMeter:
    """Energy counters of the CPU packages, which Linux shows under ``/sys/class/powercap``.

    Args:
        domains: directories of the packages.

    Raises:
        SensorFailed: a counter cannot be read.
    """

    name = "RAPL, CPU packages"

    def __init__(self, domains: list[Path]) -> None:
        self._domains = domains
        self._ranges = [_number(domain / "max_energy_range_uj") for domain in domains]
        self._last = self._read()
        self._total = 0.0

    def energy_mj(self) -> float:
        """Returns the energy since the meter was made, in mJ; a counter may have wrapped once."""
        now = self._read()
        for before, after, span in zip(self._last, now, self._ranges, strict=True):
            self._total += (after - before if after >= before else after + span - before) / 1e3
        self._last = now
        return self._total

    def _read(self) -> list[float]:
        return [_number(domain / "energy_uj") for domain in self._domains]


class JetsonMeter:
    """The input rail of a Jetson board, by its INA3221 sensor: power, which is integrated.

    Args:
        hwmon: directory of the sensor.
        rail: number of its channel.
        clock: in seconds.
    """

    name = "INA3221, input of the board"

    def __init__(
        self, hwmon: Path, rail: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._volts = hwmon / f"in{rail}_input"  # mV
        self._amperes = hwmon / f"curr{rail}_input"  # mA
        self._clock = clock
        self._last = (clock(), self._power_mw())
        self._total = 0.0

    @classmethod
    def find(cls, system: Path = SYSTEM) -> "JetsonMeter | None":
        """Returns the meter of the rail that feeds the whole board, None where there is none."""
        for sensor in _ina_sensors(system):
            for label in sorted(sensor.glob("in*_label")):
                try:
                    # VDD_IN on Nano and Orin, POM_5V_IN before. Boards that label only parts of
                    # their supply, as VIN_SYS_5V0, do not say what all of it takes.
                    if "IN" in label.read_text().strip().split("_"):
                        return cls(sensor, int(label.name[2 : -len("_label")]))
                except (OSError, ValueError, SensorFailed):
                    continue
        return None

    def energy_mj(self) -> float:
        """Returns the energy since the meter was made, in mJ, by the trapezoidal rule."""
        now = (self._clock(), self._power_mw())
        self._total += (now[1] + self._last[1]) / 2 * (now[0] - self._last[0])
        self._last = now
        return self._total

    def _power_mw(self) -> float:
        return _number(self._volts) * _number(self._amperes) / 1e3


class NvmlMeter:
    """The energy counter of an NVIDIA GPU since Volta.

    Args:
        nvml: the module ``pynvml``, initialised.
        handle: of the GPU.

    Raises:
        SensorFailed: the GPU has no such counter.
    """

    name = "NVML energy counter"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self.energy_mj()

    def energy_mj(self) -> float:
        """Returns the energy since the driver was loaded, in mJ."""
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError as error:
            raise SensorFailed(str(error)) from None


def _nvml_meter() -> tuple[PowerMeter | None, str]:
    nvml, why = _nvml()
    if nvml is None:
        return None, why
    try:
        return NvmlMeter(nvml, _gpu(nvml)), ""
    except (nvml.NVMLError, SensorFailed) as error:
        return None, f"NVML does not tell energy: {error}"


def gpu_state() -> dict[str, str]:
    """Returns clocks, temperature and power state of the GPU, as far as NVML tells them."""
    nvml, why = _nvml()
    if nvml is None:
        return {"gpu clocks": f"not read: {why}"}
    try:
        handle = _gpu(nvml)
    except nvml.NVMLError as error:
        return {"gpu clocks": f"not read: {error}"}
    readings = {
        "gpu clock": lambda: f"{nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)} MHz",
        "gpu memory clock": (
            lambda: f"{nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)} MHz"
        ),
        "gpu temperature": (
            lambda: f"{nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)} °C"
        ),
        "gpu power limit": lambda: f"{nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3:.0f} W",
    }
    found: dict[str, str] = {}
    for name, read in readings.items():
        try:
            found[name] = read()
        except nvml.NVMLError as error:
            found[name] = f"not read: {error}"
    return found


def _nvml() -> tuple[ModuleType | Any | None, str]:
    """The module of NVML, ready for use, or None and the reason."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, f"NVML does not answer: {error}"
    return pynvml, ""


def _gpu(nvml: Any) -> Any:
    """The GPU that PyTorch calls its current one; found by UUID, since NVML counts all GPUs."""
    import torch

    uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")


def _number(path: Path) -> float:
    try:
        return float(path.read_text())
    except PermissionError:
        raise SensorFailed(f"{path} may be read by root only") from None
    except (OSError, ValueError) as error:
        raise SensorFailed(f"{path}: {error}") from None
