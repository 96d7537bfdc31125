"""One model over a table, an image, a volume, a time series and a graph at once. All data here are simulated.

    python examples/many_modalities.py --output results

No public cohort has all five, so patients are drawn at random and the truth is planted: every modality holds a part of the
log hazard, and the largest part is an interaction (on which side of the image the spot lies, times the sign of a column
of the table) that neither modality shows alone. Each modality is absent for some patients. Models are trained on each
modality, on the interacting pair and on everything, and compared with the average of the single models ("late"), on
the same test patients. Five seeds take ten minutes on one core; `--quick` trains one on fewer patients.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from healnet import HEALNet
from healnet.encoders import GraphEncoder, GridEncoder, ModalityEncoder, OmicEncoder, SequenceEncoder
from healnet.inputs import Graph, TimeSeries, hide, take
from healnet.survival import SurvivalTarget, concordance, cox_nll

MODALITIES = ("table", "image", "volume", "series", "graph")
PAIR = ("table", "image")
TRAINED = {name: (name,) for name in MODALITIES} | {
    "table + image, fused": PAIR,
    "all five, fused": MODALITIES,
}
LATE = {"table + image, late": PAIR, "all five, late": MODALITIES}
MODELS = (*MODALITIES, "table + image, late", "table + image, fused", "all five, late", "all five, fused")
ABSENT = 0.05


def encoders() -> dict[str, ModalityEncoder]:
    """One encoder per modality; attention does the rest."""
    return {
        "table": OmicEncoder(6, tokens=2, token_dim=16),
        "image": GridEncoder(channels=1, ndim=2, patch=2, max_freq=4.0),
        "volume": GridEncoder(channels=1, ndim=3, patch=2, max_freq=4.0),
        "series": SequenceEncoder(channels=2, num_bands=2, max_freq=4.0, duration=48.0),
        "graph": GraphEncoder(node_dim=1, walk_length=4, eigenvectors=2),
    }


def spot(size: tuple[int, ...], center: np.ndarray, height: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Noise with one smooth spot of each patient's own place and height."""
    axes = np.meshgrid(*[np.arange(side) for side in size], indexing="ij")
    distance = sum(
        (axis - c.reshape(-1, *[1] * len(size))) ** 2 for axis, c in zip(axes, center.T, strict=True)
    )
    grid = height.reshape(-1, *[1] * len(size)) * np.exp(-distance / 4) + 0.1 * rng.normal(
        size=(len(center), *size)
    )
    return torch.tensor(grid[..., None], dtype=torch.float32)


def ring_with_chords(n: int, chords: int, rng: np.random.Generator) -> Graph:
    """A ring in which `chords` nodes are joined to the next but one, each of which closes a triangle."""
    start = rng.choice(n, size=chords, replace=False)
    index = np.concatenate(([np.arange(n), (np.arange(n) + 1) % n], [start, (start + 2) % n]), axis=1)
    return Graph.of(torch.ones(n, 1), torch.from_numpy(index))


def simulate(n: int, seed: int) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Inputs, times and events of n simulated patients."""
    rng = np.random.default_rng(seed)
    part = {name: rng.normal(size=n) for name in MODALITIES}
    column, side = rng.choice([-1, 1], n), rng.choice([-1, 1], n)
    table = np.column_stack((part["table"], column + 0.1 * rng.normal(size=n), rng.normal(size=(n, 4))))
    center = np.column_stack((rng.uniform(2, 9, n), 5.5 + side * rng.uniform(2, 4, n)))
    chords = np.clip(np.round(8 + 3 * part["graph"]), 0, 16).astype(int)
    steps = 16
    level = part["series"][:, None, None] + rng.normal(size=(n, steps, 2))
    inputs = {
        "table": torch.tensor(table, dtype=torch.float32),
        "image": spot((12, 12), center, 2 + 0.5 * part["image"], rng),
        "volume": spot((8, 8, 8), rng.uniform(1, 6, (n, 3)), 2 + 0.5 * part["volume"], rng),
        "series": TimeSeries(
            torch.tensor(level, dtype=torch.float32),
            torch.tensor(np.sort(rng.uniform(0, 48, (n, steps)), axis=1), dtype=torch.float32),
            torch.tensor(rng.random((n, steps, 2)) < 0.7),
        ),
        "graph": Graph.stack([ring_with_chords(16, c, rng) for c in chords]),
    }
    inputs = {name: hide(x, torch.tensor(rng.random(n) < ABSENT)) for name, x in inputs.items()}
    log_hazard = 2.0 * sum(part.values()) + 5.0 * column * side
    death = rng.exponential(size=n) * np.exp(-log_hazard)
    censored = np.quantile(death, 0.9) * rng.exponential(size=n)
    time = np.minimum(death, censored)
    return inputs, torch.tensor(time), torch.tensor(death <= censored)


def train(
    names: tuple[str, ...], data: tuple[dict[str, Any], Tensor, Tensor], epochs: int, seed: int
) -> HEALNet:
    """A plain loop over mini-batches with the Cox loss."""
    torch.manual_seed(seed)
    chosen = {name: encoder for name, encoder in encoders().items() if name in names}
    model = HEALNet(
        chosen,
        depth=2,
        num_latents=8,
        latent_dim=32,
        num_heads=2,
        head_dim=16,
        self_attention=0,
        ff_mult=2,
        output="cox",
    )
    inputs, time, event = data
    batch, steps = 128, epochs * (len(time) // 128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(time)).split(batch)[: len(time) // batch]:
            risk = model({name: take(inputs[name], rows) for name in names})
            loss = cox_nll(risk, time[rows], event[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def predict(model: HEALNet, inputs: dict[str, Any], seen: dict[str, Any]) -> np.ndarray:
    """Log hazards in units of the training patients' spread."""
    risk, known = (
        model({name: patients[name] for name in model.encoders}).squeeze(1).numpy()
        for patients in (inputs, seen)
    )
    return (risk - known.mean()) / known.std()


def run(seed: int, patients: int, new: int, epochs: int) -> dict[str, float]:
    """Harrell's C of every model on new patients."""
    data, (inputs, time, event) = simulate(patients, seed), simulate(new, 1000 + seed)
    risks = {}
    for label, names in tqdm(TRAINED.items(), desc=f"seed {seed}", leave=False):
        risks[label] = predict(train(names, data, epochs, seed), inputs, data[0])
    for label, names in LATE.items():
        risks[label] = np.mean([risks[name] for name in names], axis=0)
    target = SurvivalTarget(time, event)
    return {label: concordance(risks[label], target) for label in MODELS}


def draw(results: dict[str, list[float]]) -> Figure:
    """One row per subset of modalities: every seed a dot, their mean a bar."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for row, (label, values) in enumerate(results.items()):
        color = "#0072B2" if label.endswith("fused") else "#999999"
        axes.barh(row, np.mean(values) - 0.5, left=0.5, color=color, alpha=0.6)
        axes.plot(values, [row] * len(values), "o", color="black", markersize=3)
        axes.text(1.01, row, f"{np.mean(values):.2f}", va="center")
    axes.set_yticks(range(len(results)), list(results))
    axes.invert_yaxis()
    axes.set_xlim(0.45, 1.0)
    axes.axvline(0.5, color="black", linewidth=0.8)
    axes.set_xlabel("Harrell's C on new simulated patients (0.5 = chance)")
    axes.set_title("An interaction of table and image needs fusion", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Run all seeds, print the table, draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)  # operations this small only wait for a second thread
    seeds, patients, new, epochs = (1, 128, 100, 2) if options.quick else (5, 1280, 400, 14)
    options.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[float]] = {}
    for seed in range(seeds):
        for label, value in run(seed, patients, new, epochs).items():
            results.setdefault(label, []).append(value)
    with (options.output / "many_modalities.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", *[f"seed {seed}" for seed in range(seeds)]])
        writer.writerows([label, *[f"{value:.4f}" for value in values]] for label, values in results.items())
    print(f"Simulated patients, Harrell's C over {seeds} seeds, mean (standard deviation)")
    for label, values in results.items():
        print(f"{label:20s} {np.mean(values):.3f} ({np.std(values):.3f})")
    draw(results).savefig(options.output / "many_modalities.png", dpi=150)


if __name__ == "__main__":
    main()
