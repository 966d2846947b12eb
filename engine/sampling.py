"""Importance of sampled networks without a training of each: as one task, and from its row."""

import math
from collections.abc import Sequence
from dataclasses import replace

from engine.errors import UserError
from engine.results import ImportanceSample
from engine.rows import Cheap, Row, Sampling, TrainingTask
from engine.spec import NetworkSpec

_BATCHES = 8
"""Batches that every network sees at its initialisation, at the least."""


def sampling_task(
    short: TrainingTask, networks: Sequence[NetworkSpec], source: Cheap, train_images: int
) -> TrainingTask:
    """Returns the one task that finds the importance of all ``networks`` (see `Sampling`).

    Its network has every group as wide as the widest of them. At initialisation, the epochs are
    as many passes over the images as give every network some batches.

    Args:
        short: the training that a search spends on one network.
        networks: at least one, with equal groups and resolution.
        source: ``slimmable`` or ``initial``.
        train_images: of the training split.

    Raises:
        UserError: there are not as many steps as networks.
    """
    unique = tuple(dict.fromkeys(networks))
    widest = unique[0].with_widths(
        {group: max(spec.width_of[group] for spec in unique) for group, _ in unique[0].widths}
    )
    # The average of weights would be judged in place of what the networks shared.
    training = replace(short.training, swa_share=0.0)
    steps = train_images // training.batch_size
    if source == "initial":
        training = training.for_epochs(math.ceil(_BATCHES * len(unique) / max(1, steps)))
    if training.epochs * steps < len(unique):
        raise UserError(
            f"sample.source {source}: {len(unique)} networks take turns at the steps of one "
            f"training, and sample.training has only {training.epochs * steps}; give it more "
            "epochs or a smaller batch_size"
        )
    return replace(
        short,
        spec=widest,
        training=training,
        importance=False,
        sampling=Sampling(source=source, networks=unique),
    )


def samples_of(row: Row) -> tuple[ImportanceSample, ...]:
    """Returns the sampled networks of a finished `sampling_task`; their losses are the row's."""
    assert row.task.sampling is not None and row.sampled is not None
    return tuple(
        ImportanceSample(
            row=row.task.id,
            index=index,
            widths=spec.width_of,
            importance=importance,
            val_loss=row.last.val_loss,
            val_accuracy=row.last.val_accuracy,
        )
        for index, (spec, importance) in enumerate(
            zip(row.task.sampling.networks, row.sampled, strict=True)
        )
    )
