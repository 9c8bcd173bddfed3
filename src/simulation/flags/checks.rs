//! The promises: what holds after each write, and what holds at rest.

use super::Flags;
use crate::flagstore::layout;
use crate::flagstore::simulated::{Answer, Call, Content, SharedState};
use crate::model::ItemKind;
use crate::simulation::flags::database::{base_lost, row_of};
use crate::simulation::flags::launchdarkly::shown;
use crate::storage::StoreError;

impl Flags {
    /// After a write of a relay: nothing newest was overwritten, and no part is called whole.
    pub(super) fn check_write(&mut self, before: &Content) {
        let truth = &self.launchdarkly.truth;
        let lost = self.database.changes(before).find_map(|(key, before, after)| {
            // The row that stood there is what LaunchDarkly says at this moment. A tombstone may go:
            // a put does not have it. What another program wrote at a higher version spreads while
            // LaunchDarkly is away, as if it were newer.
            let newest = truth.item(key).filter(|item| !item.is_tombstone());
            let spreads = newest.is_some_and(|newest| {
                after
                    .and_then(|row| layout::head(row))
                    .is_some_and(|row| row.version > newest.version)
            });
            let is_newest = newest.is_some() && row_of(truth, key).as_ref() == before;
            (is_newest && !spreads).then(|| {
                let what = if after.is_some() { "overwritten" } else { "removed" };
                format!("the newest version of {key} is {what}")
            })
        });
        let complete = self.database.complete_set(&self.identity);
        let is_partial = complete.filter(|set| base_lost(set).next().is_some());
        if let Some(problem) = lost {
            self.time.wrong(problem);
        }
        if let Some(set) = is_partial {
            self.time.wrong(format!("a marker vouches for a partial set: {}", shown(&set)));
        }
    }

    /// After the faults have ended: everybody holds what LaunchDarkly says.
    pub(super) fn judge_rest(&mut self) -> Result<(), String> {
        let truth = shown(&self.launchdarkly.truth);
        let database = self.database.shown();
        match self.database.complete_set(&self.identity) {
            Some(set) if shown(&set) == truth => {}
            Some(_) | None => {
                return Err(format!("at rest the database holds {database}, truth is {truth}"));
            }
        }
        for kind in ItemKind::ALL {
            for (key, _) in self.launchdarkly.truth.collection(kind).iter() {
                let key = crate::model::ItemKey { kind, key: key.clone() };
                let is_live =
                    self.launchdarkly.truth.item(&key).is_some_and(|item| !item.is_tombstone());
                let stands = self.database.content.rows.get(&key).cloned();
                if is_live && stands != row_of(&self.launchdarkly.truth, &key) {
                    return Err(format!("at rest the row of {key} is not what is true"));
                }
            }
        }
        for relay in &mut self.relays {
            let Some(process) = relay.process.as_mut() else {
                return Err(format!("{} does not run at rest", relay.name));
            };
            let name = relay.name;
            let served = process.serving.served().map(|served| shown(&served.data));
            let held = process.client.held().map(shown);
            if served.as_ref() != Some(&truth) || held.as_ref() != Some(&truth) {
                return Err(format!("at rest {name} serves {served:?}, truth is {truth}"));
            }
            if relay.has_local
                && relay.disk.last().map(|(_, data)| shown(data)) != Some(truth.clone())
            {
                return Err(format!("at rest the local store of {name} is not what is true"));
            }
            let status = process.flags.report().get();
            if status.state != SharedState::Valid || status.write_pending || status.in_doubt {
                return Err(format!(
                    "at rest {name} reports {:?} {:?} writePending {} inDoubt {}",
                    status.state, status.error, status.write_pending, status.in_doubt
                ));
            }
        }
        Ok(())
    }
}

pub(super) fn shown_call(call: &Call) -> String {
    match call {
        Call::Read => "reads".to_owned(),
        Call::Look => "looks".to_owned(),
        Call::Fill { rows, .. } => format!("fills {} rows", rows.len()),
        Call::Upsert { rows, condition } => {
            let rows: Vec<_> =
                rows.iter().map(|row| format!("{}{}", row.key.key, row.version)).collect();
            let under = if condition.is_some() { " under the marker" } else { "" };
            format!("upserts {}{under}", rows.join(" "))
        }
        Call::Correct(corrections) => {
            let shown = |it: &crate::flagstore::backend::Correction| match &it.wanted {
                Some(row) => format!("{}{}", row.key.key, row.version),
                None => format!("-{}", it.found.key.key),
            };
            let rows: Vec<_> = corrections.iter().map(shown).collect();
            format!("corrects {}", rows.join(" "))
        }
        Call::Mark { note, .. } => match note.unsettled {
            Some(why) => format!("marks {why:?}"),
            None => {
                format!("marks {}+{}", note.inventory.counts.flags, note.inventory.counts.segments)
            }
        },
    }
}

pub(super) fn shown_answer(answer: &Result<Answer, StoreError>) -> String {
    match answer {
        Ok(Answer::Read(_) | Answer::Mark(_) | Answer::Look(_)) => String::new(),
        Ok(Answer::Fill(filled)) => format!("= {filled:?}"),
        Ok(Answer::Upsert(outcomes)) => format!("= {outcomes:?}"),
        Ok(Answer::Correct(done)) => format!("= {done:?}"),
        Err(error) => format!("= {error}"),
    }
}
