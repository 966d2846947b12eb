"""What a training begins with: fresh weights, or those of a training before it."""

from torch import nn

from engine.carry import carry_weights
from engine.errors import UserError
from engine.filter_norms import filter_norms
from engine.graph import NetworkGraph
from engine.rows import TrainingTask
from engine.store import RunStore
from engine.trained_weights import parse_weights, weights_name


def initial_network(task: TrainingTask, graph: NetworkGraph, store: RunStore) -> nn.Module:
    """Returns the network of ``task`` as its training begins, on the CPU.

    With ``task.start`` it has the weights of that row: in a narrower group the filters of largest
    L2 norm (`engine.filter_norms`), in a wider one all of them and new ones, which are read by
    nothing yet (`engine.carry`).

    Raises:
        UserError: those weights are missing or damaged.
    """
    network = graph.build(task.spec, task.seed)
    if task.start is None:
        return network
    name = weights_name(task.start.row)
    data = store.weights.read(name)
    if data is None:
        raise UserError(
            f"{store.weights.path(name)} is gone, with which a training begins; repeat the "
            "command: it is made again"
        )
    try:
        state = parse_weights(data)
    except UserError as error:
        raise UserError(
            f"{store.weights.path(name)}: {error}; repeat the command: it is made again"
        ) from None
    norms = filter_norms(state, graph, task.start.spec)
    carry_weights(state, graph, task.start.spec, task.spec, network, norms)
    return network
