"""What `nbnorm compare` times of PyTorch is the same work."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import cli
from nbnorm.operations import BY_NAME
from tests.conftest import import_peer


@pytest.mark.peer
@pytest.mark.parametrize("warming", cli.COMPARED, ids=lambda warming: warming.name)
def test_both_sides_give_the_same(warming):
    torch = import_peer("torch")
    from nbnorm.interop.torch.steps import steps

    sizes = {name: (5, 7) if name == "p" else min(size, 9) for name, size in warming.sizes.items()}
    given = cli._drawn(warming._replace(sizes=sizes), "float32")
    operation = BY_NAME[warming.operation]
    before = torch.get_num_threads()
    train, infer = steps(warming.operation, given, before)

    def as_ours(tensor):
        array = tensor.numpy()
        moved = given.get("axis") == -1 and array.ndim == 4 and array.shape[0] == sizes["n"]
        return np.moveaxis(array, 1, -1) if moved else array

    y = operation.call("inference", given)()
    np.testing.assert_allclose(as_ours(infer()), y, rtol=1e-4, atol=1e-4)
    _, _, ours = operation.train(given)
    dx, dgamma, dbeta, *dweight = train()
    np.testing.assert_allclose(as_ours(dx), ours.dx, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(dgamma.numpy(), ours.dgamma, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(dbeta.numpy(), ours.dbeta, rtol=1e-3, atol=1e-3)
    for one in dweight:
        np.testing.assert_allclose(one.numpy(), ours.dweight, rtol=1e-3, atol=1e-3)
