"""Everything that is tried with both callbacks: a tiny training, and one thing that users do with it."""

from model_pruning_cases import checkpoints, reports, trainings
from model_pruning_cases.case import Case

CASES = [
    Case(run)
    for run in (
        trainings.default_targets,
        trainings.four_parts,
        checkpoints.resume,
        checkpoints.resume_with_masks,
        checkpoints.resume_before,
        checkpoints.plain_module,
        checkpoints.buffer_named_mask,
        checkpoints.metric_and_weights,
        checkpoints.strategy,
        trainings.second_fit,
        trainings.second_fit_with_masks,
        trainings.tested_after_fit,
        checkpoints.tested_elsewhere,
        trainings.averaged_weights,
        trainings.deepcopy,
        trainings.attention,
        trainings.two_processes,
        trainings.two_processes_at_the_end,
        reports.memory_of_prunings,
        reports.memory_of_fits,
        reports.reported,
        reports.loggers,
        reports.selection_in_yaml,
        reports.impossible_share,
    )
]
