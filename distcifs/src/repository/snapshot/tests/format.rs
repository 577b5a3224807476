//! The encoding of listings.

use super::*;

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..20).prop_filter("a name of a file", |name| is_entry_name(name))
}

fn meta() -> impl Strategy<Value = Meta> {
    let xattr = (
        prop::collection::vec(1..=255u8, 0..9),
        prop::collection::vec(any::<u8>(), 0..9),
    );
    let xattrs = prop::collection::btree_map(xattr.0, xattr.1, 0..3);
    (
        0..0o10000u32,
        any::<u32>(),
        any::<u32>(),
        any::<i64>(),
        0..1_000_000_000u32,
        xattrs,
    )
        .prop_map(|(mode, uid, gid, seconds, nanoseconds, xattrs)| {
            let named = |(name, value): (Vec<u8>, Vec<u8>)| ([b"user.", &name[..]].concat().into(), value.into());
            Meta {
                mode,
                uid,
                gid,
                mtime: Time { seconds, nanoseconds },
                xattrs: xattrs.into_iter().map(named).collect(),
            }
        })
}

fn segment() -> impl Strategy<Value = Segment> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 1..40).prop_map(|bytes| Segment::Inline(bytes.into())),
        (1..1u64 << 50).prop_map(Segment::Hole),
        (any::<[u8; 32]>(), 1..4u32 << 20).prop_map(|(digest, length)| Segment::Data {
            digest: Digest::from_bytes(digest),
            length
        }),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        prop::collection::vec(segment(), 0..5).prop_map(|segments| Kind::file(segments.into())),
        any::<[u8; 32]>().prop_map(|digest| Kind::Folder(Digest::from_bytes(digest))),
        prop::collection::vec(1..=255u8, 1..50).prop_map(|target| Kind::Symlink(target.into())),
    ]
}

fn folder() -> impl Strategy<Value = Folder> {
    let link = prop::option::of((0..9u32, any::<u32>()));
    let entries = prop::collection::btree_map(name(), (meta(), kind(), link), 0..8);
    (meta(), entries).prop_map(|(meta, entries)| {
        let mut folder = Folder {
            meta,
            groups: 9,
            entries: Vec::new(),
        };
        for (name, (meta, kind, link)) in entries {
            let link = link.filter(|_| !matches!(kind, Kind::Folder(_)));
            let link = link.map(|(group, count)| Link { group, count });
            folder.entries.push(Entry {
                name: name.into(),
                meta,
                kind,
                link,
            });
        }
        folder
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn listings_come_back(folder in folder()) {
        let objects = folder.encode().unwrap();
        prop_assert_eq!(objects.len(), 1);
        prop_assert_eq!(decode(&objects[0].1), Ok(Listing::Whole(folder)));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(form in 0..3u8, tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = [&[1, form], &tail[..]].concat();
        let _refused = decode(&tail).is_err();
        if let Ok(Listing::Whole(folder)) = decode(&bytes) {
            prop_assert_eq!(&folder.encode().unwrap()[0].1, &bytes);
        }
    }

    #[test]
    fn a_damaged_listing_never_panics(folder in folder(), at in any::<usize>(), byte in any::<u8>(), cut in any::<usize>()) {
        let mut bytes = folder.encode().unwrap()[0].1.to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(Listing::Whole(folder)) = decode(&bytes) {
            prop_assert_eq!(&folder.encode().unwrap()[0].1, &bytes);
        }
        bytes.truncate(cut % bytes.len());
        let shorter = decode(&bytes);
        if let Ok(Listing::Whole(folder)) = shorter {
            prop_assert_eq!(&folder.encode().unwrap()[0].1, &bytes);
        }
    }
}

fn file(name: &[u8]) -> Entry {
    Entry {
        name: name.into(),
        meta: Meta::default(),
        kind: Kind::file(Vec::new().into()),
        link: None,
    }
}

#[test]
fn hostile_listings_are_refused() {
    let link = Entry {
        link: Some(Link { group: 0, count: 2 }),
        ..file(b"a")
    };
    let empty_link = Entry {
        kind: Kind::Symlink(b""[..].into()),
        ..file(b"a")
    };
    let huge = Entry {
        kind: Kind::file(vec![Segment::Hole(1 << 62), Segment::Hole(1 << 62)].into()),
        ..file(b"a")
    };
    let nothing = Entry {
        kind: Kind::file(vec![Segment::Hole(0)].into()),
        ..file(b"a")
    };
    for entries in [
        vec![file(b"..")],
        vec![file(b".")],
        vec![file(b"a/b")],
        vec![file(b"a\0")],
        vec![file(b"")],
        vec![file(&[b'a'; 256])],
        vec![file(b"a"), file(b"a")],
        vec![file(b"b"), file(b"a")],
        vec![link],
        vec![empty_link],
        vec![huge],
        vec![nothing],
    ] {
        let objects = Folder {
            entries,
            ..Folder::empty()
        }
        .encode()
        .unwrap();
        assert!(decode(&objects[0].1).is_err(), "{objects:?}");
    }
    assert!(decode(&[2, 0]).unwrap_err().to_string().contains("another version"));
    // A count of pieces that the input does not hold is no reason to make room for them.
    assert!(decode(b"\x01\x02\x01a\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").is_err());
}

#[test]
fn the_empty_snapshot_has_its_digest_for_ever() {
    let objects = Folder::empty().encode().unwrap();
    assert_eq!(objects[0].1[..], [1, 0, 0xed, 0x03, 0, 0, 0, 0, 0, 0]);
    assert_eq!(objects[0].0, Snapshot::empty());
}

#[test]
fn a_listing_over_its_bound_is_refused() {
    let chunk = Segment::Data {
        digest: Snapshot::empty(),
        length: 1,
    };
    let entry = Entry {
        kind: Kind::file(vec![chunk; 130_000].into()),
        ..file(b"a")
    };
    let refused = Folder {
        entries: vec![entry],
        ..Folder::empty()
    }
    .encode()
    .unwrap_err();
    assert!(refused.to_string().contains("too many pieces"));
}
