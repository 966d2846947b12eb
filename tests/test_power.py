from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine import power
from engine.power import (
    JetsonMeter,
    NvmlMeter,
    RaplMeter,
    SensorFailed,
    measure_energy,
    power_meter,
)


class Clock:
    """Time that passes only when something says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def rapl(system: Path, *packages: int, span: int = 1_000_000) -> list[Path]:
    """Package counters in µJ, as Linux shows them."""
    found = []
    for number, energy in enumerate(packages):
        domain = system / "class/powercap" / f"intel-rapl:{number}"
        domain.mkdir(parents=True)
        (domain / "max_energy_range_uj").write_text(f"{span}\n")
        (domain / "energy_uj").write_text(f"{energy}\n")
        (domain / "name").write_text(f"package-{number}\n")
        found.append(domain)
    return found


def ina_sensor(system: Path, *rails: str) -> Path:
    """A sensor with labelled rails, as Linux shows it."""
    sensor = system / "class/hwmon/hwmon3"
    sensor.mkdir(parents=True)
    (sensor / "name").write_text("ina3221\n")
    for number, label in enumerate(rails, start=1):
        (sensor / f"in{number}_label").write_text(f"{label}\n")
    return sensor


def test_rapl_sums_the_packages_and_counts_on_when_a_counter_wraps(tmp_path: Path):
    first, second = rapl(tmp_path, 999_000, 500, span=1_000_000)
    meter, why = power_meter("cpu", tmp_path)
    assert isinstance(meter, RaplMeter) and not why
    (first / "energy_uj").write_text("4000\n")  # over the end: 1,000 + 4,000 µJ
    (second / "energy_uj").write_text("2500\n")  # 2,000 µJ
    assert meter.energy_mj() == pytest.approx(7.0)
    (first / "energy_uj").write_text("3000\n")  # once around, without a reading: 999,000 µJ
    assert meter.energy_mj() == pytest.approx(7.0 + 999.0)


def test_parts_of_a_package_are_not_counted_twice(tmp_path: Path):
    rapl(tmp_path, 0)
    part = tmp_path / "class/powercap/intel-rapl:0:0"
    part.mkdir()
    meter, _ = power_meter("cpu", tmp_path)
    assert meter is not None and meter.energy_mj() == 0


def test_a_gpu_that_nvml_does_not_know_is_said_so(monkeypatch: pytest.MonkeyPatch):
    class Unknown(Exception):
        pass

    def handle(uuid: str) -> str:
        if uuid != "GPU-known":
            raise Unknown("not found")
        return uuid

    def clock(handle: str, kind: int) -> int:
        return {1: 1980, 2: 3201}[kind]

    nvml = SimpleNamespace(
        NVMLError=Unknown,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetClockInfo=clock,
        nvmlDeviceGetTemperature=lambda handle, kind: 41,
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 700_000,
    )
    uuids = ["slice", "known"]
    current = SimpleNamespace(uuid=uuids[0])
    monkeypatch.setattr(power, "_nvml", lambda: (nvml, ""))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: current)
    assert power.gpu_state() == {"gpu clocks": "not read: not found"}
    current.uuid = uuids[1]
    assert power.gpu_state() == {
        "gpu clock": "1980 MHz",
        "gpu memory clock": "3201 MHz",
        "gpu temperature": "41 °C",
        "gpu power limit": "700 W",
    }


def test_the_domain_of_the_whole_machine_is_no_package(tmp_path: Path):
    package, machine = rapl(tmp_path, 0, 0)
    (machine / "name").write_text("psys\n")
    meter, _ = power_meter("cpu", tmp_path)
    assert meter is not None
    for domain in (package, machine):
        (domain / "energy_uj").write_text("3000\n")
    assert meter.energy_mj() == pytest.approx(3.0)


def test_the_input_rail_of_a_jetson_is_integrated(tmp_path: Path):
    sensor = ina_sensor(tmp_path, "VDD_CPU_GPU_CV", "VDD_IN", "sum of shunt voltages")
    (sensor / "in2_input").write_text("5000\n")  # 5 V
    (sensor / "curr2_input").write_text("1000\n")  # 1 A
    found = JetsonMeter.find(tmp_path)
    assert found is not None
    assert power_meter("cuda", tmp_path)[0] is not None, "the GPU is on the same board"

    clock = Clock()
    meter = JetsonMeter(sensor, 2, clock)
    clock.now = 2.0
    assert meter.energy_mj() == pytest.approx(10_000)  # 5 W for 2 s
    clock.now = 3.0
    (sensor / "curr2_input").write_text("2000\n")  # from 5 to 10 W in 1 s
    assert meter.energy_mj() == pytest.approx(17_500)


def test_a_board_that_labels_only_parts_of_its_supply_says_so(tmp_path: Path):
    ina_sensor(tmp_path, "VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    meter, why = power_meter("cpu", tmp_path)
    assert meter is None
    assert why == "the board has an INA3221 sensor, but none of its rails is the board's input"


def test_a_sensor_that_stops_answering_says_so(tmp_path: Path):
    (package,) = rapl(tmp_path, 0)
    meter, _ = power_meter("cpu", tmp_path)
    assert meter is not None
    (package / "energy_uj").unlink()
    with pytest.raises(SensorFailed, match="energy_uj"):
        meter.energy_mj()
    (package / "energy_uj").write_text("gone\n")
    with pytest.raises(SensorFailed, match=r"energy_uj.*gone"):
        meter.energy_mj()

    class Lost(Exception):
        pass

    def count(handle: object) -> int:
        raise Lost("GPU is lost")

    nvml = SimpleNamespace(NVMLError=Lost, nvmlDeviceGetTotalEnergyConsumption=count)
    with pytest.raises(SensorFailed, match="GPU is lost"):
        NvmlMeter(nvml, None)


def test_nvml_counts_by_itself():
    readings = iter([7, 1_000, 1_500])
    nvml = SimpleNamespace(
        NVMLError=OSError, nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(readings)
    )
    meter = NvmlMeter(nvml, None)
    assert meter.energy_mj() - meter.energy_mj() == -500


def test_energy_is_that_of_the_loop_by_the_forwards_in_it():
    clock = Clock()

    class Meter:
        """10 W when idle, and 2 J more for every forward."""

        name = "test"
        forwards = 0

        def energy_mj(self) -> float:
            return 10_000 * clock.now + 2_000 * self.forwards

    meter = Meter()

    def forward() -> None:
        meter.forwards += 1
        clock.now += 0.25

    energy = measure_energy(meter, forward, seconds=0.9, clock=clock, sleep=clock.sleep)
    assert energy.forwards == 4
    assert energy.idle_mw == pytest.approx(10_000)
    assert energy.energy_mj == pytest.approx(2_000 + 0.25 * 10_000)
    assert energy.power_mw == pytest.approx(10_000 + 2_000 / 0.25)


def test_idle_power_is_not_that_of_the_forwards_before_it():
    """A meter that integrates power by what it reads, as `JetsonMeter`; warming up took 20 W."""
    clock = Clock()

    class Meter:
        name = "test"
        last, total = (0.0, 20_000.0), 0.0

        def energy_mj(self) -> float:
            now = (clock.now, 20_000.0 if clock.now < 0.2 else 10_000.0)
            self.total += (now[1] + self.last[1]) / 2 * (now[0] - self.last[0])
            self.last = now
            return self.total

    energy = measure_energy(Meter(), lambda: clock.sleep(0.1), clock=clock, sleep=clock.sleep)
    assert energy.idle_mw == pytest.approx(10_000)


def test_where_no_sensor_answers_the_reason_is_told(tmp_path: Path):
    assert power_meter("cpu", tmp_path) == (
        None,
        "the system shows no RAPL counter and no INA sensor",
    )
    [domain] = rapl(tmp_path, 0)
    (domain / "energy_uj").write_text("")
    meter, why = power_meter("cpu", tmp_path)
    assert meter is None and "RAPL does not answer" in why
    (domain / "energy_uj").unlink()
    meter, why = power_meter("cpu", tmp_path)
    assert meter is None and "energy_uj" in why
