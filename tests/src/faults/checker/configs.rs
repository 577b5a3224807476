//! Configurations: a register that several mounts write and read.

use super::{BTreeMap, Call, Case, Kind, Millis, Operation};

/// What is allowed to be late: nothing, as "every open, on every mount, sees the new one". But the
/// clock of shells counts hundredths of seconds.
const CLOCK: Millis = 10;

impl Case<'_> {
    /// "Close-to-open: who opens after a close returned, on any mount, sees what was written": a look
    /// sees no version that another had replaced, all of it, before the look began. A write that was
    /// never acknowledged may have happened at any time after its beginning, or never.
    pub(super) fn configs(&mut self) {
        let (history, found) = (self.history, self.found);
        let mut writes: BTreeMap<&str, Vec<(&str, &Operation)>> = BTreeMap::new();
        for operation in &history.operations {
            if let Call::Configure { job, version } = &operation.call {
                writes.entry(job).or_default().push((version, operation));
            }
        }
        for operation in &history.operations {
            if let (Call::Config { job }, Some(version)) = (&operation.call, operation.told()) {
                let all = writes.get(job.as_str()).map_or(&[][..], Vec::as_slice);
                let node = &operation.node;
                if let Some(why) = stale(all, version, operation.begin, operation.ended()) {
                    self.violates(Kind::LostConfig, format!("config of {job} on {node}: {why}"));
                }
            }
        }
        for (job, all) in writes {
            let version = found.configs.get(job).map_or("", String::as_str);
            if let Some(why) = stale(&all, version, Millis::MAX, Millis::MAX) {
                self.violates(Kind::LostConfig, format!("config of {job} in the end: {why}"));
            }
        }
    }
}

/// Why no look from `begin` to `end` can have seen a version.
fn stale(writes: &[(&str, &Operation)], version: &str, begin: Millis, end: Millis) -> Option<String> {
    let Some((_, seen)) = writes.iter().find(|(other, _)| *other == version) else {
        return Some(format!("{version:?}, which nobody wrote"));
    };
    if seen.begin > end {
        return Some(format!("{version}, which was not yet written"));
    }
    let known = |write: &Operation| write.told().map(|_| write.ended());
    // An unknown write may have happened late, but not after what was acknowledged was seen in its stead.
    let happened = known(seen)?;
    let newer = writes
        .iter()
        .find(|(_, other)| other.begin > happened + CLOCK && known(other).is_some_and(|at| at + CLOCK < begin));
    newer.map(|(newer, other)| {
        let late = begin.saturating_sub(other.ended());
        format!("{version}, {late} ms after {newer} was acknowledged")
    })
}
