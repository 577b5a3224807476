//! People: who did what to a build, by user id and by the name that it has on this node.

use std::time::Duration;

use nix::unistd::{Uid, User};

use super::lookups::Lookups;
use super::model::deed::Person;

/// Longest wait for the node to tell a name: it may ask a directory that is away. Nobody is refused
/// for want of a name.
const NAME_WAIT: Duration = Duration::from_secs(1);

/// Longest name kept, bytes: what useradd takes. Deeds stand in entries of 4 KiB.
const NAME_BYTES_MAX: usize = 32;

/// The names of users, as this node tells them.
#[derive(Default)]
pub(crate) struct People(Lookups<String>);

impl People {
    /// The user with this id, as this node knows it.
    pub(crate) async fn person(&self, uid: u32) -> Person {
        let name = self.0.ask(uid, NAME_WAIT, name_of).await.unwrap_or_else(|| {
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
    super::model::ticket::cut(&name.replace(odd, "_"), NAME_BYTES_MAX).to_owned()
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
}
