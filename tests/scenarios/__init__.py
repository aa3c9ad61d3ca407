"""What tests do that takes more than a line: whole trainings, several processes at once, networks made ready.

A scenario that several processes run together is a plain function of a folder, in the file of its subject. It is listed
in the table at the end of that file, and `processes.run` starts the processes, which import it by its name: so it stays
at the top level of its module, and its module starts nothing when it is imported. What it returns lands in the folder,
and the tests of ``tests/test_distributed_*.py`` read it there.

| several processes | subject |
|---|---|
| `processes` | starts them, and reads what each of them returned or raised |
| `functions` | prune, calibrate and measure, with batches shared out unevenly; failures on one process |
| `criteria`, `entropy`, `repairs`, `search`, `statistics` | the same for what asks for data |
| `sharded` | a model whose parameters are spread over the processes |
| `trainings`, `checkpoints`, `rounds` | Lightning's Trainer, with DDP and with parameters spread |

| one process | subject |
|---|---|
| `resuming` | trainings that are stopped and resumed, and compared to the last bit |
| `fuzzing` | random networks, and random ways to prune them |
| `thinned` | networks of the zoo, half of their weights zero, with the dense one and batches |
| `wrecked` | networks of the zoo with dead parts, before and after `collapse` |
| `gradients` | classifiers of the zoo, and the gradients of single samples |
| `datasets` | the data sets of the experiments in their real layouts, a few samples each |

Small things that many tests need (a loader, a Trainer, counts of zeros) are in ``tests/helpers.py``.
"""
