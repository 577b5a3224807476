//! People: who did what to a build, by user id and by the name that it has on this node.

use std::time::Duration;

use nix::unistd::{Uid, User};
use serde::{Deserialize, Serialize};

use super::Repository;
use super::lookups::Lookups;

/// Longest wait for the node to tell a name: it may ask a directory that is away. Nobody is refused
/// for want of a name.
const NAME_WAIT: Duration = Duration::from_secs(1);

/// Longest name kept, bytes: what useradd takes. Deeds stand in entries of 4 KiB.
const NAME_BYTES_MAX: usize = 32;

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
    /// Had pruning leave it.
    Kept,
    /// Let pruning take it.
    Unkept,
}

impl Did {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Did::Triggered => "triggered",
            Did::Aborted => "aborted",
            Did::Retried => "retried",
            Did::Kept => "kept",
            Did::Unkept => "unkept",
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

/// These deeds and one more, within bounds.
pub(crate) fn and(deeds: &[Deed], did: Did, who: Person) -> Vec<Deed> {
    let mut deeds = deeds.to_vec();
    if deeds.len() >= DEEDS_MAX {
        deeds.remove(1);
    }
    deeds.push(Deed { did, who });
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

/// Names that were asked for lately.
pub(crate) type People = Lookups<String>;

impl Repository {
    /// The user with this id, as this node knows it.
    pub(crate) async fn person(&self, uid: u32) -> Person {
        let name = self.people.ask(uid, NAME_WAIT, name_of).await.unwrap_or_else(|| {
            tracing::warn!(
                uid,
                "this node does not tell the user's name in time: the build shows none"
            );
            String::new()
        });
        Person { uid, name }
    }
}

/// The name of a user as one word; empty if it has none.
fn name_of(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(String::new, |user| one_word(&user.name))
}

/// A name without what would make a second word or line of it, within bounds.
fn one_word(name: &str) -> String {
    let odd = |c: char| c.is_whitespace() || c.is_control();
    super::claims::cut(&name.replace(odd, "_"), NAME_BYTES_MAX).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_word() {
        assert_eq!(one_word("DOMAIN\\a b\n"), "DOMAIN\\a_b_");
        assert_eq!(one_word(&"ä".repeat(40)).len(), NAME_BYTES_MAX);
        let nobody = Person {
            uid: 4_000_000,
            name: name_of(4_000_000),
        };
        assert_eq!(nobody.to_string(), "4000000 -");
        assert_eq!(name_of(0), "root");
    }

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
