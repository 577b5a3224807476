//! Records: keys and values under one revision.

use bytes::Bytes;

use super::objects::list_all;
use super::{join_all, unique};
use crate::storage::contents::VALUE_BYTES_MAX;
use crate::storage::{Contents, Error, Object, Updated};

fn record() -> Object {
    Object::Record(format!("build.{}.1", unique()))
}

/// A change that sets a key.
fn put(key: &str, value: &str) -> (String, Option<Bytes>) {
    (key.to_owned(), Some(Bytes::copy_from_slice(value.as_bytes())))
}

/// All keys and values.
async fn all(store: &dyn Contents, object: &Object) -> Vec<(String, String)> {
    let page = store.query(object, "", "", usize::MAX).await.unwrap();
    let text = |value: Bytes| String::from_utf8(value.to_vec()).unwrap();
    page.entries
        .into_iter()
        .map(|(key, value)| (key, text(value)))
        .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// An update happens only at the revision that it names; every one counts by one.
pub async fn guards_records_by_revision(store: &dyn Contents) {
    let object = record();
    assert_eq!(store.query(&object, "", "", 10).await.unwrap().revision, 0);
    let early = store.update(&object, Some(1), vec![put("a", "x")]).await.unwrap();
    assert_eq!(early, Updated::Mismatch { revision: 0 });
    assert_eq!(store.query(&object, "", "", 10).await.unwrap().revision, 0);
    let made = store.update(&object, Some(0), vec![put("a", "1")]).await.unwrap();
    assert_eq!(made, Updated::Done { revision: 1 });
    let again = store.update(&object, Some(0), vec![put("a", "x")]).await.unwrap();
    assert_eq!(again, Updated::Mismatch { revision: 1 });
    let next = store.update(&object, Some(1), vec![put("a", "2")]).await.unwrap();
    assert_eq!(next, Updated::Done { revision: 2 });
    let any = store.update(&object, None, vec![put("b", "3")]).await.unwrap();
    assert_eq!(any, Updated::Done { revision: 3 });
    let nothing = store.update(&object, Some(3), Vec::new()).await.unwrap();
    assert_eq!(nothing, Updated::Done { revision: 4 });
    assert_eq!(store.query(&object, "", "", 10).await.unwrap().revision, 4);
    assert_eq!(all(store, &object).await, pairs(&[("a", "2"), ("b", "3")]));
}

/// The keys of one update change together, and records don't mix.
pub async fn changes_keys_together(store: &dyn Contents) {
    let (object, other) = (record(), record());
    let changes = vec![put("a", "1"), put("b", ""), put("c/é", "3")];
    store.update(&object, None, changes).await.unwrap();
    store.update(&other, None, vec![put("a", "other")]).await.unwrap();
    let changes = vec![("b".to_owned(), None), ("none".to_owned(), None), put("a", "2")];
    let refused = store.update(&object, Some(9), changes.clone()).await.unwrap();
    assert_eq!(refused, Updated::Mismatch { revision: 1 });
    assert_eq!(all(store, &object).await, pairs(&[("a", "1"), ("b", ""), ("c/é", "3")]));
    store.update(&object, Some(1), changes).await.unwrap();
    assert_eq!(all(store, &object).await, pairs(&[("a", "2"), ("c/é", "3")]));
    assert_eq!(all(store, &other).await, pairs(&[("a", "other")]));
}

/// Pages are in order, of keys that begin with the prefix, and short only at the end.
pub async fn pages_through_a_record(store: &dyn Contents) {
    let object = record();
    let keys: Vec<String> = (0..2500).map(|i| format!("k.{i:05}")).collect();
    let changes = keys.iter().map(|key| put(key, key)).chain([put("j", ""), put("l", "")]);
    store.update(&object, None, changes.collect()).await.unwrap();
    for limit in [1000, 1024, 2500, 5000] {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page = store.query(&object, "k.", &after, limit).await.unwrap();
            assert!(page.entries.len() <= limit && page.revision == 1);
            let last = page.entries.len() < limit;
            found.extend(page.entries.into_iter().map(|(key, _)| key));
            after = found.last().cloned().unwrap_or_default();
            if last {
                break;
            }
        }
        assert!(found == keys, "{} keys in pages of {limit}", found.len());
    }
    let query = async |prefix, after, limit| {
        let page = store.query(&object, prefix, after, limit).await.unwrap();
        page.entries.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(query("", "", 2).await, ["j", "k.00000"]);
    assert_eq!(query("", "k.02499", 9).await, ["l"]);
    assert_eq!(query("k.00001", "", 9).await, ["k.00001"]);
    assert!(query("k.", "l", 9).await.is_empty());
    assert_eq!(query("k.", "a", 1).await, ["k.00000"]);
    assert!(query("m", "", 9).await.is_empty());
    assert!(query("", "", 0).await.is_empty());
}

/// Of many that update the same revision at once, exactly one succeeds.
pub async fn lets_one_updater_win(store: &dyn Contents) {
    let object = record();
    for round in 0..8 {
        let racers =
            (0..16).map(|i| store.update(&object, Some(round), vec![put("a", &i.to_string()), put("round", "")]));
        let ends = join_all(racers.collect()).await;
        let won = ends
            .iter()
            .filter(|end| matches!(end, Ok(Updated::Done { .. })))
            .count();
        let lost = Ok(Updated::Mismatch { revision: round + 1 });
        assert_eq!(
            (won, ends.iter().filter(|end| **end == lost).count()),
            (1, 15),
            "{ends:?}"
        );
    }
}

/// Records are listed by kind; what is removed is gone with its keys and begins anew.
pub async fn lists_and_removes_records(store: &dyn Contents) {
    let kind = unique();
    let rest = ["", ".", ".1", ".2.x", ".~"];
    let objects = rest.map(|rest| Object::Record(format!("{kind}{rest}")));
    let others = ["x.1", "-x", "0", "-x.1"].map(|rest| Object::Record(format!("{kind}{rest}")));
    for object in objects.iter().chain(&others) {
        store
            .update(object, Some(0), vec![put("a", "1"), put("b", "2")])
            .await
            .unwrap();
    }
    assert_eq!(list_all(store, &kind).await, objects.iter().cloned().collect());
    for object in &objects[1..] {
        store.remove(object).await.unwrap();
        store.remove(object).await.unwrap();
        let page = store.query(object, "", "", 10).await.unwrap();
        assert_eq!((page.revision, page.entries.len()), (0, 0));
    }
    assert_eq!(list_all(store, &kind).await, objects[..1].iter().cloned().collect());
    assert_eq!(all(store, &objects[0]).await.len(), 2, "its neighbours stay");
    let anew = store.update(&objects[1], Some(0), vec![put("c", "")]).await.unwrap();
    assert_eq!(anew, Updated::Done { revision: 1 });
    assert_eq!(all(store, &objects[1]).await, pairs(&[("c", "")]));
}

/// Odd keys and what is too large are refused, and change nothing.
pub async fn refuses_records_out_of_bounds(store: &dyn Contents) {
    let object = record();
    let long = "k".repeat(1 << 16);
    for key in ["", "a\0b", &long] {
        let update = store.update(&object, None, vec![put("a", ""), put(key, "")]).await;
        assert!(matches!(update, Err(Error::Refused { .. })), "{update:?}");
    }
    let large = vec![(String::from("a"), Some(vec![0; VALUE_BYTES_MAX + 1].into()))];
    let update = store.update(&object, None, large).await;
    assert!(matches!(update, Err(Error::Refused { .. })), "{update:?}");
    assert_eq!(store.query(&object, "", "", 1).await.unwrap().revision, 0);
}
