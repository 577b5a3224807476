//! People: who did what to a build.

use serde::{Deserialize, Serialize};

use crate::repository::model::json::to_json;

/// Deeds kept of a build: the first, which is the trigger, and the last ones.
const DEEDS_MAX: usize = 12;

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// User id.
    pub uid: u32,
    /// Name on the node where it was done, at that time; empty if it had none.
    pub name: String,
}

impl std::fmt::Display for Person {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = if self.name.is_empty() { "-" } else { &self.name };
        write!(f, "{} {name}", self.uid)
    }
}

/// What somebody can do to a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Did {
    /// Made it.
    Triggered,
    /// Had it stopped.
    Aborted,
    /// Had it run again.
    Retried,
    /// Triggered the newer build that made an end of it.
    Superseded,
    /// Had pruning leave it.
    Kept,
    /// Let pruning take it.
    Unkept,
    /// Let it run that was held.
    Approved,
}

impl Did {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Did::Triggered => "triggered",
            Did::Aborted => "aborted",
            Did::Retried => "retried",
            Did::Superseded => "superseded",
            Did::Kept => "kept",
            Did::Unkept => "unkept",
            Did::Approved => "approved",
        }
    }
}

/// What somebody did to a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// What.
    pub did: Did,
    /// Who.
    #[serde(flatten)]
    pub who: Person,
}

/// Bytes that deeds take in an entry: of names that JSON writes longer than they are, fewer deeds are kept.
const DEEDS_BYTES_MAX: usize = 640;

/// These deeds and one more, within bounds.
pub(crate) fn and(deeds: &[Deed], did: Did, who: Person) -> Vec<Deed> {
    let mut deeds = deeds.to_vec();
    deeds.push(Deed { did, who });
    while deeds.len() > 2 && (deeds.len() > DEEDS_MAX || to_json(&deeds).len() > DEEDS_BYTES_MAX) {
        deeds.remove(1);
    }
    deeds
}

/// These deeds; where none are kept, as earlier versions did, the trigger by this user.
pub(crate) fn or_trigger(deeds: &[Deed], uid: u32) -> Vec<Deed> {
    if !deeds.is_empty() {
        return deeds.to_vec();
    }
    let name = String::new();
    and(&[], Did::Triggered, Person { uid, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trigger_and_the_last_deeds_are_kept() {
        let who = |uid| Person {
            uid,
            name: String::new(),
        };
        let mut deeds = and(&[], Did::Triggered, who(0));
        for uid in 1..100 {
            deeds = and(&deeds, Did::Kept, who(uid));
        }
        assert_eq!(deeds.len(), DEEDS_MAX);
        assert_eq!((deeds[0].did, deeds[0].who.uid), (Did::Triggered, 0));
        assert_eq!((deeds[1].who.uid, deeds[DEEDS_MAX - 1].who.uid), (89, 99));
        let json = serde_json::to_string(&deeds[0]).unwrap();
        assert_eq!(json, r#"{"did":"triggered","uid":0,"name":""}"#);
    }
}
