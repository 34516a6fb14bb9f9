//! [`OverrideTable`]: the overrides of a node, merged with those of the fleet. Pure: `now` is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use super::spec::{Override, PERMANENT};
use super::status::OverrideStatus;
use super::target::{OverrideSetting, OverrideTarget};
use crate::base::clock::Timestamp;
use crate::base::codec::{Reader, Writer};
use crate::base::error::Error;
use crate::store::fleet_records::port::FleetRecord;

/// Maximum number of overrides of a node.
const MAX_OVERRIDES: usize = 512;
/// End of the ID of an override of one node, so that it is told from that of the fleet.
const ON_THIS_NODE: &str = " on this node";
/// First byte of a record.
const VERSION: u8 = 1;

/// Overrides by ID.
#[derive(Debug, Default)]
pub(super) struct OverrideTable {
    /// Of this node alone.
    local: BTreeMap<String, Entry>,
    /// Of the fleet.
    shared: BTreeMap<String, Entry>,
    /// IDs that are to be removed from the store, with the time of the removal in milliseconds since 1970.
    removed: BTreeMap<String, u64>,
}

#[derive(Clone, Debug)]
struct Entry {
    target: OverrideTarget,
    setting: OverrideSetting,
    record: Record,
    until: Timestamp,
    /// Whether the store is to have it and does not yet.
    is_pending: bool,
}

/// Override as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    target: String,
    setting: String,
    value: String,
    actor: String,
    reason: String,
    /// Milliseconds since 1970, by the clock of the node that made it. The later of two prevails.
    made_at: u64,
    is_permanent: bool,
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let mut record: Writer = Writer::default();
        record.u8(VERSION);
        for text in [&self.target, &self.setting, &self.value, &self.actor, &self.reason] {
            record.bytes(text.as_bytes());
        }
        record.u64(self.made_at);
        record.u8(u8::from(self.is_permanent));
        record.0
    }

    /// Returns `None` for a record of another version.
    fn decode(record: &[u8]) -> Option<Self> {
        let mut record = Reader(record);
        (record.u8()? == VERSION).then_some(())?;
        let mut text = || record.text().map(str::to_owned);
        let (target, setting, value, actor, reason) = (text()?, text()?, text()?, text()?, text()?);
        let (made_at, is_permanent) = (record.u64()?, record.u8()? == 1);
        Some(Self { target, setting, value, actor, reason, made_at, is_permanent })
    }
}

/// Change that the store does not have yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PendingChange {
    Put(FleetRecord),
    Remove(String),
}

impl OverrideTable {
    /// Adds an override, in place of an earlier one of the same setting. Returns its ID.
    ///
    /// # Errors
    /// If there are too many.
    pub(super) fn add(
        &mut self,
        asked: &Override,
        (target, setting): (OverrideTarget, OverrideSetting),
        shared: bool,
        (now, wall): (Timestamp, u64),
    ) -> Result<String, Error> {
        let mut id = id_of(&target, setting);
        if asked.is_local && shared {
            id.push_str(ON_THIS_NODE);
        }
        let is_local = asked.is_local || !shared;
        let entries = if is_local { &mut self.local } else { &mut self.shared };
        if entries.len() >= MAX_OVERRIDES && !entries.contains_key(&id) {
            return Err(Error::config(format!("more than {MAX_OVERRIDES} overrides; remove some")));
        }
        let record = Record {
            target: target.to_string(),
            setting: setting.name().to_owned(),
            value: setting.to_string(),
            actor: asked.actor.clone(),
            reason: asked.reason.clone(),
            made_at: wall,
            is_permanent: asked.ttl.is_none(),
        };
        let until = now + asked.ttl.unwrap_or(PERMANENT);
        entries.insert(id.clone(), Entry { target, setting, record, until, is_pending: !is_local });
        if !is_local {
            self.removed.remove(&id);
        }
        Ok(id)
    }

    /// Removes an override; returns whether there was one.
    pub(super) fn remove(&mut self, id: &str, wall: u64) -> bool {
        if self.local.remove(id).is_some() {
            return true;
        }
        let removed = self.shared.remove(id);
        if removed.is_some() {
            self.removed.insert(id.to_owned(), wall);
        }
        removed.is_some()
    }

    /// Removes what has expired, and returns the IDs.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<String> {
        let mut expired = Vec::new();
        for entries in [&mut self.local, &mut self.shared] {
            entries.retain(|id, entry| {
                let is_alive = now < entry.until;
                if !is_alive {
                    expired.push(id.clone());
                }
                is_alive
            });
        }
        expired
    }

    /// Merges the overrides of the fleet, except those made before `ignored_before`. Returns whether anything changed.
    pub(super) fn merge(&mut self, found: &[FleetRecord], now: Timestamp, ignored_before: u64) -> bool {
        let known: Vec<(&FleetRecord, Record)> = found
            .iter()
            .filter_map(|kept| Some((kept, Record::decode(&kept.contents)?)))
            .filter(|(kept, record)| {
                record.made_at >= ignored_before
                    && self.removed.get(&kept.name).is_none_or(|removed| record.made_at > *removed)
            })
            .collect();
        let before = self.shared.len();
        self.shared.retain(|id, entry| entry.is_pending || known.iter().any(|(kept, _)| kept.name == *id));
        let mut is_changed = before != self.shared.len();
        for (kept, record) in known {
            is_changed |= self.merge_one(kept, record, now);
        }
        is_changed
    }

    fn merge_one(&mut self, kept: &FleetRecord, record: Record, now: Timestamp) -> bool {
        let known = self.shared.get(&kept.name);
        if known.is_some_and(|known| known.record.made_at > record.made_at) {
            return false;
        }
        let parsed = OverrideTarget::parse(&record.target)
            .and_then(|target| Ok((target, OverrideSetting::parse(&record.setting, &record.value)?)));
        let Ok((target, setting)) = parsed else { return false };
        let is_new = known.is_none_or(|known| known.setting != setting);
        self.removed.remove(&kept.name);
        let entry = Entry { target, setting, record, until: now + kept.left, is_pending: false };
        self.shared.insert(kept.name.clone(), entry);
        is_new
    }

    /// Returns what the store does not have yet.
    pub(super) fn pending(&self, now: Timestamp) -> Vec<PendingChange> {
        let removals = self.removed.keys().map(|id| PendingChange::Remove(id.clone()));
        let puts = self.shared.iter().filter(|(_, entry)| entry.is_pending).map(|(id, entry)| {
            let contents = entry.record.encode();
            PendingChange::Put(FleetRecord { name: id.clone(), contents, left: entry.until.since(now) })
        });
        removals.chain(puts).collect()
    }

    /// Notes that the store has a change, unless another was made meanwhile.
    pub(super) fn written(&mut self, change: &PendingChange) {
        match change {
            PendingChange::Remove(id) => drop(self.removed.remove(id)),
            PendingChange::Put(record) => {
                if let Some(entry) = self.shared.get_mut(&record.name)
                    && entry.record.encode() == record.contents
                {
                    entry.is_pending = false;
                }
            }
        }
    }

    /// Iterates over the settings in force: one of this node prevails over one of the fleet.
    pub(super) fn settings(&self) -> impl Iterator<Item = (&OverrideTarget, OverrideSetting)> {
        let same =
            |one: &Entry, other: &Entry| (&one.target, one.setting.name()) == (&other.target, other.setting.name());
        let of_fleet = self.shared.values().filter(move |entry| !self.local.values().any(|local| same(local, entry)));
        of_fleet.chain(self.local.values()).map(|entry| (&entry.target, entry.setting))
    }

    /// Returns all overrides: of the fleet, then of this node.
    pub(super) fn list(&self, now: Timestamp, wall: u64) -> Vec<OverrideStatus> {
        let of_fleet = self.shared.iter().map(|(id, entry)| status(id, entry, false, now, wall));
        of_fleet.chain(self.local.iter().map(|(id, entry)| status(id, entry, true, now, wall))).collect()
    }

    /// Returns the override of this ID that is in force.
    pub(super) fn get(&self, id: &str, now: Timestamp, wall: u64) -> Option<OverrideStatus> {
        self.list(now, wall).into_iter().rfind(|status| status.id == id)
    }
}

fn status(id: &str, entry: &Entry, is_local: bool, now: Timestamp, wall: u64) -> OverrideStatus {
    OverrideStatus {
        id: id.to_owned(),
        target: entry.record.target.clone(),
        setting: entry.record.setting.clone(),
        value: entry.record.value.clone(),
        actor: entry.record.actor.clone(),
        reason: entry.record.reason.clone(),
        age: Duration::from_millis(wall.saturating_sub(entry.record.made_at)),
        expires_in: (!entry.record.is_permanent).then(|| entry.until.since(now)),
        is_local,
        is_pending: entry.is_pending,
    }
}

fn id_of(target: &OverrideTarget, setting: OverrideSetting) -> String {
    format!("{target} {}", setting.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::mode::Mode;

    const START: Timestamp = Timestamp::from_nanos(86_400_000_000_000);
    const NONE: u64 = 0;

    /// A node, and the store that it writes to.
    #[derive(Default)]
    struct Node {
        table: OverrideTable,
    }

    impl Node {
        fn add(&mut self, asked: Override, wall: u64) -> String {
            let checked = asked.checked().expect("a valid override");
            self.table.add(&asked, checked, true, (START, wall)).expect("room")
        }

        /// Writes what is pending, then reads.
        fn sync(&mut self, store: &mut BTreeMap<String, FleetRecord>) {
            self.table.merge(&store.values().cloned().collect::<Vec<_>>(), START, NONE);
            for change in self.table.pending(START) {
                match &change {
                    PendingChange::Put(record) => drop(store.insert(record.name.clone(), record.clone())),
                    PendingChange::Remove(id) => drop(store.remove(id)),
                }
                self.table.written(&change);
            }
            self.table.merge(&store.values().cloned().collect::<Vec<_>>(), START, NONE);
        }

        fn values(&self) -> Vec<String> {
            self.table.list(START, 9).into_iter().map(|status| format!("{} {}", status.id, status.value)).collect()
        }
    }

    #[test]
    fn the_later_of_two_prevails_on_all_nodes_and_a_removal_ends_both() {
        let (mut a, mut b, mut store) = (Node::default(), Node::default(), BTreeMap::new());
        a.add(Override::mode("cache", Mode::Off), 1);
        b.add(Override::mode("cache", Mode::Shadow), 2);
        b.sync(&mut store);
        a.sync(&mut store);
        assert_eq!((a.values(), b.values()), (vec!["cache mode shadow".into()], vec!["cache mode shadow".into()]));
        assert!(a.table.remove("cache mode", 3));
        a.sync(&mut store);
        b.sync(&mut store);
        assert!(store.is_empty() && a.values().is_empty() && b.values().is_empty());
    }

    #[test]
    fn a_change_of_an_outage_is_written_later() {
        let (mut a, mut store) = (Node::default(), BTreeMap::new());
        a.add(Override::quota("limit api", "5/min"), 1);
        assert!(a.table.list(START, 1)[0].is_pending);
        a.sync(&mut store);
        assert!(!a.table.list(START, 1)[0].is_pending && store.len() == 1);
        a.table.remove("limit api quota", 2);
        let mut restarted = Node::default();
        restarted.sync(&mut store);
        assert_eq!(restarted.values(), ["limit api quota 5/min"], "not yet removed");
        // It was found again between the removal and its writing.
        a.table.merge(&store.values().cloned().collect::<Vec<_>>(), START, NONE);
        assert!(a.values().is_empty());
        a.sync(&mut store);
        restarted.sync(&mut store);
        assert!(store.is_empty() && restarted.values().is_empty());
    }

    #[test]
    fn they_expire_and_a_node_that_ignores_them_takes_only_later_ones() {
        let (mut a, mut b, mut store) = (Node::default(), Node::default(), BTreeMap::new());
        a.add(Override::mode("timing", Mode::Off).expires_in(Duration::from_secs(60)), 1);
        a.add(Override::mode("limits", Mode::Off).permanently(), 5);
        a.sync(&mut store);
        b.table.merge(&store.values().cloned().collect::<Vec<_>>(), START, 3);
        assert_eq!(b.values(), ["limits mode off"]);
        assert!(a.table.expire(START + Duration::from_secs(59)).is_empty());
        assert_eq!(a.table.expire(START + Duration::from_secs(60)), ["timing mode"]);
        assert_eq!(a.values(), ["limits mode off"]);
    }

    #[test]
    fn one_of_this_node_is_not_written_and_prevails_here_until_it_ends() {
        let (mut a, mut b, mut store) = (Node::default(), Node::default(), BTreeMap::new());
        a.add(Override::mode("cache", Mode::Off), 1);
        a.sync(&mut store);
        b.add(Override::mode("cache", Mode::On).on_this_node(), 2);
        b.sync(&mut store);
        let in_force = |node: &Node| node.table.settings().map(|(_, setting)| setting).collect::<Vec<_>>();
        assert_eq!(
            (in_force(&a), in_force(&b)),
            (vec![OverrideSetting::Mode(Mode::Off)], vec![OverrideSetting::Mode(Mode::On)])
        );
        let own = "cache mode on this node";
        assert!(b.table.get(own, START, 9).expect("in force").is_local && b.table.remove(own, 3));
        b.sync(&mut store);
        assert_eq!(in_force(&b), [OverrideSetting::Mode(Mode::Off)]);
    }
}
