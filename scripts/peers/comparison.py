"""Benches against peers: experiments that are told where the peers' environments are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tasks.task import Experiment


@dataclass(frozen=True)
class Comparison(Experiment):
    """An experiment whose `run` takes a folder `peers` beside what others take."""

    def against(self, peers: Path) -> Experiment:
        """Return the experiment with its peers in this folder."""
        return Experiment(self.name, self.paper, self.claims, partial(self.run, peers=peers), self.seeds, self.pictures)
