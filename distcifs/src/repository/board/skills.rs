//! What a worker can do, held against what a ticket needs.

use std::collections::HashSet;

/// Begins the label that a ticket of an isolation needs, and that a worker names who can give it.
const ISOLATION: &str = "isolation.";

/// The label for an isolation.
pub fn isolation_label(isolation: &str) -> String {
    format!("{ISOLATION}{isolation}")
}

/// A worker's labels. One that names no isolation takes tickets of any, as it may not know of them;
/// one that names some takes tickets of these only.
#[derive(Debug, Default)]
pub struct Skills {
    labels: HashSet<String>,
    any_isolation: bool,
}

impl Skills {
    /// Of a worker with these labels.
    pub fn new<'a>(labels: impl Iterator<Item = &'a str>) -> Self {
        let labels: HashSet<String> = labels.map(str::to_owned).collect();
        Skills {
            any_isolation: !labels.iter().any(|label| label.starts_with(ISOLATION)),
            labels,
        }
    }

    /// The labels in order, with a blank between.
    pub fn text(&self) -> String {
        let mut labels: Vec<&str> = self.labels.iter().map(String::as_str).collect();
        labels.sort_unstable();
        labels.join(" ")
    }

    /// Whether it has all that a ticket needs, one label a line.
    pub fn meet(&self, needs: &str) -> bool {
        needs
            .lines()
            .all(|need| self.labels.contains(need) || (self.any_isolation && need.starts_with(ISOLATION)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skills(labels: &[&str]) -> Skills {
        Skills::new(labels.iter().copied())
    }

    #[test]
    fn every_label_is_needed() {
        assert!(skills(&["linux", "gpu"]).meet("gpu\nisolation.none"));
        assert!(!skills(&["linux"]).meet("gpu\nlinux\nisolation.none"));
        assert!(skills(&[]).meet("isolation.none"));
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
