//! The entry of a build, with each of its members as long as it may be.

use distcifs_settings::source::{SENDER_BYTES_MAX, SENDERS_MAX};

use super::*;
use crate::repository::model::deed::{Did, Person, and};
use crate::repository::model::hold::Dismissal;
use crate::repository::model::plan::PlanEntry;
use crate::repository::model::unknown::Unknown;
use crate::storage::coordination::ENTRY_BYTES_MAX;

/// A digest, as it is written.
const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// An entry as its trigger makes it, whose texts are all as long as they may be, of characters that JSON writes as
/// two.
fn longest(name: &str) -> Live {
    let said = "\"".repeat(256);
    let source = Source {
        event: distcifs_settings::source::Event::PullRequest,
        name: said.clone(),
        before: String::new(),
        commit: DIGEST.into(),
        base: said,
        untrusted: true,
        senders: vec!["s".repeat(SENDER_BYTES_MAX); SENDERS_MAX],
    };
    let mut by = Vec::new();
    for did in [Did::Triggered, Did::Aborted, Did::Retried, Did::Kept, Did::Unkept].repeat(4) {
        let name = name.to_owned();
        by = and(&by, did, Person { uid: u32::MAX, name });
    }
    Live {
        config: ConfigEntry {
            digest: DIGEST.into(),
            size: u64::MAX,
        },
        plan: Some(PlanEntry {
            digest: DIGEST.into(),
            size: u64::MAX,
            tasks: usize::MAX,
        }),
        params: None,
        params_digest: None,
        run: u32::MAX,
        abort: false,
        insist: false,
        keep: false,
        triggered: u64::MAX,
        uid: u32::MAX,
        owner: Some(u32::MAX),
        by,
        cause: Some("\"".repeat(512)),
        source,
        given: "f".repeat(256),
        held: false,
        approved: Some(Approval {
            who: Person {
                uid: u32::MAX,
                name: name.to_owned(),
            },
            commit: DIGEST.into(),
            at: u64::MAX,
        }),
        ended: None,
        before: None,
        superseded: Some(u64::MAX),
        priority: i8::MIN,
        nonce: DIGEST[..32].into(),
        unknown: Unknown::default(),
    }
}

/// "The parameters of a build stand in its entry where there is room": whatever is done to it later, it stays within
/// what the coordinator keeps of one entry.
#[test]
fn an_entry_fits_whatever_is_done_to_its_build() {
    for name in ["\\".repeat(32), "n".repeat(32), String::new()] {
        let done = longest(&name);
        let begun = Live {
            by: done.by[..1].to_vec(),
            approved: None,
            plan: None,
            superseded: None,
            ..done.clone()
        };
        for params in 0..3000 {
            let room = begun.has_room_for(params);
            let more = if room { params } else { DIGEST.len() };
            let ended = Live {
                approved: None,
                plan: None,
                superseded: None,
                held: true,
                ended: Some(Ended {
                    cause: Dismissal::Superseded(u64::MAX),
                    at: u64::MAX,
                }),
                ..done.clone()
            };
            let bytes = to_json(&done).len().max(to_json(&ended).len()) + more + r#""params_digest":"","#.len();
            assert!(
                bytes <= ENTRY_BYTES_MAX,
                "{name}: {bytes} bytes with {params} of parameters"
            );
        }
        let short = Live {
            cause: None,
            source: Source::default(),
            ..begun
        };
        assert!(short.has_room_for(1400), "what was short stands in the entry as before");
    }
}
