//! Consoles: appended to under a guard, sealed for good.

use bytes::Bytes;

use super::objects::list_all;
use super::{join_all, unique};
use crate::storage::contents::{SEALED, VALUE_BYTES_MAX, standing};
use crate::storage::{Appended, Contents, Error, Object};

fn console() -> Object {
    Object::Console(format!("console.{}.1.2.3.0", unique()))
}

/// Appends what must succeed, and returns the next sequence number.
async fn append(store: &dyn Contents, object: &Object, sequence: u64, text: &str) -> u64 {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    match store.append(object, sequence, bytes).await.unwrap() {
        Appended::Done { sequence: next, .. } => next,
        other => panic!("append to {object} at {sequence}: {other:?}"),
    }
}

/// What the console holds.
async fn text(store: &dyn Contents, object: &Object) -> Option<String> {
    let bytes = store.read(object, 0, VALUE_BYTES_MAX).await.unwrap()?;
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

/// Only who knows where the console stands may append; the others are told.
pub async fn appends_under_the_guard(store: &dyn Contents) {
    let object = console();
    assert_eq!(text(store, &object).await, None);
    let none = store.append(&object, 5, Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(none, Appended::Mismatch { length: 0, sequence: 0 });
    assert_eq!(text(store, &object).await, None, "a refused append makes nothing");
    let first = append(store, &object, 0, "one\n").await;
    assert_ne!(first, 0);
    let again = store.append(&object, 0, Bytes::from_static(b"one\n")).await.unwrap();
    assert_eq!(
        again,
        Appended::Mismatch {
            length: 4,
            sequence: first
        }
    );
    let second = append(store, &object, first, "two\n").await;
    assert_ne!(second, first);
    let stale = store
        .append(&object, first, Bytes::from_static(b"two\n"))
        .await
        .unwrap();
    assert_eq!(
        stale,
        Appended::Mismatch {
            length: 8,
            sequence: second
        }
    );
    let third = store
        .append(&object, second, Bytes::from_static(b"three\n"))
        .await
        .unwrap();
    assert!(matches!(third, Appended::Done { length: 14, .. }), "{third:?}");
    assert_eq!(store.size(&object).await, Ok(Some(14)));
    assert_eq!(text(store, &object).await.as_deref(), Some("one\ntwo\nthree\n"));
    assert_eq!(store.read(&object, 4, 3).await.unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(store.read(&object, 100, 3).await.unwrap().as_deref(), Some(&b""[..]));
    store.sync(vec![object]).await.unwrap();
}

/// Where a console stands can be asked, and asking changes nothing.
pub async fn tells_where_consoles_stand(store: &dyn Contents) {
    let object = console();
    assert_eq!(standing(store, &object).await.unwrap(), (0, 0));
    assert_eq!(text(store, &object).await, None, "asking makes nothing");
    let next = append(store, &object, 0, "one\n").await;
    assert_eq!(standing(store, &object).await.unwrap(), (4, next));
    store.append(&object, SEALED, Bytes::new()).await.unwrap();
    assert_eq!(standing(store, &object).await.unwrap(), (4, SEALED));
    assert_eq!(text(store, &object).await.as_deref(), Some("one\n"));
}

/// A sealed console takes nothing more from anybody, and is read as before.
pub async fn seals_consoles(store: &dyn Contents) {
    let (object, absent) = (console(), console());
    let next = append(store, &object, 0, "line\n").await;
    let sealed = store.append(&object, SEALED, Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(
        sealed,
        Appended::Mismatch {
            length: 5,
            sequence: next
        },
        "bytes don't seal"
    );
    for _ in 0..2 {
        let sealed = store.append(&object, SEALED, Bytes::new()).await.unwrap();
        assert_eq!(
            sealed,
            Appended::Done {
                length: 5,
                sequence: SEALED
            }
        );
    }
    for sequence in [next, 0, 1, SEALED] {
        let late = store
            .append(&object, sequence, Bytes::from_static(b"late"))
            .await
            .unwrap();
        assert_eq!(
            late,
            Appended::Mismatch {
                length: 5,
                sequence: SEALED
            }
        );
    }
    assert_eq!(text(store, &object).await.as_deref(), Some("line\n"));
    let sealed = store.append(&absent, SEALED, Bytes::new()).await.unwrap();
    assert_eq!(
        sealed,
        Appended::Done {
            length: 0,
            sequence: SEALED
        },
        "before it was made"
    );
    let late = store.append(&absent, 0, Bytes::from_static(b"late")).await.unwrap();
    assert_eq!(
        late,
        Appended::Mismatch {
            length: 0,
            sequence: SEALED
        }
    );
}

/// Of many that append at the same place, exactly one succeeds, each time.
pub async fn lets_one_appender_win(store: &dyn Contents) {
    let object = console();
    let mut sequence = 0;
    for round in 1..=8 {
        let racers = (0..16).map(|i| store.append(&object, sequence, format!("{i:04}").into()));
        let ends = join_all(racers.collect()).await;
        let mut won = ends.iter().filter_map(|end| match end {
            Ok(Appended::Done { length, sequence }) => Some((*length, *sequence)),
            Ok(Appended::Mismatch { .. }) => None,
            Err(error) => panic!("{error}"),
        });
        let (length, next) = won.next().expect("one has won");
        assert_eq!((length, won.next()), (4 * round, None));
        sequence = next;
    }
}

/// Consoles are listed once, and gone when removed, their sealing with them.
pub async fn lists_and_removes_consoles(store: &dyn Contents) {
    let uid = unique();
    let rest = ["", ".", ".1", ".1.control.1.0", "-b.1", "0.1", ".~", "..", " x.1"];
    let objects = rest.map(|rest| Object::Console(format!("console.{uid}{rest}")));
    for object in &objects {
        append(store, object, 0, "x").await;
    }
    let listed = list_all(store, "console").await;
    for object in &objects {
        assert!(listed.contains(object), "{object}");
    }
    store.append(&objects[2], SEALED, Bytes::new()).await.unwrap();
    for object in &objects {
        store.remove(object).await.unwrap();
        store.remove(object).await.unwrap();
        assert_eq!(text(store, object).await, None);
    }
    let listed = list_all(store, "console").await;
    assert!(!listed.iter().any(|object| objects.contains(object)));
    append(store, &objects[2], 0, "anew").await;
    assert_eq!(text(store, &objects[2]).await.as_deref(), Some("anew"));
}

/// Names that could leave their place, or are another kind's, are refused by every call.
pub async fn refuses_odd_names(store: &dyn Contents) {
    let long = format!("console.{}", "x".repeat(200));
    let names = [
        "",
        "console.a/b",
        "console./../x",
        "console.\0",
        "console.\n",
        "console.é",
        &long,
    ];
    for name in names {
        for object in [Object::Console(name.to_owned()), Object::Record(name.to_owned())] {
            let refused = |error: Error| matches!(error, Error::Refused { .. });
            assert!(store.read(&object, 0, 1).await.is_err_and(refused), "{object:?}");
            assert!(store.size(&object).await.is_err_and(refused));
            assert!(store.append(&object, 0, Bytes::new()).await.is_err_and(refused));
            assert!(store.update(&object, None, Vec::new()).await.is_err_and(refused));
            assert!(store.query(&object, "", "", 1).await.is_err_and(refused));
            assert!(store.remove(&object).await.is_err_and(refused));
        }
    }
    let large = vec![0; VALUE_BYTES_MAX + 1];
    let append = store.append(&console(), 0, large.into()).await;
    assert!(matches!(append, Err(Error::Refused { .. })));
}
