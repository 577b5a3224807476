//! Who is told what.

use super::*;
use crate::repository::config::JobConfig;
use distcifs_settings::notify::FACTS;
use serde_json::json;

fn notify(entries: Value) -> Vec<Notify> {
    let text = json!({"tasks": [], "notify": entries}).to_string();
    JobConfig::read(text.as_bytes(), None).unwrap().notify
}

fn source(text: Value) -> Source {
    serde_json::from_value(text).unwrap()
}

fn news(moment: Moment, source: &Source) -> News<'_> {
    News {
        of: NotifyRef {
            job: "hello".into(),
            uid: "u".into(),
            build: 7,
            run: 1,
        },
        owner: 1000,
        nonce: "0123456789abcdef0123",
        moment,
        source,
        cause: "push of somebody",
        why: "task 0 failed\nmore",
        failed: vec!["unit".into()],
        times: (5, if moment == Moment::Held { 0 } else { 9 }),
        at: 10,
    }
}

fn params(ticket: &Ticket) -> Value {
    let body: Value = serde_json::from_str(ticket.body.as_deref().unwrap()).unwrap();
    body["params"].clone()
}

/// "`changed`: it ended otherwise than the trusted build before of the same ref; `fixed`: it succeeded, and that had
/// not." Every pair of them.
#[test]
fn what_happened_hangs_on_the_build_before() {
    use On::{Aborted, Changed, Error, Failure, Fixed, Success};
    assert_eq!(Moment::Held.words(), [On::Held]);
    let all = [Verdict::Success, Verdict::Failure, Verdict::Error];
    let table: [(Verdict, Option<Verdict>, &[On]); 7] = [
        (all[0], None, &[Success]),
        (all[1], None, &[Failure, Changed]),
        (all[2], None, &[Error, Changed]),
        (all[0], Some(all[1]), &[Success, Changed, Fixed]),
        (all[0], Some(all[2]), &[Success, Changed, Fixed]),
        (all[1], Some(all[0]), &[Failure, Changed]),
        (all[1], Some(all[2]), &[Failure, Changed]),
    ];
    for (state, before, words) in table {
        assert_eq!(Moment::Ended(state, before).words(), words, "{state:?} {before:?}");
    }
    for state in all {
        assert_eq!(Moment::Ended(state, Some(state)).words().len(), 1);
        assert_eq!(Moment::Ended(Verdict::Aborted, Some(state)).words(), [Aborted]);
    }
    assert_eq!(Moment::Ended(Verdict::Aborted, None).words(), [Aborted]);
}

/// "One ticket for each entry that it concerns", with a label that says which worker, and what is told as values.
#[test]
fn each_entry_that_is_concerned_gets_one_ticket() {
    let entries = notify(json!([
        {"on": ["failure"], "type": "mail", "to": "a@example.org"},
        {"on": ["fixed", "held"], "type": "mail", "to": "b@example.org"},
        {"on": ["*"], "type": "webhook", "url": "chat"},
    ]));
    let source = source(json!({"ref": "refs/heads/main", "event": "push"}));
    let tickets = news(Moment::Ended(Verdict::Failure, None), &source).tickets(&entries);
    let ids: Vec<&str> = tickets.iter().map(|(key, _)| key.id.as_str()).collect();
    assert_eq!(ids, ["hello.7.0-0123456789abcdef", "hello.7.2-0123456789abcdef"]);
    let (key, ticket) = &tickets[0];
    assert!(!key.id.is_build_shaped() && key.queue.as_str() == NOTIFY_QUEUE);
    assert_eq!(
        (&ticket.labels[..], ticket.owner, ticket.uid),
        (&["mail".to_owned()][..], Some(1000), 1000)
    );
    let told = params(ticket);
    assert_eq!(
        told,
        json!({
            "to": ["a@example.org"], "job": "hello", "build": 7, "run": 1, "state": "failure",
            "events": ["failure", "changed"], "triggered": 5, "finished": 9, "event": "push",
            "ref": "refs/heads/main", "commit": "", "base": "", "trust": "trusted", "why": "task 0 failed",
            "cause": "push of somebody", "failed": ["unit"],
        })
    );
    let names = told.as_object().unwrap().keys();
    assert!(
        names
            .filter(|name| *name != "to")
            .all(|name| FACTS.contains(&name.as_str()))
    );
    assert_eq!(
        news(Moment::Ended(Verdict::Success, None), &source)
            .tickets(&entries)
            .len(),
        1
    );
    assert!(compares(&entries) && !compares(&notify(json!([{"on": ["held"], "type": "irc"}]))));
}

/// "Of a stranger's build the end is told only where the entry says so, and nothing that he wrote but its ref, commit and
/// logins": no reason, cause or name of a task.
#[test]
fn a_stranger_says_nothing() {
    let entries = notify(json!([
        {"on": ["*"], "type": "mail", "to": "a@example.org"},
        {"on": ["*"], "type": "mail", "to": "b@example.org", "untrusted": true},
    ]));
    let source = source(json!({"ref": "refs/pull/1/head", "untrusted": true, "senders": ["octocat"]}));
    let held = news(Moment::Held, &source).tickets(&entries);
    assert_eq!(held.len(), 2, "somebody has to approve it");
    let ended = news(Moment::Ended(Verdict::Failure, None), &source).tickets(&entries);
    assert_eq!(ended.len(), 1);
    // Nobody may have told that it is held when it ends: both stand in the queue then.
    assert!(held.iter().all(|(key, _)| *key != ended[0].0));
    let told = params(&ended[0].1);
    assert_eq!(
        (&told["to"], &told["trust"], &told["senders"]),
        (&json!(["b@example.org"]), &json!("untrusted"), &json!(["octocat"]))
    );
    for secret in ["why", "cause", "failed"] {
        assert!(told.get(secret).is_none(), "{secret}");
    }
}

/// "A ticket that could not be made would keep its build from being recorded": whatever is to be said fits, with what
/// can be missed least, and what steers a terminal or can't be seen is escaped.
#[test]
fn whatever_is_told_fits_an_entry() {
    let long = "\"\\\u{1b}\u{202e}".repeat(500);
    let entries = notify(json!([
        {"on": ["*"], "type": "irc", "channel": "\"".repeat(280)},
        {"on": ["*"], "type": "webhook", "url": format!("https://h/{}", "a".repeat(990))},
    ]));
    let source = Source {
        name: "refs/heads/".to_owned() + &"\"".repeat(245),
        base: "refs/heads/".to_owned() + &"\"".repeat(245),
        commit: "a".repeat(64),
        senders: vec!["s".repeat(80); 3],
        ..Source::default()
    };
    let news = News {
        of: NotifyRef {
            job: "j".repeat(128),
            uid: "u".repeat(32),
            build: u64::MAX,
            run: u32::MAX,
        },
        cause: &long,
        why: &long,
        failed: vec!["f".repeat(128); 100],
        times: (u64::MAX, u64::MAX),
        ..news(Moment::Ended(Verdict::Error, Some(Verdict::Failure)), &source)
    };
    let tickets = news.tickets(&entries);
    assert_eq!(tickets.len(), 2);
    for (_, ticket) in &tickets {
        assert!(to_json(ticket).len() <= ENTRY_BYTES_MAX);
        let text = params(ticket).to_string();
        assert!(!text.contains(['\u{1b}', '\u{202e}']));
    }
}
