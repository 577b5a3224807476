//! Random operations here and on a plain directory: the same errors, the same files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{Bench, errno, ino, me};
use crate::repository::{Error, Result};
use crate::tree::{Ino, Kind, SetAttr};

/// A node by the names that lead to it.
type Place = Vec<u8>;

#[derive(Debug, Clone)]
enum Op {
    Create(Place),
    Write(Place, u16, u8),
    Truncate(Place, u16),
    Mkdir(Place),
    Unlink(Place),
    Rmdir(Place),
    Rename(Place, Place),
    Link(Place, Place),
    Symlink(Place),
    Chmod(Place, u16),
}

fn op() -> impl Strategy<Value = Op> {
    let place = || prop::collection::vec(0..3u8, 1..4);
    prop_oneof![
        place().prop_map(Op::Create),
        (place(), 0..9000u16, any::<u8>()).prop_map(|(p, at, byte)| Op::Write(p, at, byte)),
        (place(), 0..9000u16).prop_map(|(p, size)| Op::Truncate(p, size)),
        place().prop_map(Op::Mkdir),
        place().prop_map(Op::Mkdir),
        place().prop_map(Op::Unlink),
        place().prop_map(Op::Rmdir),
        (place(), place()).prop_map(|(a, b)| Op::Rename(a, b)),
        (place(), place()).prop_map(|(a, b)| Op::Link(a, b)),
        place().prop_map(Op::Symlink),
        (place(), 0..0o1000u16).prop_map(|(p, mode)| Op::Chmod(p, mode | 0o700)),
    ]
}

fn name(number: u8) -> String {
    format!("n{number}")
}

/// Where a place is on the plain side.
fn plain_path(root: &Path, place: &[u8]) -> PathBuf {
    place
        .iter()
        .fold(root.to_owned(), |path, number| path.join(name(*number)))
}

/// Whether all folders on the way are real: a plain path would follow links, the tree never does.
fn is_reachable(root: &Path, place: &[u8]) -> bool {
    let is_link = |count| {
        let meta = fs::symlink_metadata(plain_path(root, &place[..count]));
        meta.is_ok_and(|meta| meta.is_symlink())
    };
    !(1..place.len()).any(is_link)
}

impl Bench {
    /// Forgets a node, if this kernel does.
    fn forget(&self, ino: Ino) {
        if !self.remembers {
            self.work.forget(ino, 1);
        }
    }

    /// Looks the folders of a place up, and forgets them again after `call`.
    fn within<T>(&self, place: &[u8], call: impl FnOnce(Ino, &OsStr) -> Result<T>) -> Result<T> {
        let (last, folders) = place.split_last().unwrap();
        let (mut at, mut met) = (self.root, Vec::new());
        let mut failed = None;
        for number in folders {
            match self.lookup(at, &name(*number)) {
                Ok(found) => {
                    at = ino(&found);
                    met.push(at);
                    if found.attributes.attr.kind == Kind::Directory {
                        continue;
                    }
                    failed = Some(Error::NotDirectory(name(*number)));
                }
                Err(error) => failed = Some(error),
            }
            break;
        }
        let result = match failed {
            Some(error) => Err(error),
            None => call(at, OsStr::new(&name(*last))),
        };
        met.into_iter().for_each(|ino| self.forget(ino));
        result
    }

    /// Looks a place up, and forgets it after `call`.
    fn with<T>(&self, place: &[u8], call: impl FnOnce(Ino) -> Result<T>) -> Result<T> {
        self.within(place, |parent, name| {
            let found = self.work.lookup(parent, name)?;
            let result = call(ino(&found));
            self.forget(ino(&found));
            result
        })
    }

    fn apply(&self, op: &Op) -> Result<()> {
        let work = &self.work;
        let forget = |found: crate::tree::Found| self.forget(ino(&found));
        match op {
            Op::Create(place) => self.within(place, |parent, name| {
                let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
                let (found, opened) = work.create(me(), parent, name, 0o640, flags)?;
                work.release(opened.handle);
                forget(found);
                Ok(())
            }),
            Op::Write(place, at, byte) => self.with(place, |ino| {
                let handle = work.open(ino, libc::O_WRONLY)?.handle;
                let written = work.write(handle, u64::from(*at), &[*byte; 100]).map(|_| ());
                work.release(handle);
                written
            }),
            Op::Truncate(place, size) => self.with(place, |ino| {
                let handle = work.open(ino, libc::O_WRONLY)?.handle;
                let set = SetAttr {
                    size: Some(u64::from(*size)),
                    ..SetAttr::default()
                };
                let done = work.setattr(ino, Some(handle), set).map(|_| ());
                work.release(handle);
                done
            }),
            Op::Mkdir(place) => self.within(place, |dir, name| work.mkdir(me(), dir, name, 0o750).map(forget)),
            Op::Unlink(place) => self.within(place, |dir, name| work.unlink(dir, name)),
            Op::Rmdir(place) => self.within(place, |dir, name| work.rmdir(dir, name)),
            Op::Rename(from, to) => {
                self.within(from, |a, old| self.within(to, |b, new| work.rename(a, old, b, new, 0)))
            }
            Op::Link(from, to) => self.with(from, |ino| {
                self.within(to, |dir, name| work.link(ino, dir, name).map(forget))
            }),
            Op::Symlink(place) => self.within(place, |dir, name| {
                work.symlink(me(), dir, name, OsStr::new("nowhere")).map(forget)
            }),
            Op::Chmod(place, mode) => self.with(place, |ino| {
                let set = SetAttr {
                    mode: Some(u32::from(*mode)),
                    ..SetAttr::default()
                };
                work.setattr(ino, None, set).map(|_| ())
            }),
        }
    }

    /// All that the tree shows below a folder.
    fn survey(&self, at: Ino, prefix: &str, into: &mut BTreeMap<String, String>) {
        let handle = self.work.opendir(at).unwrap().handle;
        let entries = self.work.readdir(handle, 0, 100, true).unwrap();
        self.work.releasedir(handle);
        for entry in entries {
            let Some(found) = entry.found else { continue };
            let attr = found.attributes.attr;
            let path = format!("{prefix}/{}", entry.name.display());
            let contents = match attr.kind {
                Kind::Directory => {
                    self.survey(attr.ino, &path, into);
                    String::new()
                }
                Kind::Symlink => self.work.readlink(attr.ino).unwrap().display().to_string(),
                _ => {
                    let handle = self.work.open(attr.ino, libc::O_RDONLY).unwrap().handle;
                    let data = self.work.read(handle, 0, 1 << 20).unwrap();
                    self.work.release(handle);
                    format!("{:?}", blake3::hash(&data))
                }
            };
            let size = if attr.kind == Kind::Directory { 0 } else { attr.size };
            into.insert(path, format!("{:o} {} {size} {contents}", attr.mode, attr.nlink));
            self.forget(attr.ino);
        }
    }
}

fn apply_plain(root: &Path, op: &Op) -> io::Result<()> {
    let at = |place: &Place| plain_path(root, place);
    let write = |place: &Place| {
        let flags = std::os::unix::fs::OpenOptionsExt::custom_flags;
        flags(OpenOptions::new().write(true), libc::O_NOFOLLOW).open(at(place))
    };
    match op {
        Op::Create(place) => {
            let file = OpenOptions::new().write(true).create_new(true).open(at(place))?;
            file.set_permissions(Permissions::from_mode(0o640))
        }
        Op::Write(place, offset, byte) => write(place)?.write_all_at(&[*byte; 100], u64::from(*offset)),
        Op::Truncate(place, size) => write(place)?.set_len(u64::from(*size)),
        Op::Mkdir(place) => {
            fs::create_dir(at(place))?;
            fs::set_permissions(at(place), Permissions::from_mode(0o750))
        }
        Op::Unlink(place) => fs::remove_file(at(place)),
        Op::Rmdir(place) => fs::remove_dir(at(place)),
        Op::Rename(from, to) => fs::rename(at(from), at(to)),
        Op::Link(from, to) => fs::hard_link(at(from), at(to)),
        Op::Symlink(place) => std::os::unix::fs::symlink("nowhere", at(place)),
        Op::Chmod(place, mode) => fs::set_permissions(at(place), Permissions::from_mode(u32::from(*mode))),
    }
}

fn survey_plain(at: &Path, prefix: &str, into: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(at).unwrap() {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        let path = format!("{prefix}/{}", entry.file_name().display());
        let contents = if meta.is_dir() {
            survey_plain(&entry.path(), &path, into);
            String::new()
        } else if meta.is_symlink() {
            fs::read_link(entry.path()).unwrap().display().to_string()
        } else {
            format!("{:?}", blake3::hash(&fs::read(entry.path()).unwrap()))
        };
        let size = if meta.is_dir() { 0 } else { meta.size() };
        let mode = meta.mode() & 0o7777;
        into.insert(path, format!("{mode:o} {} {size} {contents}", meta.nlink()));
    }
}

/// Whether the plain side would follow a link where the tree can't be asked to.
fn is_comparable(root: &Path, op: &Op) -> bool {
    match op {
        Op::Rename(a, b) | Op::Link(a, b) => is_reachable(root, a) && is_reachable(root, b),
        Op::Chmod(a, _) => is_reachable(root, a) && !plain_path(root, a).is_symlink(),
        Op::Create(a) | Op::Write(a, ..) | Op::Truncate(a, _) => is_reachable(root, a),
        Op::Mkdir(a) | Op::Unlink(a) | Op::Rmdir(a) | Op::Symlink(a) => is_reachable(root, a),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn is_like_a_plain_directory(ops in prop::collection::vec(op(), 1..60)) {
        let bench = Bench::new();
        let plain = bench.dir.path().join("plain");
        fs::create_dir(&plain).unwrap();
        for op in ops.iter().filter(|op| is_comparable(&plain, op)) {
            let (ours, theirs) = (bench.apply(op), apply_plain(&plain, op));
            match theirs {
                Ok(()) => prop_assert!(ours.is_ok(), "{op:?}: {ours:?}"),
                Err(error) => {
                    prop_assert!(ours.is_err(), "{op:?} should have failed: {error}");
                    prop_assert_eq!(errno(ours), error.raw_os_error().unwrap(), "{:?}", op);
                }
            }
        }
        let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
        bench.survey(bench.root, "", &mut ours);
        survey_plain(&plain, "", &mut theirs);
        prop_assert_eq!(ours, theirs);
        let mut left = bench.work.inodes_of(&bench.attempt);
        left.sort();
        prop_assert_eq!(left, vec![bench.root, bench.artifacts]);
    }

    /// The same with one descriptor, and a kernel that remembers each node: what it knows by number
    /// must be the node that has the name now, whatever was moved and removed meanwhile.
    #[test]
    fn is_like_a_plain_directory_with_one_descriptor(ops in prop::collection::vec(op(), 1..60)) {
        let bench = Bench { remembers: true, ..Bench::new() };
        bench.work.cache.resize(1);
        let plain = bench.dir.path().join("plain");
        fs::create_dir(&plain).unwrap();
        for op in ops.iter().filter(|op| is_comparable(&plain, op)) {
            let (ours, theirs) = (bench.apply(op), apply_plain(&plain, op));
            match theirs {
                Ok(()) => prop_assert!(ours.is_ok(), "{op:?}: {ours:?}"),
                Err(error) => prop_assert_eq!(errno(ours), error.raw_os_error().unwrap(), "{:?}", op),
            }
        }
        let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
        bench.survey(bench.root, "", &mut ours);
        survey_plain(&plain, "", &mut theirs);
        prop_assert_eq!(&ours, &theirs);
        let mut known = BTreeMap::new();
        for path in ours.keys() {
            let names = path.split('/').skip(1);
            let met = names.fold(bench.root, |at, name| ino(&bench.lookup(at, name).unwrap()));
            let meta = fs::symlink_metadata(bench.path(&path[1..])).unwrap();
            known.insert(met, meta);
        }
        for (ino, meta) in known.iter().chain(known.iter().rev()) {
            let attr = bench.work.getattr(*ino, None).unwrap().attr;
            prop_assert_eq!((attr.size, attr.mode), (meta.size(), meta.mode() & 0o7777));
        }
        let mut numbers: Vec<_> = known.values().map(MetadataExt::ino).collect();
        numbers.sort_unstable();
        numbers.dedup();
        prop_assert_eq!(numbers.len(), known.len());
        prop_assert!(bench.descriptors() <= 3);
    }
}
