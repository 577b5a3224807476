//! What a worker can do, held against what a ticket needs.

use std::collections::{BTreeSet, HashSet};

use crate::repository::names::Name;

/// Begins the label that a ticket of an isolation needs, and that a worker names who can give it.
const ISOLATION: &str = "isolation.";

/// Begins the word of a worker that takes tickets with this label only.
const ONLY: &str = "only:";

/// Labels that are noted of workers that leave a ticket alone, about.
const RESERVED_MAX: usize = 8;

/// The label for an isolation.
pub fn isolation_label(isolation: &str) -> String {
    format!("{ISOLATION}{isolation}")
}

/// A worker's labels. One that names no isolation takes tickets of any, as it may not know of them;
/// one that names some takes tickets of these only.
#[derive(Debug, Default)]
pub struct Skills {
    labels: HashSet<String>,
    /// Those of which a ticket must need one; empty: it need not.
    only: HashSet<String>,
    any_isolation: bool,
}

impl Skills {
    /// Of a worker with these labels.
    pub fn new<'a>(labels: impl Iterator<Item = &'a str>) -> Self {
        let mut skills = Skills::default();
        for word in labels {
            if let Some(only) = word.strip_prefix(ONLY) {
                skills.only.insert(only.to_owned());
            }
            skills.labels.insert(word.strip_prefix(ONLY).unwrap_or(word).to_owned());
        }
        skills.any_isolation = !skills.labels.iter().any(|label| label.starts_with(ISOLATION));
        skills
    }

    /// Whether a worker may say this: a label, or `only:` before one.
    pub fn is_word(word: &str) -> bool {
        Name::new(word.strip_prefix(ONLY).unwrap_or(word)).is_some()
    }

    /// The labels in order, with a blank between.
    pub fn text(&self) -> String {
        let mut words: Vec<String> = self.labels.difference(&self.only).cloned().collect();
        words.extend(self.only.iter().map(|label| format!("{ONLY}{label}")));
        words.sort_unstable();
        words.join(" ")
    }

    /// Whether it has all that a ticket needs, one label a line, and takes such tickets.
    pub fn meet(&self, needs: &str) -> bool {
        let wanted = self.only.is_empty() || needs.lines().any(|need| self.only.contains(need));
        wanted && self.has(needs)
    }

    fn has(&self, needs: &str) -> bool {
        let mut needs = needs.lines();
        needs.all(|need| self.labels.contains(need) || (self.any_isolation && need.starts_with(ISOLATION)))
    }
}

/// Those who wait for a queue's tickets, with one ticket in view.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Waiters {
    /// All of them.
    pub all: usize,
    /// Those that would be given it.
    pub able: usize,
    /// Labels of which a ticket must need one for those that have what it needs, and leave it alone.
    pub reserved_for: BTreeSet<String>,
}

impl Waiters {
    /// Counts so many that have these skills, for a ticket that needs this, one label a line.
    pub fn add(&mut self, skills: &Skills, count: usize, needs: &str) {
        self.all += count;
        if skills.meet(needs) {
            self.able += count;
        } else if count > 0 && skills.has(needs) && self.reserved_for.len() < RESERVED_MAX {
            self.reserved_for.extend(skills.only.iter().cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skills(labels: &[&str]) -> Skills {
        Skills::new(labels.iter().copied())
    }

    /// "`why` says in numbers who waits and takes it not, and whether that is for its labels or theirs."
    #[test]
    fn who_leaves_a_ticket_alone_is_no_worker_without_its_labels() {
        let mut waiters = Waiters::default();
        for (labels, count) in [
            (&["linux", "only:gpu"][..], 2),
            (&["arm"], 3),
            (&["linux", "only:fpga"], 0),
        ] {
            waiters.add(&skills(labels), count, "linux\nisolation.none");
        }
        assert_eq!((waiters.all, waiters.able), (5, 0));
        assert_eq!(waiters.reserved_for, BTreeSet::from(["gpu".to_owned()]));
        waiters.add(&skills(&["linux"]), 1, "linux\nisolation.none");
        assert_eq!((waiters.all, waiters.able), (6, 1));
    }

    #[test]
    fn every_label_is_needed() {
        assert!(skills(&["linux", "gpu"]).meet("gpu\nisolation.none"));
        assert!(!skills(&["linux"]).meet("gpu\nlinux\nisolation.none"));
        assert!(skills(&[]).meet("isolation.none"));
    }

    /// "A worker that writes `only:gpu` has the label gpu and takes tickets that need it, and no others."
    #[test]
    fn a_worker_may_be_for_a_label_only() {
        let gpu = skills(&["linux", "only:gpu"]);
        assert!(gpu.meet("gpu\nisolation.none") && gpu.meet("gpu\nlinux\nisolation.none"));
        assert!(!gpu.meet("isolation.none") && !gpu.meet("linux\nisolation.none"));
        assert!(!gpu.meet("arm\ngpu\nisolation.none"), "it must have the others, too");
        let either = skills(&["only:gpu", "only:fpga"]);
        assert!(either.meet("fpga\nisolation.none") && either.meet("gpu\nisolation.none"));
        // As other mounts are told of it.
        assert_eq!(gpu.text(), "linux only:gpu");
        assert!(!skills(&gpu.text().split(' ').collect::<Vec<_>>()).meet("linux\nisolation.none"));
        assert!(Skills::is_word("gpu") && Skills::is_word("only:gpu"));
        assert!(!Skills::is_word("only:") && !Skills::is_word("gpu:only") && !Skills::is_word("only:only:a"));
    }

    #[test]
    fn who_names_isolations_takes_only_these() {
        let confined = skills(&["linux", "isolation.lxc", "isolation.vm"]);
        assert!(confined.meet("linux\nisolation.vm"));
        assert!(!confined.meet("isolation.none"));
        assert!(!confined.meet("isolation.namespace"));
        assert!(skills(&["linux"]).meet("isolation.vm"), "who names none may know of it");
    }
}
