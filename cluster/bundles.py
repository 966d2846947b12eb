"""What a task needs on one node of Ray."""

from collections.abc import Mapping

import ray

from engine.recipe import Device


def bundle_of(device: Device) -> dict[str, float]:
    """Returns what a measurement of a device books."""
    bundle = {"CPU": float(device.threads), "GPU": float(device.accelerator == "cuda")}
    return bundle | ({device.node_resource: 1.0} if device.node_resource else {})


def lacking_node(what: str, bundle: Mapping[str, float]) -> str:
    """Returns that no node has all of a bundle, for which Ray would wait for ever; "" if one has.

    Args:
        what: that is to run there, for the message.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(kind, 0) >= amount for kind, amount in bundle.items()) for node in nodes):
        return ""
    needs = ", ".join(f"{amount:g} {kind}" for kind, amount in bundle.items() if amount)
    return f"one {what} of the recipe needs {needs} on one node, which no node of Ray has"
