"""One whole slide from pixels to pictures: tissue, tiles, features, a trained toy model, and what it looked at.

    python examples/whole_slide.py --output slide_results
    python examples/whole_slide.py --slide my.svs --mpp 0.25 --output slide_results

Without `--slide` it makes one, a pink section with a few dark nodules. **Outcomes are simulated**: each patient is a
handful of the slide's tiles, and the more of them are among the slide's darkest twentieth, the earlier the event. So it is
known which tiles matter, and the last lines say how well each score finds them.
"""

import argparse
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from healnet import HEALNet, PatchBag
from healnet.encoders import PatchEncoder
from healnet.explain import (
    attention_scores,
    faithfulness,
    occlude,
    patient_report,
    plot_contact_sheet,
    plot_faithfulness,
    plot_slide_panels,
    to_geojson,
    top_patches,
)
from healnet.slides import Slide, extract_features, quality_picture, read_patches
from healnet.survival import BreslowBaseline, SurvivalTarget, concordance, cox_nll

TILE, MPP, BAG, PATIENTS, STEPS = 64, 1.0, 24, 256, 150  # tiles of 64 pixels at 1 micron each


def make_slide(path: Path, side: int = 4096, nodules: int = 9) -> Path:
    """A tiled pyramid at 0.5 microns per pixel: glass, a pink section, dark nodules in it."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side - 0.5
    section = (x / 0.42) ** 2 + (y / 0.34) ** 2 + 0.12 * np.sin(9 * x) * np.cos(7 * y) < 1
    pixels = np.full((side, side, 3), 243, np.uint8)
    pixels[section] = (226, 160, 196)
    for angle, radius in zip(
        rng.uniform(0, 2 * np.pi, nodules), rng.uniform(0.05, 0.26, nodules), strict=True
    ):
        size = rng.uniform(0.018, 0.035)
        nodule = (x - radius * np.cos(angle)) ** 2 + (y - radius * np.sin(angle)) ** 2 < size**2
        pixels[nodule & section] = (120, 60, 150)
    noise = rng.integers(-14, 15, (side, side, 1), dtype=np.int16)
    pixels = np.clip(pixels + noise * section[..., None], 0, 255).astype(np.uint8)
    options = {
        "tile": (256, 256),
        "photometric": "rgb",
        "compression": "zlib",
        "resolutionunit": "CENTIMETER",
    }
    with tifffile.TiffWriter(path) as tiff:
        for level in (1, 4, 16):
            scale = 1e4 / (0.5 * level)  # pixels per centimeter
            tiff.write(
                pixels[::level, ::level], resolution=(scale, scale), subfiletype=int(level > 1), **options
            )
    return path


class ColorStatistics(torch.nn.Module):
    """Mean and deviation of each color, of the tile and of its quarters: (b, 3, t, t) -> (b, 30). Bring a better one."""

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Statistics of each tile."""
        quarters = tiles.unflatten(2, (2, -1)).unflatten(4, (2, -1))
        parts = [
            tiles.mean((2, 3)),
            tiles.std((2, 3)),
            quarters.mean((3, 5)).flatten(1),
            quarters.std((3, 5)).flatten(1),
        ]
        return torch.cat(parts, dim=1)


def simulate(dark: np.ndarray, seed: int) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Tiles (p, BAG), time and event of simulated patients; some have many dark tiles and most have none."""
    rng = np.random.default_rng(seed)
    share = rng.choice([0.0, 0.1, 0.3, 0.6], PATIENTS)
    size = (PATIENTS, BAG)
    from_dark, from_all = rng.choice(np.flatnonzero(dark), size), rng.integers(len(dark), size=size)
    chosen = np.where(rng.random(size) < share[:, None], from_dark, from_all)
    death = rng.exponential(np.exp(-5 * dark[chosen].mean(axis=1)))
    censoring = rng.exponential(2.0, PATIENTS)
    return chosen, torch.tensor(np.minimum(death, censoring)), torch.tensor(death <= censoring)


def bags(features: torch.Tensor, coords: torch.Tensor, tiles: np.ndarray) -> PatchBag:
    """The patients' tiles as one batch."""
    return PatchBag(features[tiles], coords[tiles], torch.ones(tiles.shape, dtype=torch.bool))


def train(features: torch.Tensor, coords: torch.Tensor, dark: np.ndarray, steps: int) -> HEALNet:
    """A plain loop, with new patients in every step; places mean nothing here, so the model does not see them."""
    torch.manual_seed(0)
    model = HEALNet(
        {"slide": PatchEncoder(features.shape[1], positions=False)},
        depth=2,
        num_latents=8,
        latent_dim=32,
        output="cox",
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    bar = tqdm(range(steps), unit="step")
    for step in bar:
        tiles, time, event = simulate(dark, seed=step)
        loss = cox_nll(model({"slide": bags(features, coords, tiles)}), time, event)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval()


def explain(
    model: HEALNet, slide: Slide, bag: PatchBag, footprint: float, dark: np.ndarray, output: Path
) -> dict[str, tuple]:
    """Scores of every tile of the slide: how faithful they are, heat maps, the top tiles, a file for QuPath."""
    inputs = {"slide": bag}
    found = {
        f"{name} attention": attention_scores(model, inputs, method=kind)["slide"]
        for name, kind in (("mean", "mean"), ("rolled-out", "rollout"), ("gradient-weighted", "gradient"))
    }
    found["occlusion"] = occlude(model, inputs)["slide"]
    # Here what matters raises the risk, so the same is asked of every score: do its first tiles raise it, and alone?
    curves = {name: faithfulness(model, inputs, {"slide": score}) for name, score in found.items()}
    scores = {name: score[0].numpy() for name, score in found.items()}
    for name, score in scores.items():
        known = roc_auc_score(dark, score)
        area = float(curves[name].area_above_random()[0])
        print(f"{name:>27}: AUROC {known:.3f} for the tiles that carry the risk; faithfulness {area:+.3f}")
    plot_faithfulness(curves, quantity="log hazard").figure.savefig(output / "faithfulness.png", dpi=150)

    coords, best = bag.coords[0].numpy(), "gradient-weighted attention"
    heatmap = plot_slide_panels(slide, coords, footprint, scores[best], label=f"{best}, percentile")
    heatmap.figure.savefig(output / "heatmap.png", dpi=150)
    sheet = plot_contact_sheet(top_patches(slide, coords, footprint, scores[best], k=8))
    sheet.figure.savefig(output / "top_patches.png", dpi=150)
    others = {name: score for name, score in scores.items() if name != best}
    path = output / f"{slide.name}.geojson"
    to_geojson(coords, footprint, scores[best], path, name=best, measurements=others, slide=slide)
    return {"Where the model looked": heatmap, "The patches that raise the risk most": sheet}


def main() -> None:
    """Slide, tissue, tiles, features, model, pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slide", type=Path, help="a file that OpenSlide reads; by default one is made")
    parser.add_argument("--mpp", type=float, help="microns per level-0 pixel, where the file does not say it")
    parser.add_argument("--output", type=Path, default=Path("slide_results"))
    parser.add_argument("--quick", action="store_true", help="a smaller slide and fewer steps")
    args = parser.parse_args()
    torch.set_num_threads(1)  # operations this small only wait for a second thread
    args.output.mkdir(parents=True, exist_ok=True)
    # Named by size: `extract_features` takes a file of one name for the same slide, and goes on with the next.
    side = 2048 if args.quick else 4096
    path = args.slide or make_slide(args.output / f"made_{side}.tiff", side)

    slide = Slide(path, mpp=args.mpp)
    if slide.mpp is None:
        parser.error(f"{path} does not say its microns per pixel: say it yourself, such as --mpp 0.25")
    tissue = slide.tissue()
    picture = quality_picture(tissue.rgb, (slide.width, slide.height), tissue=tissue, mpp=slide.mpp)
    Image.fromarray(picture).save(args.output / "tissue.png")
    print(f"{slide}: {tissue.area_mm2:.2f} mm2 of tissue")
    (result,) = extract_features(
        [path],
        ColorStatistics(),
        args.output / "features",
        size=TILE,
        mpp=MPP,
        slide_mpp=args.mpp,
        num_workers=0,
    )
    if result.error:
        raise SystemExit(f"{path}: {result.error}")

    file = read_patches(args.output / "features" / f"{slide.name}.h5")
    features, coords = file.load()
    if len(features) < 20:  # of which the darkest twentieth is one
        raise SystemExit(f"{path}: expected 20 tiles of tissue or more, found {len(features)}")
    brightness = features[:, :3].mean(dim=1).numpy()
    features = (features - features.mean(0)) / features.std(0).clamp(min=1e-6)
    dark = brightness <= np.quantile(brightness, 0.05)
    model = train(features, coords, dark, steps=60 if args.quick else STEPS)
    with torch.no_grad():
        tiles, time, event = simulate(dark, seed=STEPS)
        known = model({"slide": bags(features, coords, tiles)})
        baseline = BreslowBaseline.fit(known, SurvivalTarget(time, event))
        tiles, time, event = simulate(dark, seed=STEPS + 1)
        risk = model({"slide": bags(features, coords, tiles)})
    print(
        f"Harrell's C on {PATIENTS} new simulated patients: {concordance(risk, SurvivalTarget(time, event)):.3f}"
    )

    bag = bags(features, coords, np.arange(len(features))[None])
    maps = explain(model, slide, bag, file.footprint, dark, args.output)
    with torch.no_grad():
        curve = baseline.survival(model({"slide": bag}), baseline.times)[0]
    report = patient_report(
        model,
        {"slide": bag},
        slide.name,
        args.output,
        curve=(baseline.times, curve),
        curve_steps=True,
        time_unit="simulated years",
        cohort_risks=known.squeeze(1),
        maps=maps,
        details={
            "slide": slide.name,
            "encoder": file.encoder or "unknown",
            "patch": f"{TILE} px at {MPP:g} µm/px",
        },
    )
    print(f"Pictures, {slide.name}.geojson for QuPath and {report.path.name} are in {args.output}")


if __name__ == "__main__":
    main()
