"""Our representation and SchNetPack's keep the contract; each way of breaking it is caught."""

import pytest
import schnetpack.nn as snn
import torch
from schnetpack import properties
from schnetpack.representation import PaiNN, SchNet, SO3net

from schnetpack_tpainn import testing
from schnetpack_tpainn.representation import TPaiNN

CUTOFF = 4.0


def radial():
    return {
        "n_interactions": 2,
        "radial_basis": snn.GaussianRBF(6, CUTOFF),
        "cutoff_fn": snn.CosineCutoff(CUTOFF),
    }


REPRESENTATIONS = {
    "painn": lambda: PaiNN(8, **radial()),
    "schnet": lambda: SchNet(8, **radial()),
    "so3net": lambda: SO3net(8, lmax=2, **radial()),
    "premul": lambda: TPaiNN(8, **radial()),
    "e3nn": lambda: TPaiNN(8, form="e3nn", **radial()),
    "scalars": lambda: TPaiNN(hidden_irreps="8x0e", **radial()),
    "second order": lambda: TPaiNN(hidden_irreps="6x0e + 6x1o + 4x2e", **radial()),
}


@pytest.fixture(scope="module", params=REPRESENTATIONS)
def representation(request):
    torch.manual_seed(0)
    return REPRESENTATIONS[request.param]()


@pytest.mark.parametrize("check", testing.CHECKS)
def test_contract(representation, check):
    check(representation)


def test_a_factory_will_do():
    testing.check_rotation(REPRESENTATIONS["premul"])


class Broken(PaiNN):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(8, **radial())

    def forward(self, inputs):
        inputs = super().forward(inputs)
        x = inputs["scalar_representation"]
        inputs["scalar_representation"] = x + self.flaw(inputs, x)
        return inputs

    def flaw(self, inputs, x):
        return 0


class SeesDirections(Broken):
    def flaw(self, inputs, x):
        r_ij = inputs[properties.Rij]
        fcut = self.cutoff_fn(r_ij.norm(dim=1))
        return torch.zeros_like(x).index_add(
            0, inputs[properties.idx_i], (r_ij[:, :1] * fcut[:, None]).expand(-1, 8)
        )


class SeesHandedness(Broken):
    def flaw(self, inputs, x):
        return torch.linalg.det(inputs["vector_representation"][:, :, :3])[:, None]


class SeesTheOrigin(Broken):
    def flaw(self, inputs, x):
        return inputs[properties.R].norm(dim=1, keepdim=True)


class SeesTheOrder(Broken):
    def flaw(self, inputs, x):
        return torch.arange(len(x))[:, None]


class LosesAGradient(Broken):
    def flaw(self, inputs, x):
        return x.detach() ** 2


class JumpsAtTheCutoff(Broken):
    def __init__(self):
        super().__init__()
        self.cutoff_fn = torch.nn.Hardtanh(1.0, 1.1)


class SeesTheBatch(Broken):
    def flaw(self, inputs, x):
        return x.mean(dim=0)


class NeedsNeighbours(Broken):
    def flaw(self, inputs, x):
        return 1 / torch.bincount(inputs[properties.idx_i], minlength=len(x))[:, None]


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0].detach() * grad


class LosesASecondDerivative(Broken):
    def flaw(self, inputs, x):
        return Square.apply(x)


@pytest.mark.parametrize(
    ("check", "broken", "message"),
    [
        (testing.check_rotation, SeesDirections, "rotation: .* deviation"),
        (testing.check_reflection, SeesHandedness, "reflection: .* deviation"),
        (testing.check_translation, SeesTheOrigin, "translation: .* deviation"),
        (testing.check_permutation, SeesTheOrder, "permutation: .* deviation"),
        (testing.check_forces, LosesAGradient, "forces: F.u: deviation"),
        (testing.check_cutoff, JumpsAtTheCutoff, "cutoff: jump of energy: deviation"),
        (
            testing.check_batch_independence,
            SeesTheBatch,
            "batch independence of COH4: .* deviation",
        ),
        (testing.check_isolated_atom, NeedsNeighbours, "isolated atom: energy: deviation nan"),
        (testing.check_second_derivatives, LosesASecondDerivative, "second derivatives: slope"),
    ],
)
def test_a_broken_representation_fails(check, broken, message):
    with pytest.raises(testing.ContractError, match=message):
        check(broken)


def test_a_flaw_is_caught_by_its_own_check_alone():
    testing.check_rotation(SeesHandedness)
    testing.check_forces(LosesASecondDerivative)
    testing.check_forces(JumpsAtTheCutoff)


def test_the_random_state_stays(representation):
    torch.manual_seed(5)
    testing.potential(representation)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)
