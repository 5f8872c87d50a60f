"""Train the demo model on the cached words; can be stopped and resumed at any time.

    python -m training.train --recipe start
    python -m training.train --recipe main
    python -m training.train --recipe finish
    python -m training.train --recipe people
    python -m training.train --recipe throats

Short windows come first, until the attention has found the words; then lengths are mixed, with
enough 30-second ones that whole windows are read well.
"""

from __future__ import annotations

import argparse
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from training.dataset import Mix, Recipe, Windows
from training.network import TrainedWhisper


@dataclass(frozen=True)
class Plan:
    """A stretch of training: from which step to which, how fast, and on what."""

    first: int
    #: Where the learning rate has fallen; `stop` is earlier where the next plan takes over.
    last: int
    stop: int
    peak: float
    recipe: Recipe
    #: The losses that find the words weigh more at first.
    finding: bool


Mixes = dict[float, Mix]


def by_step(last: int, mixes: Mixes) -> tuple[tuple[int, Mix], ...]:
    """From each step on, the share of each window length in seconds, for shares of all steps."""
    return tuple((round(share * last), mix) for share, mix in mixes.items())


#: Small batches at the beginning of 30 seconds show sooner what words are; larger ones anywhere
#: in 30 seconds are what the model then needs; at the end it learns to do without timestamps,
#: which is how Whisper finds the times of words.
FIRST: Mixes = {0.0: {3.0: 0.5, 5.0: 0.5}, 0.15: {3.0: 0.2, 5.0: 0.5, 8.0: 0.3}}
PLANS = {
    "start": Plan(
        first=0,
        last=4200,
        stop=1150,
        peak=2e-3,
        finding=True,
        recipe=Recipe(
            by_step(
                4200,
                {
                    **FIRST,
                    0.3: {5.0: 0.5, 8.0: 0.3, 30.0: 0.2},
                    0.6: {5.0: 0.4, 8.0: 0.2, 30.0: 0.4},
                },
            ),
            seconds_per_batch=50.0,
            shifted_share=0.05,
        ),
    ),
    "main": Plan(
        first=0,
        last=4200,
        stop=4200,
        peak=2e-3,
        finding=True,
        recipe=Recipe(
            by_step(
                4200,
                {
                    **FIRST,
                    0.3: {5.0: 0.6, 8.0: 0.3, 30.0: 0.1},
                    0.6: {5.0: 0.5, 8.0: 0.2, 30.0: 0.3},
                },
            ),
            seconds_per_batch=80.0,
            shifted_share=0.5,
        ),
    ),
    "finish": Plan(
        first=4200,
        last=9200,
        stop=9200,
        peak=1.2e-3,
        finding=False,
        recipe=Recipe(
            ((0, {3.0: 0.1, 5.0: 0.4, 8.0: 0.25, 30.0: 0.25}),),
            seconds_per_batch=80.0,
            shifted_share=0.4,
            timed_share=0.7,
            stretch=(0.8, 1.25),
            spoilt_shares=(0.75,),
        ),
    ),
    "people": Plan(
        first=9200,
        last=12700,
        stop=12700,
        peak=1e-3,
        finding=False,
        recipe=Recipe(
            ((0, {3.0: 0.1, 5.0: 0.4, 8.0: 0.3, 30.0: 0.2}),),
            seconds_per_batch=80.0,
            shifted_share=0.4,
            timed_share=0.75,
            stretch=(0.75, 1.3),
            people_share=0.65,
            spoilt_shares=(0.85,),
        ),
    ),
    # three people are few: each is heard with throats of many lengths
    "throats": Plan(
        first=12_651,
        last=17_000,
        stop=17_000,
        peak=1e-3,
        finding=False,
        recipe=Recipe(
            ((0, {3.0: 0.1, 5.0: 0.4, 8.0: 0.3, 30.0: 0.2}),),
            seconds_per_batch=80.0,
            shifted_share=0.4,
            timed_share=0.8,
            stretch=(0.75, 1.3),
            people_share=0.7,
            spoilt_shares=(0.85,),
            warp=(0.82, 1.22),
            masked_share=0.5,
        ),
    ),
}
Losses = dict[str, float]
AVERAGING = 0.998
LOGGED = 25


def learning_rate(step: int, plan: Plan) -> float:
    """Warm up over 150 steps, then fall as a cosine to a fiftieth."""
    done, planned = step - plan.first, plan.last - plan.first
    if done < 150:
        return plan.peak * (done + 1) / 150
    progress = min((done - 150) / max(planned - 150, 1), 1.0)
    return plan.peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def weights(step: int, plan: Plan) -> dict[str, float]:
    """The losses' weights: the words in the frames first, since all else builds on them."""
    early = max(0.0, 1 - step / (0.5 * plan.last)) if plan.finding else 0.0
    return {
        "tokens": 1.0,
        "attention": 0.5,
        "frames": 0.3 + 2 * early,
        "history": 0.1 + 0.5 * early,
        "ordinals": 0.1 + 0.5 * early,
    }


class Run:
    """A model, its average and its optimiser, in a file that a later run goes on from."""

    def __init__(self, path: Path, *, afresh: bool) -> None:
        self._path = path
        self.model = TrainedWhisper()
        self.step = 0
        self._average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self._optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01
        )
        if path.exists() and not afresh:
            stored = torch.load(path, weights_only=True)
            self.model.load_state_dict(stored["model"])
            self._optimiser.load_state_dict(stored["optimiser"])
            self._average, self.step = stored["average"], stored["step"]

    def advance(self, batch: dict[str, Tensor], rate: float, weight: dict[str, float]) -> Losses:
        """Make one step; return what was lost before it."""
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        losses = self.model.losses(batch)
        total = torch.stack([weight[name] * loss for name, loss in losses.items()]).sum()
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimiser.step()
        self._update_average()
        self.step += 1
        return {name: loss.item() for name, loss in losses.items()}

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the averaged parameters, which are what is exported, towards the current ones."""
        keep = min(AVERAGING, (1 + self.step) / (20 + self.step))
        for name, value in self.model.state_dict().items():
            self._average[name].lerp_(value, 1 - keep)

    def save(self) -> None:
        """Write everything needed to go on, atomically."""
        partial = self._path.with_suffix(".partial")
        state = {
            "model": self.model.state_dict(),
            "average": self._average,
            "step": self.step,
            "optimiser": self._optimiser.state_dict(),
        }
        torch.save(state, partial)
        partial.replace(self._path)


def train(arguments: argparse.Namespace) -> None:
    """Run until the last step, logging and saving now and then."""
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    run = Run(arguments.cache / "training.pt", afresh=arguments.afresh)
    plan = PLANS[arguments.recipe]
    windows = Windows(arguments.cache, arguments.seed, plan.recipe, run.step)
    batches = iter(DataLoader(windows, batch_size=None, num_workers=1, prefetch_factor=8))
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    sums: dict[str, float] = {}
    began = time.monotonic()
    last = min(arguments.stop or plan.stop, plan.stop)
    while run.step < last and not stopping:
        rate = learning_rate(run.step, plan)
        losses = run.advance(next(batches), rate, weights(run.step, plan))
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + loss
        if run.step % LOGGED == 0:
            shown = " ".join(f"{name} {value / LOGGED:.3f}" for name, value in sums.items())
            took = (time.monotonic() - began) / LOGGED
            print(f"step {run.step} {shown} {took:.2f} s", flush=True)
            sums, began = {}, time.monotonic()
        if run.step % 100 == 0:
            run.save()
    run.save()


def main() -> None:
    """Parse the options and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(".training"))
    parser.add_argument("--recipe", choices=tuple(PLANS), required=True)
    parser.add_argument("--stop", type=int, help="stop at this step, before the recipe does")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--afresh", action="store_true", help="do not resume")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
