"""A small stock PaiNN that holds a water molecule together, saved as by SchNetPack."""

import numpy as np
import pytest
import schnetpack as spk
import schnetpack.transform as trn
import torch
from schnetpack.interfaces.ase_interface import AtomsConverter

from schnetpack_tpainn.data.rdkit import RDKitForceField
from schnetpack_tpainn.data.structures import embed_smiles

OFFSETS = {1: -13.123456789, 8: -20420.123456789}  # eV, of the size of real ones


def untrained():
    torch.manual_seed(0)
    offsets = torch.zeros(100, dtype=torch.float64)
    for z, value in OFFSETS.items():
        offsets[z] = value
    return spk.model.NeuralNetworkPotential(
        spk.representation.PaiNN(
            n_atom_basis=16,
            n_interactions=2,
            radial_basis=spk.nn.GaussianRBF(12, 4.0),
            cutoff_fn=spk.nn.CosineCutoff(4.0),
        ),
        input_modules=[spk.atomistic.PairwiseDistances()],
        output_modules=[
            spk.atomistic.Atomwise(n_in=16, output_key="energy"),
            spk.atomistic.Forces(),
        ],
        postprocessors=[
            trn.CastTo64(),
            trn.AddOffsets("energy", add_atomrefs=True, atomrefs=offsets),
        ],
    )


def fit(model, structure, steps=250):
    """Fit to MMFF94 on displaced copies of a structure."""
    calculator, rng = RDKitForceField(), np.random.default_rng(0)
    frames, energies, forces = [], [], []
    for scale in np.tile([0.02, 0.05, 0.1], 20):
        frame = structure.copy()
        frame.positions += rng.normal(scale=scale, size=frame.positions.shape)
        frames.append(frame)
        energies.append(calculator.get_potential_energy(frame))
        forces.append(calculator.get_forces(frame))
    batch = AtomsConverter(trn.MatScipyNeighborList(4.0))(frames)
    energy, force = torch.tensor(energies), torch.tensor(np.concatenate(forces))
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    model.do_postprocessing = False
    for _ in range(steps):
        out = model({k: v.clone() for k, v in batch.items()})
        loss = (out["energy"] - energy).square().mean() + 10 * (
            out["forces"] - force
        ).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    model.do_postprocessing = True
    return model.eval()


@pytest.fixture(scope="session")
def water():
    return embed_smiles("O")


@pytest.fixture(scope="session")
def ethanol():
    return embed_smiles("CCO")


@pytest.fixture(scope="session")
def water_model(tmp_path_factory, water):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("model") / "best_model"
    torch.save(fit(untrained(), water), path)
    return path
