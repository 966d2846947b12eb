"""What a measurement is valid for: one device, runtime, layout, type, threads and batch."""

from dataclasses import dataclass, fields

from engine.codec import STRICT
from engine.errors import UserError
from engine.recipe import Device

_REMEDY = {
    "device": (
        "profile this device, choose the other one by device.place, or start a new run where an "
        "earlier version called it otherwise"
    ),
    "runtime": "set device.runtime, or profile again",
    "layout": "set device.layout, or profile again",
    "dtype": "profile again",
    "threads": "set device.threads, or profile again",
    "batch": "set device.batch, or profile again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileKey:
    """What latency depends on beside the network; measurements of two keys do not compare.

    Attributes:
        device: the name of the CPU or GPU.
    """

    __pydantic_config__ = STRICT

    device: str
    runtime: str
    layout: str
    dtype: str
    threads: int
    batch: int

    @classmethod
    def of(cls, device: Device, name: str) -> "ProfileKey":
        """Returns the key of measurements with these settings on the CPU or GPU ``name``."""
        return cls(
            device="synthetic" if device.runtime == "synthetic" else name,
            runtime=device.runtime,
            layout=device.layout,
            dtype="float32",
            threads=device.threads,
            batch=device.batch,
        )

    def check(self, other: "ProfileKey", what: str) -> None:
        """Checks that what was measured under this key may be used for ``other``.

        Args:
            other: what is asked for.
            what: how messages call the owner of this key, for example a file name.

        Raises:
            UserError: they differ; the first difference is named.
        """
        for field in fields(self):
            mine, wanted = getattr(self, field.name), getattr(other, field.name)
            if mine != wanted:
                raise UserError(
                    f"{what} is of {field.name} {mine!r}, but {wanted!r} is asked for; "
                    f"{_REMEDY[field.name]}"
                )
