"""Arrays on their way to the device, and what a step drew as the next one's input there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.engine.batch import drawn
from octavo.engine.config import EngineConfig
from octavo.engine.models.source import open_model
from octavo.engine.runners import Submitting
from octavo.engine.runners.torch import TorchRunner
from octavo.engine.runners.torch.staging import Staging
from octavo.kernels.reference.end_to_end import ALIGNMENT
from tests.conftest import TinyModel

from .steps import Piece, batch_of, device_of

CPU = torch.device("cpu")
arrays = st.builds(
    lambda dtype, shape: np.arange(np.prod(shape)).reshape(shape).astype(dtype),
    st.sampled_from([np.int32, np.int64, np.float32, np.bool_]),
    st.lists(st.integers(0, 9), min_size=1, max_size=3),
)


@given(st.lists(st.lists(arrays, max_size=6), min_size=1, max_size=4), st.sampled_from([16, 64, 1 << 12]))
def test_arrays_arrive_as_they_are_whatever_room_there_was(
    steps: list[list[np.ndarray]], num_bytes: int
) -> None:
    staging = Staging(CPU, num_bytes)
    for step in steps:
        staging.begin()
        tensors = [staging.put(array) for array in step]
        staging.send()
        late = [staging.put_and_send(array) for array in step]
        for array, tensor in zip([*step, *step], [*tensors, *late], strict=True):
            assert tensor.data_ptr() % ALIGNMENT == 0 or not array.size
            np.testing.assert_array_equal(tensor.numpy(), array)
            assert tensor.numpy().dtype == array.dtype


def test_a_step_in_flight_keeps_its_arrays_while_the_next_is_prepared() -> None:
    staging = Staging(CPU)
    first, second = np.arange(5), np.arange(5, 10)
    staging.begin()
    one = staging.put_and_send(first)
    staging.begin()
    staging.put_and_send(second)
    np.testing.assert_array_equal(one.numpy(), first)


def test_a_drawn_token_is_known_where_it_was_drawn(tiny_model: TinyModel, kernels: str) -> None:
    """Two steps submitted one after the other, before the result of either, against two that are run."""
    path = str(tiny_model("llama"))
    config = EngineConfig(
        model=path,
        device=device_of(kernels),
        runner="torch",
        kernels=kernels,
        dtype="float32",
        cuda_graphs="off",
    )
    runner = TorchRunner(open_model(path), config, 512)
    assert isinstance(runner, Submitting)
    runner.allocate(20)
    texts, blocks = [[5, 6, 7], list(range(20, 40))], [[3], [7, 2]]
    prompts = batch_of(*(Piece(t, 0, len(t), b) for t, b in zip(texts, blocks, strict=True)))

    def decode(tokens: list[int]) -> list[int]:
        """A batch that takes the two sequences on in the other order."""
        pieces = [
            Piece([*text, 0], len(text), len(text) + 1, table)
            for text, table in zip(reversed(texts), reversed(blocks), strict=True)
        ]
        batch = replace(batch_of(*pieces), token_ids=np.array(tokens, np.int32))
        return runner.run(batch).token_ids.tolist()

    first = runner.run(prompts).token_ids.tolist()
    expected = decode([first[1], first[0]])
    submitted = runner.submit(prompts)
    assert decode([drawn(1), drawn(0)]) == expected
    assert submitted.result().token_ids.tolist() == first
