"""Every rule of the contract that binds a desktop."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from hub.protocol.limits import MAX_PAYLOAD_BYTES
from hub.protocol.messages import Event, Heartbeat, Offline, Reply, State
from hub.protocol.times import rfc3339
from tests.device_sim.conftest import CONFIG, REPLIES, SITE, TOPICS, PlayedSite

HEARTBEAT = TOPICS.heartbeat(SITE)

# --- presence ---------------------------------------------------------------------------------------------------


def test_the_first_thing_a_session_says_is_its_heartbeat_and_then_how_all_feeders_are(
    new_site: Callable[[], PlayedSite],
) -> None:
    site = new_site()
    will = site.rules.open_session()
    said = site.rules.subscribed(site.now)
    assert [message.topic for message in said] == [HEARTBEAT, TOPICS.state(SITE, "f1"), TOPICS.state(SITE, "f2")]
    assert all(message.retain for message in said)
    beat = Heartbeat.model_validate_json(said[0].payload)
    assert (beat.session, beat.seq, beat.journal_id) == (will.session, 1, site.journal.journal_id)
    assert State.model_validate_json(said[1].payload).config == CONFIG


def test_heartbeats_go_out_at_their_interval_and_count_up(site: PlayedSite) -> None:
    site.wait(60)
    assert [beat["seq"] for beat in site.heartbeats()] == [1, 2, 3, 4]


def test_nothing_is_said_and_no_heartbeat_kept_while_there_is_no_connection(site: PlayedSite) -> None:
    site.rules.lost()
    site.said = []
    site.wait(3600, step_s=60)
    assert site.said == []


def test_every_connection_has_a_session_of_its_own_and_the_will_names_it(site: PlayedSite) -> None:
    first = site.rules.presence.session
    will = site.rules.open_session()
    assert first != will.session == site.rules.presence.session


def test_leaving_on_purpose_says_so(site: PlayedSite) -> None:
    (farewell,) = site.rules.leave()
    said = Offline.model_validate_json(farewell.payload)
    assert (said.session, said.reason, farewell.retain) == (site.rules.presence.session, "shutdown", True)


def test_a_late_will_of_another_session_is_answered_by_a_heartbeat_but_not_without_end(site: PlayedSite) -> None:
    late_will = b'{"online": false, "session": "an-older-one"}'
    for _ in range(20):
        site.said += site.rules.receive(HEARTBEAT, late_will, retained=False, now=site.now)
    assert len(site.heartbeats()) == 1 + 5
    site.wait(61)
    before = len(site.heartbeats())
    site.said += site.rules.receive(HEARTBEAT, late_will, retained=False, now=site.now)
    assert len(site.heartbeats()) == before + 1


# --- whose command it is ----------------------------------------------------------------------------------------


def test_a_retained_command_is_ignored(site: PlayedSite) -> None:
    site.send(site.command("pause"), "f1", retained=True)
    assert site.plc["f1"].condition == "running"
    assert site.replies(site.command("pause")["id"]) == []


@pytest.mark.parametrize("not_ours", [{"session": "older"}, {"journal_id": "another"}, {"session": None}])
def test_a_command_for_another_session_or_journal_is_ignored(site: PlayedSite, not_ours: dict[str, str]) -> None:
    assert site.order("pause", "f1", **not_ours) == []
    assert site.plc["f1"].condition == "running"


def test_a_stop_is_obeyed_whatever_session_it_names(site: PlayedSite) -> None:
    assert site.order("stop_all", session=None, journal_id=None, stop_epoch=1)[-1]["status"] == "applied"
    assert site.plc["f1"].condition == "stopped"


@pytest.mark.parametrize(
    "reply_to",
    ["fh/v1/pond8/replies/hub1", HEARTBEAT, "fh/v1/pond7/feeders/f1/state", "elsewhere", "fh/v1/pond7/replies/+"],
)
def test_a_reply_to_outside_the_sites_own_replies_is_refused(site: PlayedSite, reply_to: str) -> None:
    before = len(site.said)
    site.order("pause", "f1", reply_to=reply_to)
    assert site.plc["f1"].condition == "running"
    assert len(site.said) == before


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"\xff\xfe", b"[]", b"null", b'{"id": 7}', b"{" * 40_000, b" " * 70_000])
def test_what_is_no_command_changes_nothing_and_is_not_answered(site: PlayedSite, payload: bytes) -> None:
    before = len(site.said)
    site.send(payload, "f1")
    site.send(payload)
    assert len(site.said) == before


def test_a_command_that_the_contract_does_not_know_is_answered(site: PlayedSite) -> None:
    assert site.order("dance", "f1")[-1]["code"] == "unknown_command"
    assert site.order("feed", None, {"grams": 10})[-1]["code"] == "unknown_command"
    assert site.order("stop_all", "f1", stop_epoch=1)[-1]["code"] == "unknown_command"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ({}, "bad_args"),
        ({"grams": "10"}, "bad_args"),
        ({"grams": True}, "bad_args"),
        ({"grams": 0}, "limit"),
        ({"grams": 20_001}, "limit"),
        ({"grams": 4001}, "limit"),
    ],
)
def test_wrong_arguments_and_broken_limits_are_told_apart(site: PlayedSite, args: dict[str, object], code: str) -> None:
    reply = site.order("feed", "f1", args)[-1]
    assert (reply["status"], reply["code"]) == ("rejected", code)
    site.wait(60)
    assert site.dispensed_g() == 0


def test_a_feeder_that_the_site_does_not_have_is_said(site: PlayedSite) -> None:
    assert site.order("pause", "f9")[-1]["code"] == "unknown_feeder"


def test_a_config_over_its_limits_is_refused(site: PlayedSite) -> None:
    assert site.set_config(1, meal_g=20_001)["code"] == "limit"
    assert site.set_config(1, meal_g=5000)["code"] == "limit"
    assert site.set_config(1, time_zone="Mars/Olympus")["code"] == "bad_args"
    assert site.plc["f1"].registers.config == CONFIG


# --- the hub's time ---------------------------------------------------------------------------------------------


def test_before_the_first_ping_nothing_acts_but_ping_report_and_stops(new_site: Callable[[], PlayedSite]) -> None:
    site = new_site()
    site.connect(ping=False)
    assert site.order("pause", "f1")[-1]["code"] == "clock_unknown"
    assert site.order("report", args={"commands": []})[-1]["status"] == "applied"
    assert site.order("stop_all", stop_epoch=1)[-1]["status"] == "applied"
    assert site.order("release", stop_epoch=1)[-1]["code"] == "clock_unknown"
    assert site.ping()["status"] == "applied"
    assert site.order("release", stop_epoch=1)[-1]["status"] == "applied"


def test_a_ping_that_answers_an_old_heartbeat_tells_no_time(new_site: Callable[[], PlayedSite]) -> None:
    site = new_site()
    site.connect(ping=False)
    site.sleep(5)
    assert site.ping()["status"] == "applied"
    assert site.order("pause", "f1")[-1]["code"] == "clock_unknown"


def test_a_command_past_its_expiry_by_the_hubs_time_is_refused(site: PlayedSite) -> None:
    late = site.command("feed", {"grams": 100})
    site.sleep(10)
    site.send(late, "f1")
    assert site.replies(late["id"])[-1]["code"] == "expired"


def test_the_machines_own_clock_decides_no_expiry(new_site: Callable[[], PlayedSite]) -> None:
    site = new_site()
    site.connect(ping=False)
    hub_now = site.now + timedelta(days=400)
    times = {"issued_at": rfc3339(hub_now), "expires_at": rfc3339(hub_now + timedelta(seconds=10))}
    assert site.ping(**times)["status"] == "applied"
    assert site.order("pause", "f1", **times)[-1]["status"] == "applied"
    assert site.order("resume", "f1")[-1]["code"] == "expired"


# --- at most once -----------------------------------------------------------------------------------------------


def test_a_duplicate_gets_the_first_outcome_and_does_not_act_again(site: PlayedSite) -> None:
    dose = site.command("feed", {"grams": 100})
    site.send(dose, "f1")
    site.wait(30)
    site.send(dose, "f1")
    site.wait(30)
    assert [reply["status"] for reply in site.replies(dose["id"])] == ["received", "running", "applied", "applied"]
    assert site.dispensed_g() == 100


def test_a_duplicate_of_a_dose_that_runs_is_told_that_it_runs(site: PlayedSite) -> None:
    dose = site.command("feed", {"grams": 1000})
    site.send(dose, "f1")
    site.send(dose, "f1")
    assert [reply["status"] for reply in site.replies(dose["id"])] == ["received", "running", "running"]


def test_a_duplicate_after_a_restart_is_answered_from_the_journal(site: PlayedSite) -> None:
    order = {"config": CONFIG.model_dump() | {"meal_g": 300}, "config_version": 1, "local_rev": 0, "time_zone": "UTC"}
    command = site.command("set_config", order)
    site.send(command, "f1")
    first = site.replies(command["id"])[-1]
    site.crash()
    site.connect()
    site.send(command | {"session": site.rules.presence.session}, "f1")
    assert site.replies(command["id"])[-1] == first | {"at": site.replies(command["id"])[-1]["at"]}
    assert site.plc["f1"].registers.config.meal_g == 300


def test_a_desktop_that_crashed_in_a_dose_calls_it_interrupted_with_the_grams_of_the_counter(site: PlayedSite) -> None:
    dose = site.command("feed", {"grams": 1000})
    site.send(dose, "f1")
    site.wait(8)
    site.crash()
    site.wait(100)
    site.connect()
    outcome = site.order("report", args={"commands": [dose["id"]]})[-1]["outcomes"][0]
    assert (outcome["status"], outcome["dispensed_g"]) == ("interrupted", 100)
    assert site.dispensed_g() == 100
    site.send(dose | {"session": site.rules.presence.session}, "f1")
    assert site.replies(dose["id"])[-1]["status"] == "failed"
    assert {(event["id"], event["dispensed_g"]) for event in site.events()} == {(site.events()[0]["id"], 100)}


def crash_after_begin(site: PlayedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """The desktop dies as soon as a command stands in its journal: nothing after that happens."""
    begin = site.journal.begin

    def crash(*args: Any) -> None:
        begin(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(site.journal, "begin", crash)


def test_a_crash_between_journal_and_plc_is_an_interrupted_dose_of_no_grams(
    site: PlayedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    dose = site.command("feed", {"grams": 1000})
    crash_after_begin(site, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        site.send(dose, "f1")
    site.crash()
    site.connect()
    outcome = site.order("report", args={"commands": [dose["id"]]})[-1]["outcomes"][0]
    assert (outcome["status"], outcome["dispensed_g"]) == ("interrupted", 0)


# --- report -----------------------------------------------------------------------------------------------------


def test_report_tells_every_outcome_and_publishes_every_state(site: PlayedSite) -> None:
    applied, refused, running = (site.command(*what) for what in [("pause",), ("feed", {}), ("feed", {"grams": 1000})])
    site.send(applied, "f2")
    site.send(refused, "f1")
    site.send(running, "f1")
    unseen = site.command("pause")
    asked = [command["id"] for command in (applied, refused, running, unseen)]
    states = len(site.states()), len(site.states("f2"))
    outcomes = site.order("report", args={"commands": asked})[-1]["outcomes"]
    assert [(o["id"], o["status"]) for o in outcomes] == list(
        zip(asked, ["applied", "rejected", "running", "not_seen"], strict=True)
    )
    assert (len(site.states()), len(site.states("f2"))) == (states[0] + 1, states[1] + 1)


def test_what_was_called_not_seen_never_acts_also_after_a_crash(site: PlayedSite) -> None:
    dose = site.command("feed", {"grams": 100})
    site.order("report", args={"commands": [dose["id"]]})
    site.crash()
    site.connect()
    site.send(dose | {"session": site.rules.presence.session}, "f1")
    assert site.replies(dose["id"])[-1]["code"] == "voided"
    site.wait(60)
    assert site.dispensed_g() == 0
    outcome = site.order("report", args={"commands": [dose["id"]]})[-1]["outcomes"][0]
    assert outcome["status"] == "not_seen"


def test_a_report_of_a_hundred_commands_fits_into_one_message(site: PlayedSite) -> None:
    asked = []
    for version in range(1, 101):
        command = site.command(
            "set_config",
            {
                "config": CONFIG.model_dump() | {"meal_g": 100.1},
                "config_version": version,
                "local_rev": 0,
                "time_zone": "UTC",
            },
        )
        asked.append(command["id"])
        site.send(command, "f1")
    site.said = []
    assert len(site.order("report", args={"commands": asked})[-1]["outcomes"]) == 100


def test_a_report_of_a_hundred_stops_of_a_large_site_fits_into_one_message(
    new_site: Callable[..., PlayedSite],
) -> None:
    site = new_site(feeders=50)
    site.connect()
    site.plc.cut.add("f1")
    asked = []
    for epoch in range(1, 101):
        stop = site.command("stop_all", stop_epoch=epoch)
        site.send(stop)
        asked.append(stop["id"])
    said = len(site.said)
    outcomes = site.order("report", args={"commands": asked}, stop_epoch=100)[-1]["outcomes"]
    assert {outcome["status"] for outcome in outcomes} == {"failed"}
    assert max(len(message.payload) for message in site.said[said:]) <= MAX_PAYLOAD_BYTES
    assert max(len(message.payload) for message in site.said) < 64 * 1024


# --- configs ----------------------------------------------------------------------------------------------------


def test_a_config_is_applied_when_the_plc_has_it_within_32_bits(site: PlayedSite) -> None:
    reply = site.set_config(1, meal_g=100.1)
    assert reply["status"] == "applied"
    assert reply["config"]["meal_g"] == 100.0999984741211
    assert (reply["config_version"], reply["local_rev"]) == (1, 0)
    assert site.states()[-1]["config"] == reply["config"]


def test_a_version_that_is_not_newer_is_refused(site: PlayedSite) -> None:
    site.set_config(5, meal_g=300)
    for version in (5, 4):
        reply = site.set_config(version, meal_g=400)
        assert (reply["code"], reply["config_version"], reply["config"]["meal_g"]) == ("stale_version", 5, 300)


def test_versions_are_each_feeders_own(site: PlayedSite) -> None:
    assert site.set_config(5)["status"] == "applied"
    assert site.set_config(1, "f2")["status"] == "applied"


def test_a_change_made_upon_a_config_that_was_edited_on_the_farm_is_stale(site: PlayedSite) -> None:
    site.plc.on_site("f1").edit(CONFIG.model_copy(update={"meal_g": 500}))
    site.wait(1)
    assert (site.states()[-1]["local_rev"], site.states()[-1]["config"]["meal_g"]) == (1, 500)
    reply = site.set_config(1, meal_g=300)
    assert (reply["status"], reply["code"], reply["local_rev"]) == ("rejected", "stale", 1)
    assert reply["config"]["meal_g"] == 500
    assert site.set_config(1, meal_g=300, local_rev=1)["status"] == "applied"


def test_what_does_not_read_back_as_written_fails_and_the_old_config_is_put_back(site: PlayedSite) -> None:
    site.plc["f1"].registers.auger_max_g_per_s = 20
    reply = site.set_config(1, feed_rate_g_per_s=50)
    assert (reply["status"], reply["code"]) == ("failed", "read_back_differs")
    assert "feed_rate_g_per_s: wrote 50.0, read 20.0" in reply["detail"]
    assert (site.plc["f1"].registers.config, reply["config_version"]) == (CONFIG, 0)


def test_a_config_found_in_the_plc_after_a_crash_was_applied(site: PlayedSite) -> None:
    order = {"config": CONFIG.model_dump() | {"meal_g": 300}, "config_version": 1, "local_rev": 0, "time_zone": "UTC"}
    command = site.command("set_config", order)
    finish = site.journal.finish

    def crash(*args: object) -> None:
        site.plc["f1"].write_config(CONFIG.model_copy(update={"meal_g": 300}), "UTC")
        finish(*args)  # type: ignore[arg-type]  # passed on as they came
        raise KeyboardInterrupt

    site.journal.finish = crash  # type: ignore[method-assign]  # the fault: nothing after it happens
    with pytest.raises(KeyboardInterrupt):
        site.send(command, "f1")
    # A real PLC has kept what was written, though the desktop's transaction is undone.
    site.journal.save_registers("f1", site.plc["f1"].registers)
    site.crash()
    site.connect()
    outcome = site.order("report", args={"commands": [command["id"]]})[-1]["outcomes"][0]
    assert (outcome["status"], outcome["config_version"], outcome["config"]["meal_g"]) == ("applied", 1, 300)


def test_the_last_config_version_and_local_revision_outlive_a_restart(site: PlayedSite) -> None:
    site.plc.on_site("f1").edit(CONFIG.model_copy(update={"meal_g": 500}))
    site.wait(1)
    site.set_config(7, meal_g=300, local_rev=1)
    site.crash()
    site.connect()
    state = site.states()[-1]
    assert (state["config_version"], state["local_rev"], state["config"]["meal_g"]) == (7, 1, 300)


# --- doses ------------------------------------------------------------------------------------------------------


def test_a_dose_is_received_runs_and_is_applied_with_the_grams_dispensed(site: PlayedSite) -> None:
    dose = site.command("feed", {"grams": 125})
    site.send(dose, "f1")
    assert [reply["status"] for reply in site.replies(dose["id"])] == ["received", "running"]
    site.wait(10)
    assert site.replies(dose["id"])[-1] | {"at": ""} == {
        "id": dose["id"], "status": "applied", "dispensed_g": 125.0, "at": ""
    }  # fmt: skip
    (event,) = site.events()
    assert (event["kind"], event["command_id"], event["dispensed_g"]) == ("dose", dose["id"], 125)
    assert site.states()[-1]["silo_g"] == 40_000 - 125


def test_commands_are_answered_while_a_dose_runs(site: PlayedSite) -> None:
    site.order("feed", "f1", {"grams": 2000})
    assert site.order("feed", "f1", {"grams": 10})[-1]["code"] == "busy"
    assert site.set_config(1)["status"] == "applied"
    assert site.order("feed", "f2", {"grams": 10})[-1]["status"] == "running"
    assert site.ping()["status"] == "applied"


@pytest.mark.parametrize("hindrance", ["jammed", "empty", "paused", "not_remote", "plc_lost"])
def test_a_dose_that_cannot_be_fed_is_refused_with_the_reason(site: PlayedSite, hindrance: str) -> None:
    match hindrance:
        case "jammed":
            site.plc["f1"].jam()
        case "empty":
            site.plc["f1"].registers.silo_g = 0
        case "paused":
            site.order("pause", "f1")
        case "not_remote":
            site.plc["f1"].switch("local")
        case _:
            site.plc.cut.add("f1")
    reply = site.order("feed", "f1", {"grams": 10})[-1]
    assert reply["code"] == hindrance
    assert reply["status"] == ("failed" if hindrance == "plc_lost" else "rejected")


def test_a_dose_that_ends_early_failed_and_says_how_far_it_came(site: PlayedSite) -> None:
    dose = site.command("feed", {"grams": 1000})
    site.send(dose, "f1")
    site.wait(10)
    site.plc.on_site("f1").jam()
    site.wait(1)
    reply = site.replies(dose["id"])[-1]
    assert (reply["status"], reply["code"], reply["dispensed_g"]) == ("failed", "jammed", 125)
    assert site.states()[-1]["condition"] == "jammed"


# --- the switch and the cable -----------------------------------------------------------------------------------


def test_while_the_switch_is_not_on_remote_only_stop_ping_and_report_are_obeyed(site: PlayedSite) -> None:
    site.plc.on_site("f1").switch("local")
    site.wait(1)
    assert site.states()[-1]["control"] == "local"
    for refused in (site.set_config(1), site.order("pause", "f1")[-1], site.order("feed", "f1", {"grams": 1})[-1]):
        assert (refused["status"], refused["code"]) == ("rejected", "not_remote")
    assert site.ping()["status"] == "applied"
    assert site.order("report")[-1]["status"] == "applied"
    assert site.order("stop_all", stop_epoch=1)[-1]["feeders"]["f1"]["confirmed"] is True


def test_a_lost_plc_is_a_fact_of_its_own(site: PlayedSite) -> None:
    site.plc.cut.add("f1")
    site.wait(20)
    assert site.states()[-1]["condition"] == "plc_lost"
    assert site.states("f2")[-1]["condition"] == "running"
    assert site.heartbeats()[-1]["plc"] == {"connected": False}
    site.plc.cut.clear()
    site.wait(1)
    assert site.states()[-1]["condition"] == "running"


# --- the emergency stop -----------------------------------------------------------------------------------------


def test_stop_all_latches_every_feeder_schedule_included_until_release(site: PlayedSite) -> None:
    dose = site.command("feed", {"grams": 1000})
    site.send(dose, "f1")
    site.wait(4)
    reply = site.order("stop_all", stop_epoch=1)[-1]
    assert (reply["status"], reply["feeders"]) == ("applied", {"f1": {"confirmed": True}, "f2": {"confirmed": True}})
    assert (site.replies(dose["id"])[-1]["code"], site.replies(dose["id"])[-1]["dispensed_g"]) == ("stopped", 50)
    site.stop_epoch = 1
    assert site.order("resume", "f1")[-1]["code"] == "stopped"
    site.wait(7200, step_s=60)
    assert site.dispensed_g() == 50
    site.ping()
    assert site.order("release")[-1]["feeders"]["f2"] == {"confirmed": True}
    site.wait(3600, step_s=60)
    assert site.dispensed_g() == 300


def test_the_latch_outlives_a_crash(site: PlayedSite) -> None:
    site.order("stop_all", stop_epoch=3)
    site.crash()
    site.connect()
    assert site.states()[-1]["condition"] == "stopped"
    assert site.order("pause", "f1", stop_epoch=2)[-1]["code"] == "stale_epoch"
    assert site.order("resume", "f1", stop_epoch=3)[-1]["code"] == "stopped"


def test_a_feeder_is_paused_while_stopped_so_that_a_release_does_not_set_it_going(site: PlayedSite) -> None:
    site.order("stop_all", stop_epoch=1)
    site.stop_epoch = 1
    assert site.order("pause", "f1")[-1]["status"] == "applied"
    assert site.plc["f1"].condition == "stopped"
    site.order("release")
    assert [site.plc[name].condition for name in site.plc.names] == ["paused", "running"]


def test_a_command_that_was_on_its_way_when_the_stop_came_carries_the_lower_epoch_and_is_refused(
    site: PlayedSite,
) -> None:
    on_its_way = site.command("feed", {"grams": 100})
    site.order("stop_all", stop_epoch=1)
    site.order("release", stop_epoch=1)
    site.send(on_its_way, "f1")
    assert site.replies(on_its_way["id"])[-1]["code"] == "stale_epoch"
    assert site.order("stop_all", stop_epoch=0)[-1]["code"] == "stale_epoch"


def test_a_feeder_that_a_stop_did_not_reach_is_named_and_stopped_when_it_is_back(site: PlayedSite) -> None:
    site.plc.cut.add("f2")
    reply = site.order("stop_all", stop_epoch=1)[-1]
    assert reply["status"] == "failed"
    assert reply["feeders"] == {"f1": {"confirmed": True}, "f2": {"confirmed": False, "code": "plc_lost"}}
    site.plc.cut.clear()
    site.wait(1)
    assert site.states("f2")[-1]["condition"] == "stopped"


def test_a_stop_that_a_crash_cut_off_is_done_when_the_desktop_is_back(
    site: PlayedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.connect()
    crash_after_begin(site, monkeypatch)
    stop = site.command("stop_all", stop_epoch=4)
    with pytest.raises(KeyboardInterrupt):
        site.send(stop)
    site.crash()
    assert site.journal.latched
    assert [site.plc[name].condition for name in site.plc.names] == ["stopped", "stopped"]
    site.connect()
    site.send(stop)
    assert site.replies(stop["id"])[-1]["status"] == "applied"


def test_a_stop_that_comes_again_while_it_holds_tells_what_is_confirmed_by_now(site: PlayedSite) -> None:
    stop = site.command("stop_all", stop_epoch=1)
    site.plc.cut.add("f2")
    site.send(stop)
    site.plc.cut.clear()
    site.send(stop)
    assert [reply["status"] for reply in site.replies(stop["id"])] == ["failed", "applied"]
    site.order("release", stop_epoch=1)
    site.send(stop)
    assert site.plc["f1"].condition == "running"


def test_a_release_is_for_the_whole_site_or_not_at_all(site: PlayedSite) -> None:
    site.order("stop_all", stop_epoch=1)
    site.plc.on_site("f2").switch("local")
    reply = site.order("release", stop_epoch=1)[-1]
    assert (reply["status"], reply["code"]) == ("rejected", "not_remote")
    assert reply["feeders"] == {"f2": {"confirmed": False, "code": "not_remote"}}
    assert site.plc["f1"].condition == "stopped"


# --- state and events -------------------------------------------------------------------------------------------


def test_states_count_up_per_feeder_also_over_a_crash(site: PlayedSite) -> None:
    site.order("pause", "f1")
    site.crash()
    site.connect()
    seqs = [state["seq"] for state in site.states()]
    assert seqs == sorted(set(seqs))


def test_events_are_kept_until_acknowledged_and_said_again_in_each_session_and_on_report(site: PlayedSite) -> None:
    site.wait(3600 * 2, step_s=20)
    first = site.events()
    assert [(event["seq"], event["kind"]) for event in first] == [(1, "meal"), (2, "meal")]
    site.order("ack_events", args={"through": {"f1": 1}})
    site.crash()
    site.said = []
    site.connect()
    assert site.events() == first[1:]
    site.said = []
    site.order("report", args={"commands": []})
    assert site.events() == first[1:], "the hub may not have listened when the session began"
    site.order("ack_events", args={"through": {"f1": 2, "f2": 2}})
    site.said = []
    site.connect()
    assert site.events() == []


def test_meals_fed_while_the_desktop_was_away_are_told_when_it_is_back(site: PlayedSite) -> None:
    site.rules.lost()
    site.sleep(3600)
    site.crash()
    site.connect()
    assert [event["dispensed_g"] for event in site.events()] == [250]


def test_all_that_is_said_is_what_the_contract_says(site: PlayedSite) -> None:
    site.set_config(1, interval_s=600)
    site.order("feed", "f1", {"grams": 300})
    site.wait(3600, step_s=5)
    site.order("stop_all", stop_epoch=1)
    kinds = {HEARTBEAT: Heartbeat, REPLIES: Reply}
    kinds |= {TOPICS.state(SITE, f"f{n}"): State for n in (1, 2)} | {
        TOPICS.events(SITE, f"f{n}"): Event for n in (1, 2)
    }
    for message in site.said:
        assert kinds[message.topic].model_validate_json(message.payload)
        assert None not in json.loads(message.payload).values()
