"""The device is chosen from what is there, said aloud, and never silently the CPU."""

from dataclasses import replace

import pytest

from manyhands.devices import GIB, Gpu, Seen, choose_device, look
from protocol.errors import ConfigError, UsageError

BARE = Seen(torch_version="2.13.0+cpu", torch_cuda=None)
SMALL = Gpu("NVIDIA T4", 10 * GIB, 16 * GIB)
LARGE = Gpu("NVIDIA H200", 130 * GIB, 139 * GIB)
TWO = Seen(
    torch_version="2.13.0", torch_cuda="13.0", gpus=(SMALL, LARGE), has_mps=True, has_nvidia=True
)


def test_cuda_comes_before_mps_and_mps_before_the_cpu() -> None:
    assert choose_device("auto", TWO).device == "cuda:1", "the one with the most free memory"
    assert choose_device("auto", replace(TWO, gpus=(SMALL,))).device == "cuda:0"
    assert choose_device("auto", replace(BARE, has_mps=True)).device == "mps"
    assert choose_device("auto", BARE).device == "cpu"
    assert choose_device("cpu", TWO).device == "cpu"


def test_what_was_chosen_is_told_with_its_memory() -> None:
    told = choose_device("auto", TWO).told

    assert told[0] == "device: cuda:1, NVIDIA H200, 130.0 of 139.0 GiB free"
    assert "--device cuda:0,cuda:1 uses them as one node" in told[1]
    assert choose_device("cpu", BARE).told[0].startswith("device: cpu, ")


def test_several_gpus_are_one_node_when_named() -> None:
    choice = choose_device("cuda:0,cuda:1", TWO)

    assert choice.device == "cuda:0,cuda:1"
    assert len(choice.told) == 2


@pytest.mark.parametrize(
    "asked", ["cuda", "cuda:0", "mps", "tpu", "", "cpu:1", "cpu,cuda", "auto,"]
)
def test_a_device_that_is_not_here_is_named(asked: str) -> None:
    with pytest.raises(UsageError, match=r"there is no device .*torch 2\.13\.0\+cpu"):
        choose_device(asked, BARE)


@pytest.mark.parametrize("asked", ["cuda:2", "cuda:x", "cuda:0,cuda:7", "cuda:0,mps"])
def test_a_gpu_too_many_is_refused(asked: str) -> None:
    with pytest.raises(UsageError, match="there is no device"):
        choose_device(asked, TWO)


def test_a_required_gpu_that_is_missing_ends_it() -> None:
    for asked in ("auto", "cpu"):
        with pytest.raises(ConfigError, match="no GPU here") as caught:
            choose_device(asked, BARE, require_gpu=True)
        assert caught.value.exit_code == 3
        assert "--require-gpu" in caught.value.hint
    assert choose_device("auto", TWO, require_gpu=True).device == "cuda:1"


def test_a_gpu_under_a_torch_for_cpus_is_told_with_the_command_that_helps() -> None:
    seen = replace(BARE, has_nvidia=True)

    warning = choose_device("auto", seen).told[1]
    with pytest.raises(ConfigError, match="a build for CPUs only") as required:
        choose_device("auto", seen, require_gpu=True)
    with pytest.raises(UsageError, match="a build for CPUs only") as asked:
        choose_device("cuda", seen)

    assert "pip install" in warning
    for error in (required, asked):
        assert error.value.hint.startswith("pip install --force-reinstall")
        assert error.value.hint.endswith("torch==2.13.0")


def test_a_driver_that_is_ill_is_told_apart() -> None:
    seen = Seen(torch_version="2.13.0", torch_cuda="13.0", has_nvidia=True)

    with pytest.raises(ConfigError, match=r"\(for CUDA 13\.0\) cannot use it") as caught:
        choose_device("auto", seen, require_gpu=True)

    assert "nvidia-smi" in caught.value.hint


def test_this_machine_can_be_looked_at() -> None:
    assert choose_device("auto", look()).told
