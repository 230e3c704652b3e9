"""Sites in this process, without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from classifier.federation.messages import Answer, Order, checked
from classifier.federation.site import Site


@dataclass
class LocalLink:
    """Sites that are called one after the other; ``sent`` holds every answer that would have left a site."""

    sites: Sequence[Site]
    gone: set[int] = field(default_factory=set)
    sent: list[Answer] = field(default_factory=list)

    def online(self) -> list[int]:
        """Return the numbers of the sites that are there."""
        return [site for site in range(len(self.sites)) if site not in self.gone]

    def exchange(self, orders: Mapping[int, Order]) -> dict[int, Answer]:
        """Let each site answer; one that is gone does not."""
        answers = {
            site: checked(self.sites[site].answer(order)) for site, order in orders.items() if site not in self.gone
        }
        self.sent += answers.values()
        return answers

    def name(self, site: int) -> str:
        """Return what messages call a site."""
        return f"site {site}"
