"""Energy of an accelerator with a memory hierarchy, relative to one MAC unless calibrated."""

import math
from dataclasses import dataclass, replace

from engine.codec import STRICT
from engine.costs import LayerCost, NetworkCost
from engine.errors import require
from engine.hardware.calibrated import check_known

REFERENCE_BITS = 16
"""Width of the data whose access costs are given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accesses:
    """Values that an op reads or writes at each level of the hierarchy."""

    rf: float
    noc: float
    buffer: float
    dram: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """E = E_comp + E_data of a network, in units of ``mac`` or, where calibrated, of ``unit_mj``.

    E_comp = MACs that neither sparsity skips × ``mac``. E_data = Σ over levels of accesses × cost
    × bits / 16. Source: Yang et al. 2017; the relative costs are theirs for 65 nm and 16 bits.

    Deviation: their accesses come from a search over dataflows. Here they follow from a fixed one:
    the weights, inputs and outputs of a convolution or linear layer cross DRAM once (other ops are
    taken to be fused and move nothing), a value from the buffer serves ``reuse`` MACs, each
    transfer over the network on chip serves as many, and a MAC reads three values from the
    registers and writes one. Compression makes the DRAM and buffer traffic of sparse values
    proportional to the values that are not zero.

    Attributes:
        mac, rf, noc, buffer, dram: energy of one MAC or one access.
        reuse: MACs per value that comes from the buffer.
        weight_bits, activation_bits: of the values.
        weight_sparsity, activation_sparsity: share of zeros.
        batch: images for which weights are read from DRAM once.
        unit_mj: millijoules of one MAC; None for relative energies.
    """

    __pydantic_config__ = STRICT

    mac: float = 1.0
    rf: float = 1.0
    noc: float = 2.0
    buffer: float = 6.0
    dram: float = 200.0
    reuse: float = 16.0
    weight_bits: int = 16
    activation_bits: int = 16
    weight_sparsity: float = 0.0
    activation_sparsity: float = 0.0
    batch: int = 1
    unit_mj: float | None = None

    def __post_init__(self) -> None:
        for name in ("mac", "rf", "noc", "buffer", "dram"):
            require(
                0 <= getattr(self, name) < math.inf,
                f"{name} must be finite and not negative",
                getattr(self, name),
            )
        for name in ("reuse", "weight_bits", "activation_bits", "batch"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        for name in ("weight_sparsity", "activation_sparsity"):
            require(0 <= getattr(self, name) < 1, f"{name} must lie in [0, 1)", getattr(self, name))
        require(self.unit_mj is None or self.unit_mj > 0, "unit_mj must be positive", self.unit_mj)

    def compute(self, cost: LayerCost) -> float:
        """Returns E_comp of one image."""
        dense = (1 - self.weight_sparsity) * (1 - self.activation_sparsity)
        return cost.macs * dense * self.mac

    def weight_accesses(self, cost: LayerCost) -> Accesses:
        """Returns accesses of weights for one image."""
        kept = 1 - self.weight_sparsity
        fetched = kept * cost.macs / self.reuse
        return Accesses(
            rf=kept * cost.macs,
            noc=fetched,
            buffer=fetched,
            dram=kept * cost.weights / self.batch,
        )

    def activation_accesses(self, cost: LayerCost) -> Accesses:
        """Returns accesses of inputs, partial sums and outputs for one image."""
        kept = 1 - self.activation_sparsity
        # An input that is zero is not fetched; of a partial sum, one read and one write remain.
        fetched = 2 * kept * cost.macs / self.reuse
        return Accesses(
            rf=3 * kept * cost.macs,
            noc=fetched,
            buffer=fetched,
            dram=kept * (cost.in_size + cost.out_size),
        )

    def data(self, cost: LayerCost) -> float:
        """Returns E_data of one image."""
        of_weights = self._moved(self.weight_accesses(cost)) * self.weight_bits
        of_activations = self._moved(self.activation_accesses(cost)) * self.activation_bits
        return (of_weights + of_activations) / REFERENCE_BITS

    def layer(self, cost: LayerCost) -> float:
        """Returns the energy of one op for one image, in mJ where calibrated; 0 without MACs.

        Raises:
            UserError: an unknown kind of op.
        """
        check_known(cost)
        if not cost.macs:
            return 0.0
        unit = 1.0 if self.unit_mj is None else self.unit_mj
        return unit * (self.compute(cost) + self.data(cost))

    def predict(self, cost: NetworkCost) -> float:
        """Returns the energy of a whole network for one image; raises like `layer`."""
        return sum([self.layer(layer) for layer in cost.layers])

    def calibrated(self, cost: NetworkCost, energy_mj: float) -> "Energy":
        """Returns the model in mJ, so that it is right for a network that was measured.

        Args:
            energy_mj: of one image: that of a forward (`engine.results.Latency`) by its batch.
        """
        return replace(self, unit_mj=energy_mj / replace(self, unit_mj=None).predict(cost))

    def _moved(self, accesses: Accesses) -> float:
        return (
            accesses.rf * self.rf
            + accesses.noc * self.noc
            + accesses.buffer * self.buffer
            + accesses.dram * self.dram
        )
