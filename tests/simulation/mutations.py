#!/usr/bin/env python3
"""Shows that the simulation has teeth: undoes one repair at a time and looks for a seed that tells.

    tests/simulation/mutations.py [--seeds 0..10000] [NAME...]

Each mutation replaces a piece of the source in a copy of the repository, builds the unit tests there
and plays seeds until one fails. A mutation that no seed finds is an error, and so is one whose piece
of source is no longer there. Takes two minutes for each mutation.

Some repairs cannot be told by a fleet that comes to rest: without them a later look or comparison
only takes longer to mend the same, or the models do not play the fault. Those name the unit test that
tells instead, which must then fail.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

READING = "src/flagstore/shared/reading.rs"
RECONCILE = "src/flagstore/shared/reconcile.rs"
ORDERS = "src/flagstore/shared/orders.rs"
VISITS = "src/flagstore/shared/visits.rs"
COMPARISON = "src/flagstore/shared/visits/comparison.rs"
MARKING = "src/flagstore/shared/visits/marking.rs"
STEPS = "src/flagstore/shared/visits/steps.rs"
AUTHORITY = "src/replica/authority.rs"
SCHEDULE = "src/replica/schedule.rs"
SERVING = "src/environments/serving.rs"
STATE = "src/autoconfig/state.rs"
RECORD_SET = "src/autoconfig/record_set.rs"
JUDGE = "src/autoconfig/cache/judge.rs"
PLAN = "src/autoconfig/cache/plan.rs"
WRITING = "src/autoconfig/cache/shared_tier/writing.rs"
LOCAL_TIER = "src/autoconfig/cache/local_tier.rs"
RECORD_VISITS = "src/autoconfig/cache/visits.rs"

# Name, file, what stands there, what stood there or might have; the unit test that tells, where no
# seed can.
MUTATIONS = [
    ("a marker is believed without counting rows", READING,
     "Some(expected) if found.may_cover(expected) =>", "Some(_) =>"),
    ("rows without a marker are a set", READING,
     "SharedRead::Incomplete { data: DataSet::default(), problem }\n        };\n    };",
     """let _: String = problem;
            SharedRead::Complete(SharedSet {
                data: Arc::new(data(stored)),
                undecodable: Vec::new(),
                completeness: Completeness::Counted,
                confirmed_at: None,
            })
        };
    };"""),
    ("another environment's rows are used", READING,
     "if marker.is_foreign_to(identity) {", "if false && marker.is_foreign_to(identity) {"),
    ("equal versions are taken for equal content", RECONCILE,
     "Some(theirs) if is_as_wanted(&row.key, theirs, &row.json, mine) => Standing::AsWanted,",
     "Some(theirs) if theirs.version == mine.version => Standing::AsWanted,"),
    ("a relay whose stream is stuck corrects", AUTHORITY,
     "self.at >= before + STREAM_LAG && now", "now >= before && now"),
    ("a stream that has just resumed counts as heard", AUTHORITY,
     "&& now >= self.resumed_at + SETTLED", "&& now >= before"),
    ("what is known is taken before the read", COMPARISON,
     "self.visit.task = self.orders.task();\n        self.visit.unwritten", "self.visit.unwritten"),
    ("tombstones that a relay does not know are removed", RECONCILE,
     "Standing::UnknownTombstone if unknown_tombstones <",
     "Standing::UnknownTombstone if false && unknown_tombstones <"),
    ("fewer rows than the marker counts are no loss", STEPS,
     "if marker.note.as_ref().is_some_and(|note| !counts.covers(note.inventory.counts)) {",
     "if false && marker.note.is_some() {"),
    ("a relay that is not live writes", COMPARISON,
     "let may_write = if decision.fill { self.visit.task.may_fill() } else { live };",
     "let may_write = self.visit.task.may_fill();"),
    ("rows are taken off the list after they are removed", COMPARISON,
     "        self.visit.steps.push_back(Step::Mark(Purpose::List));\n", ""),
    ("new items are listed after they are written", VISITS,
     """        if is_new {
            self.visit.steps.push_back(Step::Mark(Purpose::Announce(false)));
        }
        self.visit.upsert(&rows);
""",
     """        self.visit.upsert(&rows);
        if is_new {
            self.visit.steps.push_back(Step::Mark(Purpose::Announce(false)));
        }
"""),
    ("a list of as many rows is taken for the same list", STEPS,
     "note.is_some_and(|it| it.is_current(self.visit.inventory, self.identity.as_ref()));",
     "note.is_some_and(|it| it.inventory.counts == self.visit.inventory.counts);",
     "flagstore::shared::keeper::tests::races::new_items_of_two_relays_at_the_same_time_are_both_listed"),
    ("the list of a marker is believed that was read before", MARKING,
     "        if again {\n            return self.unless_told(Some(found), at);\n        }",
     "        if again || !again {\n            return self.unless_told(Some(found), at);\n        }",
     "flagstore::shared::keeper::tests::races::a_database_that_went_back_unnoticed_is_noticed_before_a_new_item_is_written"),
    ("new items are written whatever the marker lists by then", VISITS,
     "true => Condition::SameRows,", "true => Condition::SameSet,",
     "flagstore::shared::keeper::tests::races::an_item_that_a_peer_takes_off_the_list_before_it_is_written_is_listed_again"),
    ("another environment's marker stays while its rows are replaced", COMPARISON,
     "if writes && found.as_ref().is_some_and(names_another) {",
     "if false && writes && found.as_ref().is_some_and(names_another) {",
     "flagstore::shared::keeper::tests::markers::the_set_of_another_environment_is_replaced_by_a_live_relay_only"),
    ("changes are written under another environment's name", VISITS,
     "!marker.names_another(self.identity.as_ref()) && (!is_new", "(!is_new",
     "flagstore::shared::visits::tests::no_change_is_written_under_another_environments_name"),
    ("a change is forgotten that came while an older one was written", ORDERS,
     "if current.is_none_or(|item| item.version <= version) {", "if current.is_some() || true {"),
    ("a failed comparison is not tried again", SCHEDULE,
     "self.compare = Some((again, Reason::Failed));", "self.compare = None;\n                let _ = again;"),
    ("a store that lost its data is given a few items", STEPS,
     """                Upserted::Unguarded => {
                    self.visit.stop(Outcome::Overtaken(Reason::MarkerMissing));
                }""",
     """                Upserted::Unguarded => {}"""),
    ("a change after data that cannot be used counts", SERVING,
     "SourceEvent::Changes { connection, changes } if connection > given_up => {",
     "SourceEvent::Changes { connection, changes } if connection > 0 * given_up => {",
     "environments::serving::tests::data_that_cannot_be_used_costs_the_connection_and_nothing_else"),
    ("a lost connection leaves the relay live", SERVING,
     "self.current.is_live = false;\n", "",
     "environments::serving::tests::what_was_live_is_only_added_to_and_only_from_what_peers_write"),
    ("the local store's answer counts after LaunchDarkly's", SERVING,
     "Store::Local => self.live_word().is_none(),", "Store::Local => true,",
     "environments::supervisor::tests::what_a_slow_store_holds_does_not_follow_what_was_live"),
    ("an older version reaches clients that ignore it", SERVING,
     "Told::Changes(changes) if self.clients_ignore_any(&changes) => Told::Everything,",
     "Told::Changes(changes) if false && self.clients_ignore_any(&changes) => Told::Everything,",
     "environments::serving::tests::an_item_that_comes_back_at_a_lower_version_reaches_those_who_know_that_it_was_deleted"),
    ("a new connection that is behind takes back what was served", SERVING,
     "if has_older_item(&data, &served.data) {", "if false && has_older_item(&data, &served.data) {"),
    ("a store brings back what was deleted", SERVING,
     "let news = self.deletions.without_deleted(news);", ""),
    ("a row of somebody else makes a list incomplete", JUDGE,
     "&& skipped == closed;", "&& skipped.undecodable + skipped.rolled_back == 0 * closed.total();"),
    ("a record that was put back is used", JUDGE,
     "std::cmp::Ordering::Less => Standing::RolledBack,",
     "std::cmp::Ordering::Less => Standing::Unvouched,",
     "autoconfig::cache::shared_tier::tests::a_record_that_is_put_back_is_not_used"),
    ("what one tier knows as outdated is used from the other", RECORD_SET,
     "if version < self.floor(name).max(other.floor(name)) {",
     "if false && version < self.floor(name).max(other.floor(name)) {"),
    ("what another tier lacks is taken from this machine's", RECORD_VISITS,
     "Some(held)) if held.origin == known.origin => {",
     "Some(held)) if false && held.origin == known.origin => {",
     "autoconfig::cache::visits::tests::what_another_tier_lacks_stays_in_the_tier_of_this_machine"),
    ("what one tier lacks is called removed", LOCAL_TIER,
     ".filter(|_| wanted.is_from_stream())", ".filter(|_| true)"),
    ("a list is called whole although a record was lost", LOCAL_TIER,
     "for (name, version) in missing {", "for (name, version) in missing.iter().take(0) {",
     "autoconfig::cache::visits::tests::what_another_tier_lacks_stays_in_the_tier_of_this_machine"),
    ("what cannot be used is removed from the shared cache", PLAN,
     "|| known.missing.contains_key(name);", ";",
     "autoconfig::cache::plan::tests::what_cannot_be_used_here_stays_as_it_is_stored"),
    ("what a peer stored at a higher version is overwritten", PLAN,
     "if is_ahead && due.get(name) != Some(&claim) {",
     "if false && is_ahead && due.get(name) != Some(&claim) {"),
    ("a relay that is not live brings back what was removed", PLAN,
     "None => is_empty,", "None => is_empty || true,"),
    ("a relay that is not live vouches for rows it found", WRITING,
     "let may_vouch = wanted.live || standing.is_some() ||",
     "let may_vouch = true || wanted.live || standing.is_some() ||"),
    ("an empty list is believed at once", STATE,
     "if environments.is_empty()\n            && something_to_lose",
     "if environments.is_empty()\n            && false && something_to_lose"),
    ("keys are refused although one environment could not be read", STATE,
     "let list = if is_whole { ListState::Authoritative } else { ListState::Provisional };",
     "let list = if is_whole || true { ListState::Authoritative } else { ListState::Provisional };"),
    ("a deletion is forgotten", STATE,
     "        if applied == Applied::Changed {\n            self.removed(name, version);\n        }\n", ""),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", default="0..10000")
    parser.add_argument("--check", action="store_true",
                        help="only look whether each piece of source is still there")
    parser.add_argument("names", nargs="*", help="parts of the names of mutations; all without any")
    arguments = parser.parse_args()
    chosen = [m for m in MUTATIONS
              if not arguments.names or any(name in m[0] for name in arguments.names)]
    if arguments.check:
        for name, file, old, *_ in chosen:
            if (REPOSITORY / file).read_text().count(old) != 1:
                sys.exit(f"{name}: {file} has not exactly one place with: {old}")
        return
    missed = []
    with tempfile.TemporaryDirectory(prefix="pilotlight-mutations-") as folder:
        copy = Path(folder) / "repository"
        files = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True,
                               capture_output=True).stdout.decode().split("\0")
        for name in filter(None, files):
            if (REPOSITORY / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes((REPOSITORY / name).read_bytes())
        for mutation in chosen:
            found = try_one(copy, arguments.seeds, *mutation)
            print(f"{found or 'NOT FOUND':<40} {mutation[0]}", flush=True)
            if not found:
                missed.append(mutation[0])
    sys.exit(f"{len(missed)} of {len(chosen)} mutations were not found" if missed else 0)


def try_one(copy, seeds, _name, file, old, new, unit_test=None):
    source = (copy / file).read_text()
    if source.count(old) != 1:
        sys.exit(f"{file} has not exactly one place with: {old}")
    (copy / file).write_text(source.replace(old, new))
    try:
        if unit_test:
            return "the unit test" if fails(copy, unit_test) else None
        return play(copy, seeds, tests_of(file))
    finally:
        (copy / file).write_text(source)


def tests_of(file):
    """The tests of the fleets that run the code of this file."""
    is_of_one = {"src/autoconfig": "environments", "src/flagstore": "flags", "src/environments": "flags"}
    fleets = [fleet for start, fleet in is_of_one.items() if file.startswith(start)]
    return [f"simulation::tests::promises_about_{fleet}" for fleet in fleets or ["flags", "environments"]]


def fails(copy, unit_test):
    """Whether the unit test runs and fails."""
    return f"test {unit_test} ... FAILED" in run(copy, "0..0", [unit_test])


def play(copy, seeds, tests):
    """Plays the seeds; returns the first that failed, and why."""
    output = run(copy, seeds, tests)
    failure = re.search(r"^(?:\w+, )?seed (\d+)(: .*| panicked)", output, re.MULTILINE)
    return f"seed {failure[1]}{failure[2]}"[:200] if failure else None


def run(copy, seeds, tests):
    """Runs unit tests; returns what they print."""
    # Building again after one changed line costs more than playing.
    environment = dict(os.environ, PILOTLIGHT_SEEDS=seeds, CARGO_PROFILE_RELEASE_LTO="off",
                       CARGO_PROFILE_RELEASE_INCREMENTAL="true",
                       CARGO_PROFILE_RELEASE_CODEGEN_UNITS="64", CARGO_PROFILE_RELEASE_OPT_LEVEL="2")
    environment.setdefault("CARGO_TARGET_DIR", str(REPOSITORY / "target" / "mutations"))
    command = ["cargo", "test", "--release", "--locked", "--lib", "--", *tests]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    output = done.stdout + done.stderr
    if "error: could not compile" in output:
        print(output[-4000:], file=sys.stderr)
    return output


if __name__ == "__main__":
    main()
