"""Jobs that SLURM would never start, found among those that wait for their turn."""

from pathlib import Path

from terse.launch.queue import hopeless_jobs

QUEUE = """\
11|rule_train_model_wildcards_base|/w|PartitionConfig
12|rule_cache_activations_wildcards_base_00003|/w|PartitionTimeLimit
13|rule_train_model_wildcards_other|/w|Resources
14|rule_train_model_wildcards_base|/elsewhere|PartitionConfig
15|rule_train_model_wildcards_next|/w|Priority
"""


def test_only_own_jobs_that_can_never_start() -> None:
    found = hopeless_jobs(QUEUE, Path("/w"))
    assert [job.number for job in found] == ["11", "12"]
    assert str(found[1]) == (
        "cache_activations base 00003: SLURM would leave job 12 in the queue indefinitely "
        "(PartitionTimeLimit): its partition allows less time; change runtime under "
        "set-resources in the profile"
    )
    assert hopeless_jobs("", Path("/w")) == []
