"""Library errors as ours, without what they hold on to."""

import gc
import traceback
import weakref

import numpy as np
import pytest
import torch

import errors
from speech.engines.failures import is_out_of_memory, translated


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA failed with error out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_running_out_of_memory_is_known(error):
    with pytest.raises(errors.EngineOutOfMemory) as caught, translated():
        raise error

    assert caught.value.__cause__ is error


def test_torch_s_own_failure_to_allocate_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)

    assert is_out_of_memory(caught.value)


def test_numpy_s_own_failure_to_allocate_is_known():
    with pytest.raises(MemoryError) as caught:
        np.empty(2**60, dtype=np.uint8)

    assert is_out_of_memory(caught.value)


def test_what_a_value_error_says_of_memory_is_no_lack_of_it():
    assert not is_out_of_memory(ValueError("out of memory"))


def test_any_other_error_is_the_engine_s():
    with pytest.raises(errors.EngineError) as caught, translated():
        raise KeyError("decoder.blocks.0")

    assert type(caught.value) is errors.EngineError


def test_a_load_fails_as_one():
    with pytest.raises(errors.ModelLoadFailed), translated(errors.ModelLoadFailed):
        raise OSError


def test_our_own_errors_pass():
    with pytest.raises(errors.CancelRequested), translated():
        raise errors.CancelRequested


class Tensor:
    pass


def test_an_error_does_not_keep_alive_what_did_not_fit():
    alive = weakref.WeakSet[Tensor]()

    def work() -> None:
        tensor = Tensor()
        alive.add(tensor)

        def work_on(seen=tensor) -> None:
            assert tensor is seen
            raise MemoryError

        work_on()

    with pytest.raises(errors.EngineOutOfMemory) as caught, translated():
        work()
    gc.collect()

    assert caught.value.__cause__ is not None
    assert not alive


def test_where_memory_ran_out_is_told_all_the_same():
    def work() -> None:
        raise MemoryError

    with pytest.raises(errors.EngineOutOfMemory) as caught, translated():
        work()

    assert "in work" in "".join(traceback.format_exception(caught.value))


def test_memory_is_freed_after_its_holders_have_gone():
    alive = weakref.WeakSet[Tensor]()
    left = []

    def work() -> None:
        tensor = Tensor()
        alive.add(tensor)
        raise MemoryError

    with (
        pytest.raises(errors.EngineOutOfMemory),
        translated(on_out_of_memory=lambda: left.append(len(alive))),
    ):
        work()

    assert left == [0]
