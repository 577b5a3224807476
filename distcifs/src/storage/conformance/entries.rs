//! Entries: versions, whole commits, owners, order, bounds.

use bytes::Bytes;

use super::{join_all, unique};
use crate::storage::coordination::{COMMIT_OPS_MAX, ENTRY_BYTES_MAX};
use crate::storage::{Commit, Coordination, Error, Op, Session};

/// Makes an entry.
pub(super) fn create(path: &str, data: &str) -> Op {
    let data = Bytes::copy_from_slice(data.as_bytes());
    Op::Create {
        path: path.to_owned(),
        data,
        ephemeral: false,
    }
}

pub(super) fn ephemeral(path: &str) -> Op {
    Op::Create {
        path: path.to_owned(),
        data: Bytes::new(),
        ephemeral: true,
    }
}

pub(super) fn set(path: &str, data: &str, version: Option<u32>) -> Op {
    let data = Bytes::copy_from_slice(data.as_bytes());
    Op::Set {
        path: path.to_owned(),
        data,
        version,
    }
}

pub(super) fn delete(path: &str, version: Option<u32>) -> Op {
    Op::Delete {
        path: path.to_owned(),
        version,
    }
}

pub(super) fn check(path: &str, version: u32) -> Op {
    Op::Check {
        path: path.to_owned(),
        version: Some(version),
    }
}

/// Commits what must succeed.
pub(super) async fn done(store: &dyn Coordination, ops: Vec<Op>) {
    let shown = format!("{ops:?}");
    assert_eq!(store.commit(ops).await.unwrap(), Commit::Done, "{shown}");
}

/// Commits what must meet something else at operation `index`.
pub(super) async fn mismatch(store: &dyn Coordination, index: usize, ops: Vec<Op>) {
    let shown = format!("{ops:?}");
    assert_eq!(store.commit(ops).await.unwrap(), Commit::Mismatch { index }, "{shown}");
}

/// An entry of this test's own, below the root.
pub(super) async fn home(store: &dyn Coordination) -> String {
    let path = format!("/conformance-{}", unique());
    done(store, vec![create(&path, "")]).await;
    path
}

/// What the entry holds and its version; `None` if there is none.
async fn look(store: &dyn Coordination, path: &str) -> Option<(String, u32)> {
    let entry = store.get(path).await.unwrap()?;
    Some((String::from_utf8(entry.data.to_vec()).unwrap(), entry.version))
}

/// An entry is what was written, and gone when deleted; the root always exists.
pub async fn makes_and_reads_entries(store: &dyn Coordination) {
    let home = home(store).await;
    let path = format!("{home}/entry");
    assert!(store.get("/").await.unwrap().is_some());
    assert_eq!(store.get(&path).await.unwrap(), None);
    done(store, vec![create(&path, "first")]).await;
    let entry = store.get(&path).await.unwrap().unwrap();
    assert_eq!(
        (&entry.data[..], entry.version, entry.ephemeral),
        (&b"first"[..], 0, false)
    );
    done(store, vec![set(&path, "second", None)]).await;
    assert_eq!(look(store, &path).await, Some(("second".to_owned(), 1)));
    let again = store.get(&path).await.unwrap().unwrap();
    assert_eq!(again.created, entry.created, "setting is not making");
    // Many at once are what each is by itself, more of them than fit into one request as well.
    let paths: Vec<String> = (0..200).map(|i| format!("{home}/n{i}")).collect();
    assert_eq!(store.get_all(paths).await.unwrap(), vec![None; 200]);
    let mixed = vec![path.clone(), format!("{home}/none"), path.clone()];
    assert_eq!(
        store.get_all(mixed).await.unwrap(),
        [Some(again.clone()), None, Some(again)]
    );
    assert_eq!(store.get_all(Vec::new()).await.unwrap(), []);
    done(store, vec![delete(&path, None)]).await;
    assert_eq!(store.get(&path).await.unwrap(), None);
    store.sync().await.unwrap();
    assert_eq!(store.get(&path).await.unwrap(), None);
}

/// Children are listed by name, those of children and of neighbours with a like name are not.
pub async fn lists_children(store: &dyn Coordination) {
    let home = home(store).await;
    let names = ["a", "a-b", "a.b", "a0", "a00", "ab", "é", "b c"];
    for name in names {
        let path = format!("{home}/{name}");
        done(store, vec![create(&path, ""), create(&format!("{path}/below"), "")]).await;
        done(store, vec![create(&format!("{path}/below/0"), "")]).await;
    }
    done(store, vec![create(&format!("{home}-not"), "")]).await;
    let mut found = store.children(&home).await.unwrap();
    found.sort();
    let mut wanted = names.map(str::to_owned);
    wanted.sort();
    assert_eq!(found, wanted);
    assert_eq!(store.children(&format!("{home}/a/below")).await.unwrap(), ["0"]);
    assert!(store.children(&format!("{home}/a/below/0")).await.unwrap().is_empty());
    assert!(store.children(&format!("{home}/none")).await.unwrap().is_empty());
    let root = store.children("/").await.unwrap();
    assert!(root.iter().any(|name| home == format!("/{name}")), "{root:?}");
}

/// Set, delete and check compare the version; create wants none, and a parent.
pub async fn guards_by_version(store: &dyn Coordination) {
    let home = home(store).await;
    let (path, other) = (format!("{home}/entry"), format!("{home}/other"));
    done(store, vec![create(&path, "")]).await;
    mismatch(store, 0, vec![create(&path, "")]).await;
    mismatch(store, 0, vec![create(&format!("{other}/child"), "")]).await;
    for wrong in [1, 7, u32::MAX >> 1] {
        mismatch(store, 0, vec![set(&path, "x", Some(wrong))]).await;
        mismatch(store, 0, vec![delete(&path, Some(wrong))]).await;
        mismatch(store, 0, vec![check(&path, wrong)]).await;
    }
    done(store, vec![check(&path, 0)]).await;
    let any = |path: &str| Op::Check {
        path: path.to_owned(),
        version: None,
    };
    done(store, vec![any(&path)]).await;
    mismatch(store, 0, vec![any(&format!("{path}-nowhere"))]).await;
    done(store, vec![set(&path, "1", Some(0))]).await;
    mismatch(store, 0, vec![set(&path, "again", Some(0))]).await;
    done(store, vec![set(&path, "2", Some(1)), check(&path, 2)]).await;
    for op in [set(&other, "", None), delete(&other, None), check(&other, 0)] {
        mismatch(store, 0, vec![op]).await;
    }
    mismatch(store, 0, vec![delete(&home, None)]).await;
    done(store, vec![delete(&path, Some(2))]).await;
    done(store, vec![create(&path, "")]).await;
    assert_eq!(
        look(store, &path).await,
        Some((String::new(), 0)),
        "made again, it begins anew"
    );
}

/// Of a commit that is refused nothing is seen; of one that is done, everything.
pub async fn commits_all_or_nothing(store: &dyn Coordination) {
    let home = home(store).await;
    let paths: Vec<String> = (0..4).map(|i| format!("{home}/{i}")).collect();
    done(store, vec![create(&paths[0], "0"), create(&paths[1], "1")]).await;
    let ops = vec![
        set(&paths[0], "changed", Some(0)),
        delete(&paths[1], Some(0)),
        create(&paths[2], "2"),
        ephemeral(&paths[3]),
        check(&paths[0], 7),
    ];
    mismatch(store, 4, ops.clone()).await;
    assert_eq!(look(store, &paths[0]).await, Some(("0".to_owned(), 0)));
    assert_eq!(look(store, &paths[1]).await, Some(("1".to_owned(), 0)));
    assert_eq!(store.children(&home).await.unwrap().len(), 2);
    done(store, ops[..4].to_vec()).await;
    assert_eq!(look(store, &paths[0]).await, Some(("changed".to_owned(), 1)));
    assert_eq!(look(store, &paths[1]).await, None);
    assert_eq!(store.children(&home).await.unwrap().len(), 3);
    done(store, vec![delete(&paths[3], None)]).await;
}

/// Each operation meets what those before it in the same commit have left.
pub async fn sees_its_own_operations_in_order(store: &dyn Coordination) {
    let home = home(store).await;
    let (path, below) = (format!("{home}/a"), format!("{home}/a/b"));
    let ops = vec![
        create(&path, ""),
        create(&below, ""),
        set(&path, "1", Some(0)),
        check(&path, 1),
        delete(&below, Some(0)),
        set(&path, "2", Some(1)),
    ];
    done(store, ops).await;
    assert_eq!(look(store, &path).await, Some(("2".to_owned(), 2)));
    mismatch(store, 1, vec![delete(&path, None), set(&path, "3", None)]).await;
    done(store, vec![delete(&path, None), create(&path, "new")]).await;
    assert_eq!(look(store, &path).await, Some(("new".to_owned(), 0)));
}

/// The index is that of the first operation refused, though later ones would be too.
pub async fn tells_the_first_mismatch(store: &dyn Coordination) {
    let home = home(store).await;
    let path = format!("{home}/a");
    let ops = vec![check(&home, 0), create(&path, ""), check(&home, 9), create(&path, "")];
    mismatch(store, 2, ops).await;
    mismatch(store, 0, vec![check(&path, 0), create(&home, "")]).await;
    done(store, Vec::new()).await;
}

/// An ephemeral entry is one like others to its own mount, but has no children.
pub async fn keeps_ephemeral_entries_childless(store: &dyn Coordination) {
    let home = home(store).await;
    let path = format!("{home}/mine");
    done(store, vec![ephemeral(&path)]).await;
    let entry = store.get(&path).await.unwrap().unwrap();
    assert!(entry.ephemeral);
    mismatch(store, 0, vec![create(&format!("{path}/child"), "")]).await;
    mismatch(store, 0, vec![ephemeral(&format!("{path}/child"))]).await;
    mismatch(store, 0, vec![ephemeral(&path)]).await;
    done(store, vec![set(&path, "1", Some(0))]).await;
    let set = store.get(&path).await.unwrap().unwrap();
    assert!(set.ephemeral && set.version == 1);
    mismatch(store, 0, vec![delete(&home, None)]).await;
    done(store, vec![delete(&path, Some(1)), delete(&home, None)]).await;
}

/// What is made later has a larger `created`, whatever its kind.
pub async fn orders_creations(store: &dyn Coordination) {
    let home = home(store).await;
    let mut last = 0;
    for i in 0..20 {
        let path = format!("{home}/{i}");
        let op = if i % 2 == 0 {
            create(&path, "")
        } else {
            ephemeral(&path)
        };
        done(store, vec![op]).await;
        let created = store.get(&path).await.unwrap().unwrap().created;
        assert!(created > last, "{created} after {last}");
        last = created;
    }
}

/// Of many that set the same version at once, exactly one succeeds, each time.
pub async fn lets_one_racer_win(store: &dyn Coordination) {
    const RACERS: usize = 32;
    let home = home(store).await;
    for round in 0..8_u32 {
        let racers = (0..RACERS).map(|i| {
            let claim = ephemeral(&format!("{home}/round-{round}"));
            store.commit(vec![set(&home, &i.to_string(), Some(round)), claim])
        });
        let ends = join_all(racers.collect()).await;
        let won: Vec<usize> = (0..RACERS).filter(|i| ends[*i] == Ok(Commit::Done)).collect();
        assert_eq!(won.len(), 1, "{ends:?}");
        let lost = ends
            .iter()
            .filter(|end| **end == Ok(Commit::Mismatch { index: 0 }))
            .count();
        assert_eq!(lost, RACERS - 1, "{ends:?}");
        assert_eq!(look(store, &home).await, Some((won[0].to_string(), round + 1)));
    }
}

/// What is too large is refused, and what is just small enough is not.
pub async fn refuses_entries_out_of_bounds(store: &dyn Coordination) {
    let home = home(store).await;
    let path = format!("{home}/a");
    let large = "x".repeat(ENTRY_BYTES_MAX + 1);
    let refused = |end: Result<Commit, Error>| matches!(end, Err(Error::Refused { .. }));
    assert!(refused(store.commit(vec![create(&path, &large)]).await));
    done(store, vec![create(&path, &large[1..])]).await;
    assert!(refused(store.commit(vec![set(&path, &large, None)]).await));
    assert_eq!(look(store, &path).await.map(|(_, version)| version), Some(0));
    let many = vec![check(&home, 0); COMMIT_OPS_MAX + 1];
    assert!(refused(store.commit(many).await));
    done(store, vec![check(&home, 0); 100]).await;
}

/// A path that is not absolute and plain is refused, by reads as well.
pub async fn refuses_malformed_paths(store: &dyn Coordination) {
    let long = format!("/{}", "x".repeat(1 << 16));
    let odd = [
        "", "a", "a/b", "//", "/a/", "/a//b", "//a", "/a\0b", "/.", "/a/../b", "/\u{1}",
    ];
    for path in odd.into_iter().chain([long.as_str()]) {
        let refused = |error: Error| matches!(error, Error::Refused { .. });
        assert!(store.get(path).await.is_err_and(refused), "{path:?}");
        assert!(store.children(path).await.is_err_and(refused), "{path:?}");
        assert!(store.watch(path).await.is_err_and(refused), "{path:?}");
        for op in [
            create(path, ""),
            set(path, "", None),
            delete(path, None),
            check(path, 0),
        ] {
            assert!(store.commit(vec![op]).await.is_err_and(refused), "{path:?}");
        }
    }
}

/// The session is alive while the store is reached.
pub async fn has_a_live_session(store: &dyn Coordination) {
    let session = *store.session().borrow();
    assert!(matches!(session, Session::Live { .. }), "{session:?}");
    assert_eq!(*store.session().borrow(), session);
}
