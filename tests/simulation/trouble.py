"""What goes wrong, and how it is mended again."""

from collections.abc import Callable
from datetime import timedelta
from random import Random

from hub.protocol.messages import FeederConfig
from tests.simulation.broker import Broker, Network
from tests.simulation.clock import VirtualLoop, exponential
from tests.simulation.farm import Farm
from tests.simulation.keys import Keys
from tests.simulation.people import CONFIG
from tests.simulation.process import HubProcess
from tests.simulation.rows import Tables

MOST_SECONDS_BACK = 90


class Trouble:
    """Each fault mends itself after a while; `heal` mends all. `redis_s`, `database_s`: when they last were away."""

    def __init__(
        self,
        loop: VirtualLoop,
        random: Random,
        network: Network,
        broker: Broker,
        processes: list[HubProcess],
        farm: Farm,
        tables: Tables,
        keys: Keys,
        note: Callable[[str], None],
    ) -> None:
        self.faults = 0
        self.redis_s = self.database_s = self.network_s = float("-inf")
        self._healed = False
        self._loop = loop
        self._random = random
        self._network = network
        self._usual_delay_s = network.delay_s
        self._broker = broker
        self._processes = processes
        self._farm = farm
        self._tables = tables
        self._keys = keys
        self._note = note
        self._kinds: dict[Callable[[], str], float] = {
            self._cut_desktop: 6,
            self._cut_hub: 4,
            self._kill_hub: 6,
            self._kill_desktop: 6,
            self._shut_desktop_down: 1,
            self._lose_disk: 0.3,
            self._redis_away: 1.5,
            self._redis_empty: 0.5,
            self._database_away: 1.5,
            self._restart_broker: 0.7,
            self._turn_clock: 1,
            self._cut_cable: 1,
            self._turn_switch: 1,
            self._edit_on_site: 1,
            self._jam: 0.5,
            self._slow_network: 2,
        }

    def strike(self) -> None:
        """One fault, of a kind that the seed chooses."""
        if self._healed:
            return
        self.faults += 1
        (kind,) = self._random.choices(list(self._kinds), list(self._kinds.values()))
        self._note(f"*** {kind.__name__.strip('_').replace('_', ' ')}: {kind()}")

    def heal(self) -> None:
        """From now on everything works."""
        self._healed = True
        self._redis_back()
        self._database_back()
        self._network_back()
        for process in self._processes:
            process.start()
            if process.life is not None:
                process.life.fuse = None
        self._farm.boot()
        if self._farm.life is not None:
            self._farm.life.fuse = None
        self._farm.plc.cut.clear()
        for name in self._farm.plc.names:
            self._farm.plc.on_site(name).switch("remote")
            self._farm.plc.on_site(name).clear_jam()
        self._note("*** healed")

    def _for_s(self) -> float:
        return exponential(self._random, self._random.choice([0.5, 5.0, 20.0]), 90.0)

    # --- the network -------------------------------------------------------------------------------------------

    def _cut_desktop(self) -> str:
        silently = self._random.random() < 0.5
        if self._farm.connection is not None:
            self._farm.connection.cut(silently=silently)
        return "silently" if silently else "at once"

    def _cut_hub(self) -> str:
        process, silently = self._random.choice(self._processes), self._random.random() < 0.5
        if process.life is not None:
            process.link.cut(silently=silently)
        return f"{process.hub_id}, {'silently' if silently else 'at once'}"

    def _slow_network(self) -> str:
        self._network.delay_s = self._random.choice([0.05, 0.5, 3.0])
        self.network_s = float("inf")
        self._loop.after(self._for_s(), self._network_back)
        return f"{self._network.delay_s:g} s a message"

    def _network_back(self) -> None:
        self._network.delay_s = self._usual_delay_s
        self.network_s = self._loop.now_s

    def _restart_broker(self) -> str:
        empty = self._random.random() < 0.5
        self._broker.restart(empty=empty)
        return "it comes back empty" if empty else "it has kept what it must"

    # --- processes ---------------------------------------------------------------------------------------------

    def _kill_hub(self) -> str:
        process, steps = self._random.choice(self._processes), self._random.randrange(40)
        if process.life is not None:
            process.life.fuse = steps
            self._loop.after(self._random.uniform(0.5, 5) + self._for_s(), lambda: self._restart_hub(process))
        return f"{process.hub_id}, after {steps} steps"

    def _restart_hub(self, process: HubProcess) -> None:
        if process.life is not None and process.life.fuse is not None:
            process.kill()
        if process.life is None:
            self._note(f"*** hub {process.hub_id} starts")
            process.start()

    def _kill_desktop(self) -> str:
        steps = self._random.randrange(12)
        if self._farm.life is not None:
            self._farm.life.fuse = steps
            self._loop.after(self._random.uniform(0.5, 5) + self._for_s(), self._restart_desktop)
        return f"after {steps} steps"

    def _restart_desktop(self) -> None:
        if self._farm.life is not None and self._farm.life.fuse is not None:
            self._farm.kill()
        if self._farm.life is None:
            self._note("*** the desktop starts")
            self._farm.boot()

    def _shut_desktop_down(self) -> str:
        self._farm.leave()
        self._loop.after(self._for_s(), self._restart_desktop)
        return "properly"

    def _lose_disk(self) -> str:
        self._farm.lose_disk()
        self._loop.after(1 + self._for_s(), self._restart_desktop)
        return "a new journal begins"

    # --- what the hub stands on --------------------------------------------------------------------------------

    def _redis_away(self) -> str:
        for process in self._processes:
            process.redis_away = True
        self.redis_s = float("inf")
        self._loop.after(self._for_s(), self._redis_back)
        return "does not answer"

    def _redis_back(self) -> None:
        if self.redis_s == float("inf"):
            self.redis_s = self._loop.now_s
        for process in self._processes:
            process.redis_away = False
            process.stir()

    def _redis_empty(self) -> str:
        self._keys.flush()
        self.redis_s = max(self.redis_s, self._loop.now_s)
        for process in self._processes:
            process.stir()
        return "it has lost every key"

    def _database_away(self) -> str:
        self._tables.away = True
        self.database_s = float("inf")
        self._loop.after(self._for_s(), self._database_back)
        return "does not answer"

    def _database_back(self) -> None:
        self._tables.away = False
        if self.database_s == float("inf"):
            self.database_s = self._loop.now_s

    # --- the farm ----------------------------------------------------------------------------------------------

    def _turn_clock(self) -> str:
        off_s = self._random.choice([self._random.uniform(-MOST_SECONDS_BACK, 90), self._random.uniform(0, 7200)])
        before_s = self._farm.clock_off.total_seconds()
        after_s = before_s + off_s if off_s < 0 else max(before_s, off_s)
        self._farm.clock_off = timedelta(seconds=round(after_s, 3))
        return f"the desktop's is {after_s:.1f} s off"

    def _cut_cable(self) -> str:
        name = self._random.choice(self._farm.plc.names)
        if self._farm.rules is not None:
            self._farm.plc.cut.add(name)
            self._loop.after(self._for_s(), lambda: self._farm.plc.cut.discard(name))
        return name

    def _turn_switch(self) -> str:
        feeder = self._farm.plc.on_site(self._random.choice(self._farm.plc.names))
        to = self._random.choice(["local", "service"])
        feeder.switch(to)  # type: ignore[arg-type]
        self._loop.after(self._for_s(), lambda: feeder.switch("remote"))
        return to

    def _edit_on_site(self) -> str:
        feeder = self._farm.plc.on_site(self._random.choice(self._farm.plc.names))
        feeder.edit(FeederConfig.model_validate(CONFIG | {"meal_g": 50.0 + self.faults}))
        return "a person edits the config"

    def _jam(self) -> str:
        feeder = self._farm.plc.on_site(self._random.choice(self._farm.plc.names))
        feeder.jam()
        self._loop.after(self._for_s(), feeder.clear_jam)
        return "the auger sticks"
