"""What really happened at the feeders, written down beside them: nobody in the simulation reads it but the judge."""

from collections.abc import Callable
from dataclasses import dataclass, field

from device_sim.plc import Feeder, Feeding, Registers
from hub.protocol.messages import FeederConfig


@dataclass
class Dose:
    """One order to feed, as the PLC saw it."""

    starts: int = 0
    fed_g: float = 0.0


@dataclass
class Ledger:
    """`fault` is told what must not be. `now_s`: the true time."""

    fault: Callable[[str], None]
    note: Callable[[str], None]
    now_s: Callable[[], float]
    doses: dict[str, Dose] = field(default_factory=dict)
    wishes: dict[float, str] = field(default_factory=dict)
    versions: dict[tuple[str, str], int] = field(default_factory=dict)
    events: set[str] = field(default_factory=set)
    """What the desktop has on disk, and must tell."""
    latched_at_s: dict[str, list[float]] = field(default_factory=dict)

    def began(self, feeder: str, command_id: str, grams: float) -> None:
        """Every person's wish has grams of its own, so that a dose is known again under another id."""
        dose = self.doses.setdefault(command_id, Dose())
        dose.starts += 1
        self.note(f"{feeder} begins to feed {grams:g} g for {command_id}")
        earlier = self.wishes.setdefault(grams, command_id)
        if dose.starts > 1 or earlier != command_id:
            self.fault(f"a dose acts twice: {grams:g} g for {command_id}, and before for {earlier}")

    def moved(self, feeder: str, registers: Registers, feeding: Feeding, grams: float) -> None:
        if registers.latched and grams > 0:
            self.fault(f"{feeder} moves while it is stopped: {grams:g} g")
        if feeding.command_id is not None:
            self.doses.setdefault(feeding.command_id, Dose()).fed_g += grams

    def took_version(self, journal_id: str, feeder: str, version: int) -> None:
        before = self.versions.get((journal_id, feeder), 0)
        self.note(f"{feeder} has taken config version {version} after {before}")
        if version < before:
            self.fault(f"the config of {feeder} goes back from version {before} to {version}")
        self.versions[journal_id, feeder] = version

    def latched(self, feeder: str) -> None:
        self.latched_at_s.setdefault(feeder, []).append(self.now_s())
        self.note(f"{feeder} is stopped")


class WatchedFeeder(Feeder):
    """The simulated PLC itself, with the ledger beside it."""

    def __init__(self, name: str, ledger: Ledger, registers: Registers) -> None:
        super().__init__(registers)
        self._name = name
        self._ledger = ledger

    def start_dose(self, grams: float, command_id: str) -> None:
        super().start_dose(grams, command_id)
        self._ledger.began(self._name, command_id, grams)

    def latch(self) -> None:
        super().latch()
        self._ledger.latched(self._name)

    def release(self) -> None:
        super().release()
        self._ledger.note(f"{self._name} is released")

    def write_config(self, config: FeederConfig, time_zone: str) -> None:
        super().write_config(config, time_zone)
        self._ledger.note(f"{self._name} is written a config with meal_g {config.meal_g:g}")

    def _count(self, feeding: Feeding, grams: float) -> None:
        super()._count(feeding, grams)
        self._ledger.moved(self._name, self.registers, feeding, grams)
