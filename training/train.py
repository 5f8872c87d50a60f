"""Train the demo model on the cached words; can be stopped and resumed at any time.

    python -m training.train --steps 2600

Short windows come first, until the attention has found the words; then lengths are mixed, with
enough 30-second ones that whole windows are read well.
"""

from __future__ import annotations

import argparse
import math
import signal
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from training.dataset import Windows
from training.network import TrainedWhisper

MIXES: list[tuple[float, dict[float, float]]] = [
    (0.0, {3.0: 0.5, 5.0: 0.5}),
    (0.15, {3.0: 0.2, 5.0: 0.5, 8.0: 0.3}),
    (0.3, {5.0: 0.5, 8.0: 0.3, 30.0: 0.2}),
    (0.6, {5.0: 0.4, 8.0: 0.2, 30.0: 0.4}),
]
AVERAGING = 0.998


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm up over 150 steps, then fall as a cosine to a fiftieth."""
    if step < 150:
        return peak * (step + 1) / 150
    progress = min((step - 150) / max(steps - 150, 1), 1.0)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def weights(step: int, steps: int) -> dict[str, float]:
    """The losses' weights: the words in the frames first, since all else builds on them."""
    early = max(0.0, 1 - step / (0.5 * steps))
    return {"tokens": 1.0, "attention": 0.5, "frames": 0.3 + 2 * early,
            "history": 0.1 + 0.5 * early, "ordinals": 0.1 + 0.5 * early}


def averaged(average: dict[str, torch.Tensor], model: TrainedWhisper, step: int) -> None:
    """Move the averaged parameters, which are what is exported, towards the current ones."""
    keep = min(AVERAGING, (1 + step) / (20 + step))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 1 - keep)


def save(path: Path, model: TrainedWhisper, average: dict[str, torch.Tensor],
         optimiser: torch.optim.Optimizer, step: int) -> None:
    """Write everything needed to resume, atomically."""
    partial = path.with_suffix(".partial")
    torch.save({"model": model.state_dict(), "average": average, "step": step,
                "optimiser": optimiser.state_dict()}, partial)
    partial.replace(path)


def train(arguments: argparse.Namespace) -> None:
    """Run until the last step, logging and saving now and then."""
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    model = TrainedWhisper()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98),
                                  weight_decay=0.01)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    path, first = arguments.cache / "training.pt", 0
    if path.exists() and not arguments.afresh:
        stored = torch.load(path, weights_only=True)
        model.load_state_dict(stored["model"])
        optimiser.load_state_dict(stored["optimiser"])
        average, first = stored["average"], stored["step"]
    mixes = [(round(share * arguments.steps), mix) for share, mix in MIXES]
    windows = Windows(arguments.cache, arguments.seed, mixes, first)
    batches = iter(DataLoader(windows, batch_size=None, num_workers=1, prefetch_factor=8))
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    sums: dict[str, float] = {}
    began = time.monotonic()
    for step in range(first, arguments.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, arguments.steps, arguments.rate)
        losses = model.losses(next(batches))
        weight = weights(step, arguments.steps)
        total = torch.stack([weight[name] * loss for name, loss in losses.items()]).sum()
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        averaged(average, model, step)
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + loss.item()
        if (step + 1) % 25 == 0:
            shown = " ".join(f"{name} {value / 25:.3f}" for name, value in sums.items())
            print(f"step {step + 1} {shown} {(time.monotonic() - began) / 25:.2f} s", flush=True)
            sums, began = {}, time.monotonic()
        if (step + 1) % 100 == 0 or step + 1 == arguments.steps or stopping:
            save(path, model, average, optimiser, step + 1)
        if stopping:
            break


def main() -> None:
    """Parse the options and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(".training"))
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--afresh", action="store_true", help="do not resume")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
