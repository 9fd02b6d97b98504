"""The Triton kernel against numba's, and in a whole model: on a GPU, or in Triton's interpreter.

``test_kernels_triton.py`` runs this in a process of its own, for TRITON_INTERPRET=1, with which it
runs on the CPU, must be set before anything imports triton.
"""

import os

import pytest
import schnetpack.nn as snn
import torch
from schnetpack import properties

from schnetpack_tpainn import testing
from schnetpack_tpainn.nn.kernels.base import Pairs
from schnetpack_tpainn.nn.kernels.numba_kernel import NumbaKernel
from schnetpack_tpainn.nn.kernels.triton_kernel import TritonKernel
from schnetpack_tpainn.representation import TPaiNN

N_ATOMS, N_KNOTS, CUTOFF = 5, 10, 4.0
INDICES = (properties.idx_i, properties.idx_j)
BOUNDS = {torch.float32: 3e-5, torch.float64: 1e-12}
SIZES = [(torch.float32, 8), (torch.float64, 20), (torch.float32, 128)]
NUMBA, TRITON = NumbaKernel(), TritonKernel()
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") else "cuda"


def neighbours(dtype=torch.float64):
    """A shuffled list of all pairs of four atoms, some beyond the cutoff; the fifth has none."""
    torch.manual_seed(0)
    positions = torch.tensor([[0.0, 0, 0], [1.1, 0.2, 0], [0.3, 2.5, 1.9], [3.1, -0.4, 2.9]])
    i, j = (x.flatten() for x in torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"))
    order = torch.randperm(12)
    i, j = i[i != j][order], j[i != j][order]
    return (positions[j] - positions[i]).to(dtype), i, j


def antisymmetric(pairs):
    """Random tangents of pair vectors, opposite for opposite pairs."""
    i = torch.repeat_interleave(torch.arange(N_ATOMS), pairs.starts.diff())
    x = torch.randn(N_ATOMS, N_ATOMS, 3, dtype=torch.float64)
    return (x - x.transpose(0, 1))[i, pairs.idx_j]


def arguments(pairs, r, n, with_y):
    """Inputs and shapes of the outputs, for each method that goes over pairs."""
    n_y = N_ATOMS if with_y else 0
    table, x, y = torch.randn(N_KNOTS, 3, 3, n), torch.randn(N_ATOMS, 3, n), torch.randn(n_y, 3, n)
    a, b = torch.randn_like(x), torch.randn_like(y)
    gq, gmu, rho = torch.randn(N_ATOMS, n), torch.randn_like(x), antisymmetric(pairs)
    grid = torch.tensor([0.2, CUTOFF, (N_KNOTS - 1) / (CUTOFF - 0.2)], dtype=torch.float64)
    features, tangents, both = (x, y, gq, gmu), (x, y, a, b), (gq, x)
    inputs = {
        "message": ((r, table, grid, x, y), both),
        "grad_atoms": ((r, table, grid, gq, gmu), (x, x)),
        "grad_pairs": ((r, table, grid, *features), (r,)),
        "grad_table": ((r, grid, *features), (table,)),
        "tangent": ((r, table, grid, *tangents, rho), both),
        "tangent_grad_atoms": ((r, table, grid, gq, gmu, rho), (x, x)),
        "tangent_grad_pairs": ((r, table, grid, *tangents, gq, gmu, rho), (r,)),
        "tangent_grad_table": ((r, grid, *tangents, gq, gmu, rho), (table,)),
    }
    return {
        name: ([t if t is grid else t.to(r.dtype) for t in given], [like.shape for like in results])
        for name, (given, results) in inputs.items()
    }


def results(kernel, name, pairs, given, shapes):
    """What a method makes of outputs that hold one (those that it sets, and those it adds to)."""
    device = DEVICE if kernel is TRITON else "cpu"
    given = [x.to(device) if isinstance(x, torch.Tensor) else x for x in given]
    outputs = [torch.ones(shape, dtype=given[0].dtype, device=device) for shape in shapes]
    getattr(kernel, name)(*([pairs] if pairs else []), *given, *outputs)
    return [x.cpu() for x in outputs]


def triton_pairs(*tensors):
    """Pairs as the Triton kernel sorts them, on its device."""
    return TRITON.pairs(*(x.to(DEVICE) for x in tensors), N_ATOMS)


def assert_same(got, expected):
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=BOUNDS[y.dtype] * float(y.abs().max()))


@pytest.mark.parametrize("with_y", [True, False])
@pytest.mark.parametrize(("dtype", "n"), SIZES)
def test_sums_over_pairs_agree_with_numba(dtype, n, with_y):
    r, i, j = neighbours(dtype)
    expected, got = NUMBA.pairs(r, i, j, N_ATOMS), triton_pairs(r, i, j)
    assert all(torch.equal(x.cpu(), y) for x, y in zip(got, expected, strict=True))
    for name, (given, shapes) in arguments(expected, r[expected.order], n, with_y).items():
        assert_same(
            results(TRITON, name, got, given, shapes),
            results(NUMBA, name, expected, given, shapes),
        )


@pytest.mark.parametrize(("dtype", "n"), SIZES)
def test_updates_agree_with_numba(dtype, n):
    def random(*shape):
        return torch.randn(N_ATOMS, *shape, n, dtype=dtype)

    q, vw, gates, context = random(), random(3, 2), random(3), random(2).abs() + 0.1
    for name, given, shapes in (
        ("context", (q, vw, 1e-8), [(2,)]),
        ("apply_gates", (vw, gates), [(), (3,)]),
        ("grad_context", (vw, context, random(2)), [(3, 2)]),
        ("tangent_context", (vw, context, random(2), random(3, 2)), [(2,), (3, 2)]),
        ("grad_gates", (vw, gates, q, random(3)), [(3,), (3, 2)]),
        (
            "tangent_gates",
            (vw, gates, q, random(3), random(3, 2), random(3)),
            [(3, 2), (3,), (), (3,)],
        ),
    ):
        shapes = [(N_ATOMS, *shape, n) for shape in shapes]
        assert_same(
            results(TRITON, name, None, given, shapes), results(NUMBA, name, None, given, shapes)
        )


def on_device(pairs):
    return Pairs(*(x if x is None else x.to(DEVICE) for x in pairs))


def test_a_pair_just_below_the_cutoff_reads_the_last_interval():
    d = torch.nextafter(torch.tensor(CUTOFF).double(), torch.tensor(0.0).double())
    r = torch.stack([d, -d]).unsqueeze(1) * torch.eye(3, dtype=torch.float64)[0]
    pairs = Pairs(torch.tensor([0, 1, 2, 2, 2, 2]), torch.tensor([1, 0]), None)
    given, shapes = arguments(pairs, r, 8, True)["message"]
    got = results(TRITON, "message", on_device(pairs), given, shapes)
    assert_same(got, results(NUMBA, "message", pairs, given, shapes))
    assert not torch.equal(got[0][:2], torch.ones(2, 8, dtype=torch.float64))


def test_no_pairs_at_all():
    r, i, j = torch.empty(0, 3), torch.empty(0, dtype=torch.int64), torch.empty(0).long()
    pairs = triton_pairs(r, i, j)
    assert pairs.starts.tolist() == [0] * 6
    cases = arguments(Pairs(*(x if x is None else x.cpu() for x in pairs)), r, 8, True)
    assert all((x == 1).all() for x in results(TRITON, "message", pairs, *cases["message"]))
    assert not any(
        x[:, :2].any() for x in results(TRITON, "grad_atoms", pairs, *cases["grad_atoms"])
    )


@pytest.mark.parametrize("wrong", [-1, N_ATOMS])
@pytest.mark.parametrize("receiver", [True, False])
def test_pairs_with_atoms_that_do_not_exist_are_spoilt(receiver, wrong):
    r, i, j = neighbours()
    (i if receiver else j)[3] = wrong
    pairs = triton_pairs(r, i, j)
    assert (pairs.idx_j == -1).all()
    assert pairs.starts[0] == 0
    assert pairs.starts[-1] == len(r)


def model(backend, dtype):
    """A potential with a small TPaiNN; the weights are the same every time."""
    torch.manual_seed(0)
    basis, cutoff_fn = snn.GaussianRBF(6, CUTOFF), snn.CosineCutoff(CUTOFF)
    return testing.potential(TPaiNN(8, 2, basis, cutoff_fn, backend=backend)).to(DEVICE, dtype)


def batch_of(systems, dtype):
    return {key: x.to(DEVICE) for key, x in testing.batch(systems, CUTOFF, dtype).items()}


def inputs(dtype):
    return batch_of(testing.systems()[:2], dtype)


def evaluate(potential, batch):
    found = potential(dict(batch))
    assert potential.representation.backend_used == potential.representation.backend
    return [found["energy"], found["forces"]]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-8)])
def test_a_model_gives_the_energies_and_forces_of_plain_torch(dtype, bound):
    expected, got = (evaluate(model(name, dtype), inputs(dtype)) for name in ("torch", "triton"))
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=bound * float(y.detach().abs().max()))


def test_a_model_trains_as_in_plain_torch():
    gradients = []
    for backend in ("torch", "triton"):
        potential = model(backend, torch.float64).train()
        energy, forces = evaluate(potential, inputs(torch.float64))
        (energy.sum() + forces.square().sum()).backward()
        gradients.append({name: p.grad for name, p in potential.named_parameters()})
    for name, y in gradients[0].items():
        x, bound = gradients[1][name], 1e-7 * float(y.abs().max())
        torch.testing.assert_close(x, y, rtol=0, atol=bound, msg=name)


def without_a_pair(batch):
    return {k: x[1:] if k in (*INDICES, properties.offsets) else x for k, x in batch.items()}


def with_position(*xyz):
    def change(batch):
        positions = batch[properties.R].clone()
        positions[0] = positions[1] + torch.tensor(xyz, device=DEVICE)
        return batch | {properties.R: positions}

    return change


SPOILT = {
    "not symmetric": without_a_pair,
    "too close": with_position(0.1, 0.0, 0.0),
    "coincident": with_position(0.0, 0.0, 0.0),
    "not a number": with_position(float("nan"), 0.0, 0.0),
    "infinite": with_position(float("inf"), 0.0, 0.0),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_an_unsuitable_list_gives_no_number(spoil):
    batch = spoil(batch_of(testing.systems()[3:], torch.float32))
    assert all(x.isnan().all() for x in evaluate(model("triton", torch.float32), batch))
