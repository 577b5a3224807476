//! The listing of one folder, and its encoding.
//!
//! A `Tree` object is one of three: a whole listing; the head of a long listing, with the digests
//! of its parts; or such a part. Long listings are cut into parts of about [`PART_BYTES`], so that
//! no object exceeds what a store takes. The encoding is deterministic, and every number in it has
//! one form only: equal folders have equal digests, and what decodes encodes to the same bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::wire::{Decoded, Input, Malformed, put_bytes, put_number, put_signed};
use crate::storage::Digest;
use crate::storage::contents::VALUE_BYTES_MAX;

/// First byte of every listing; another encoding takes another number.
const VERSION: u8 = 1;
/// Second byte: a whole listing.
const WHOLE: u8 = 0;
/// Second byte: the head of a listing that was cut into parts.
const HEAD: u8 = 1;
/// Second byte: a part.
const PART: u8 = 2;

/// A part is closed once it has this many bytes: far below what a store takes, so that one change
/// in a large folder sends little.
const PART_BYTES: usize = 256 << 10;
/// Largest encoded entry, bytes: a part and one entry fit in one object. A file of 100,000
/// pieces (100 GB) stays below it.
const ENTRY_BYTES_MAX: usize = 4 << 20;
/// Most parts of a folder: 64 MiB of listing, some 800,000 entries, held in memory at once.
const PARTS_MAX: usize = 256;
/// Longest name, bytes: the kernel's NAME_MAX.
pub(super) const NAME_BYTES_MAX: usize = 255;
/// Longest target of a symbolic link, bytes: the kernel's PATH_MAX without its NUL.
pub(super) const TARGET_BYTES_MAX: usize = 4095;
/// Longest file kept within the listing, bytes: below it an object of its own costs more than it saves.
pub const INLINE_BYTES_MAX: usize = 1 << 10;
/// Bytes of extended attributes of one file, names and values together: what ext4 takes in its block. A
/// workspace refuses more.
pub const XATTR_BYTES_MAX: usize = 4 << 10;
/// Permission bits, with setuid, setgid and sticky.
const MODE_MASK: u32 = 0o7777;
/// Largest size of a file, bytes: the kernel's.
const SIZE_MAX: u64 = i64::MAX as u64;

/// A time of modification, to the nanosecond; seconds may be before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds on top, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// Names and values of `user.` attributes, sorted by name.
pub type Xattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

/// What every kind of file has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Permission bits (0o7777 at most).
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Time of modification.
    pub mtime: Time,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// A piece of a file; none is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// The bytes themselves.
    Inline(Bytes),
    /// A hole of this many bytes.
    Hole(u64),
    /// The bytes of a `Chunk` object.
    Data {
        /// The chunk.
        digest: Digest,
        /// Its length, bytes.
        length: u32,
    },
}

impl Segment {
    /// Its length, bytes.
    pub fn length(&self) -> u64 {
        match self {
            Segment::Inline(bytes) => bytes.len() as u64,
            Segment::Hole(length) => *length,
            Segment::Data { length, .. } => u64::from(*length),
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// The sum of its segments, bytes.
        size: u64,
        /// Its bytes, in order.
        segments: Arc<[Segment]>,
    },
    /// A folder: the digest of its listing.
    Folder(Digest),
    /// A symbolic link: its target.
    Symlink(Box<[u8]>),
}

impl Kind {
    /// A file of these segments.
    pub fn file(segments: Arc<[Segment]>) -> Self {
        let size = segments.iter().fold(0u64, |sum, s| sum.saturating_add(s.length()));
        Kind::File { size, segments }
    }
}

/// Membership in a group of hard links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The group: entries of a snapshot with the same number are one file.
    pub group: u32,
    /// How many names it has in the snapshot.
    pub count: u32,
}

/// A name in a folder, and what it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name: 1 to 255 bytes without `/` and NUL, not `.` or `..`.
    pub name: Box<[u8]>,
    /// Mode, owner, time.
    pub meta: Meta,
    /// What it is.
    pub kind: Kind,
    /// Its other names, if it has any.
    pub link: Option<Link>,
}

/// A folder with its listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Of the folder itself.
    pub meta: Meta,
    /// Above every number of a hard-link group in this folder and below it; 0: there is none.
    pub groups: u32,
    /// Sorted by name, no name twice.
    pub entries: Vec<Entry>,
}

impl Folder {
    /// Mode of the empty folder.
    pub(super) const MODE: u32 = 0o755;

    /// The empty folder that workspaces start from: mode 0755, time 0, owner root.
    pub fn empty() -> Self {
        Folder {
            meta: Meta {
                mode: Self::MODE,
                ..Meta::default()
            },
            groups: 0,
            entries: Vec::new(),
        }
    }

    /// The entry of this name.
    pub fn get(&self, name: &[u8]) -> Option<&Entry> {
        let at = self
            .entries
            .binary_search_by(|entry| entry.name.as_ref().cmp(name))
            .ok()?;
        self.entries.get(at)
    }

    /// The objects that hold this listing, the one that names the folder last.
    /// An entry or a folder over its bound is refused.
    pub fn encode(&self) -> Decoded<Vec<(Digest, Bytes)>> {
        let mut parts = vec![Vec::new()];
        let mut one = Vec::new();
        for entry in &self.entries {
            one.clear();
            put_entry(&mut one, entry);
            if one.len() > ENTRY_BYTES_MAX {
                return Err(Malformed(
                    "a file of too many pieces: over about 100 GB, or too many holes",
                ));
            }
            if parts.last().is_some_and(|part| part.len() >= PART_BYTES) {
                parts.push(Vec::new());
            }
            if let Some(part) = parts.last_mut() {
                part.extend_from_slice(&one);
            }
        }
        match parts.as_slice() {
            [whole] => Ok(vec![named(self.head(WHOLE), whole)]),
            _ if parts.len() > PARTS_MAX => Err(Malformed("a folder of too many entries: over 64 MiB of listing")),
            _ => {
                let mut objects: Vec<_> = parts.iter().map(|part| named(vec![VERSION, PART], part)).collect();
                let mut digests = Vec::new();
                put_number(&mut digests, objects.len() as u64);
                objects
                    .iter()
                    .for_each(|(digest, _)| digests.extend_from_slice(digest.as_bytes()));
                objects.push(named(self.head(HEAD), &digests));
                Ok(objects)
            }
        }
    }

    /// The beginning of a whole listing or of a head.
    fn head(&self, form: u8) -> Vec<u8> {
        let mut out = vec![VERSION, form];
        put_meta(&mut out, &self.meta);
        put_number(&mut out, u64::from(self.groups));
        out
    }

    /// Appends what a part lists; it must come after what is there.
    pub(super) fn extend(&mut self, entries: Vec<Entry>) -> Decoded<()> {
        let sorted = match (self.entries.last(), entries.first()) {
            (Some(last), Some(first)) => last.name < first.name,
            _ => true,
        };
        if !sorted {
            return Err(Malformed("its names are not in order"));
        }
        if entries
            .iter()
            .any(|e| e.link.is_some_and(|link| link.group >= self.groups))
        {
            return Err(Malformed("a group of hard links is out of range"));
        }
        self.entries.extend(entries);
        Ok(())
    }
}

/// An object of these bytes with its digest.
fn named(mut head: Vec<u8>, tail: &[u8]) -> (Digest, Bytes) {
    head.extend_from_slice(tail);
    (Digest::of(&head), Bytes::from(head))
}

/// What a `Tree` object may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listing {
    /// A whole folder.
    Whole(Folder),
    /// A folder without its entries, and the parts that list them.
    Head(Folder, Vec<Digest>),
    /// Some entries of a folder.
    Part(Vec<Entry>),
}

/// Decodes a `Tree` object of at most `VALUE_BYTES_MAX` bytes, with every bound checked.
pub(super) fn decode(bytes: &[u8]) -> Decoded<Listing> {
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(Malformed("a listing over 8 MiB"));
    }
    let mut input = Input::new(bytes);
    if input.byte()? != VERSION {
        return Err(Malformed("a listing of another version; a newer distcifs may read it"));
    }
    match input.byte()? {
        PART => Ok(Listing::Part(take_entries(input)?)),
        WHOLE => {
            let mut folder = take_head(&mut input)?;
            let entries = take_entries(input)?;
            folder.extend(entries)?;
            Ok(Listing::Whole(folder))
        }
        HEAD => {
            let folder = take_head(&mut input)?;
            let count = input.number()?;
            if !(2..=PARTS_MAX as u64).contains(&count) {
                return Err(Malformed("too many or too few parts"));
            }
            let parts = (0..count)
                .map(|_| input.digest().map(Digest::from_bytes))
                .collect::<Decoded<_>>()?;
            input.end()?;
            Ok(Listing::Head(folder, parts))
        }
        _ => Err(Malformed("no listing")),
    }
}

fn take_head(input: &mut Input<'_>) -> Decoded<Folder> {
    Ok(Folder {
        meta: take_meta(input)?,
        groups: input.small()?,
        entries: Vec::new(),
    })
}

/// Decodes entries to the end of the input; their count is not stored, so nothing is reserved.
fn take_entries(mut input: Input<'_>) -> Decoded<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    while !input.is_empty() {
        let entry = take_entry(&mut input)?;
        if entries.last().is_some_and(|last| last.name >= entry.name) {
            return Err(Malformed("its names are not in order"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Kinds of entries; [`LINKED`] may be added.
const FILE: u8 = 0;
const FOLDER: u8 = 1;
const SYMLINK: u8 = 2;
/// Set in the kind of an entry that is in a group of hard links.
const LINKED: u8 = 0x10;

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    put_bytes(out, &entry.name);
    let kind = match entry.kind {
        Kind::File { .. } => FILE,
        Kind::Folder(_) => FOLDER,
        Kind::Symlink(_) => SYMLINK,
    };
    out.push(if entry.link.is_some() { kind | LINKED } else { kind });
    put_meta(out, &entry.meta);
    if let Some(link) = entry.link {
        put_number(out, u64::from(link.group));
        put_number(out, u64::from(link.count));
    }
    match &entry.kind {
        Kind::File { segments, .. } => {
            put_number(out, segments.len() as u64);
            segments.iter().for_each(|segment| put_segment(out, segment));
        }
        Kind::Folder(digest) => out.extend_from_slice(digest.as_bytes()),
        Kind::Symlink(target) => put_bytes(out, target),
    }
}

fn take_entry(input: &mut Input<'_>) -> Decoded<Entry> {
    let name = input.bytes(NAME_BYTES_MAX)?;
    if !is_entry_name(name) {
        return Err(Malformed("a name that no file can have"));
    }
    let form = input.byte()?;
    let meta = take_meta(input)?;
    let link = match form & LINKED {
        0 => None,
        _ => Some(Link {
            group: input.small()?,
            count: input.small()?,
        }),
    };
    let kind = match form & !LINKED {
        FILE => take_file(input)?,
        FOLDER if link.is_none() => Kind::Folder(Digest::from_bytes(input.digest()?)),
        SYMLINK => {
            let target = input.bytes(TARGET_BYTES_MAX)?;
            if target.is_empty() || target.contains(&0) {
                return Err(Malformed("a target that no symbolic link can have"));
            }
            Kind::Symlink(target.into())
        }
        _ => return Err(Malformed("an entry of no known kind")),
    };
    Ok(Entry {
        name: name.into(),
        meta,
        kind,
        link,
    })
}

/// Whether a folder can have an entry of this name.
pub fn is_entry_name(name: &[u8]) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name != b"."
        && name != b".."
        && !name.iter().any(|&b| b == b'/' || b == 0)
}

/// Tags of segments.
const INLINE: u8 = 0;
const HOLE: u8 = 1;
const DATA: u8 = 2;

fn put_segment(out: &mut Vec<u8>, segment: &Segment) {
    match segment {
        Segment::Inline(bytes) => {
            out.push(INLINE);
            put_bytes(out, bytes);
        }
        Segment::Hole(length) => {
            out.push(HOLE);
            put_number(out, *length);
        }
        Segment::Data { digest, length } => {
            out.push(DATA);
            put_number(out, u64::from(*length));
            out.extend_from_slice(digest.as_bytes());
        }
    }
}

fn take_file(input: &mut Input<'_>) -> Decoded<Kind> {
    let count = input.number()?;
    let mut segments = Vec::new();
    let mut size = 0u64;
    for _ in 0..count {
        let segment = match input.byte()? {
            INLINE => Segment::Inline(Bytes::copy_from_slice(input.bytes(INLINE_BYTES_MAX)?)),
            HOLE => Segment::Hole(input.number()?),
            DATA => Segment::Data {
                length: input.small()?,
                digest: Digest::from_bytes(input.digest()?),
            },
            _ => return Err(Malformed("a piece of no known kind")),
        };
        let length = segment.length();
        let chunk = matches!(segment, Segment::Data { .. });
        if length == 0 || (chunk && length > VALUE_BYTES_MAX as u64) {
            return Err(Malformed("a piece that is empty or too large"));
        }
        size = size
            .checked_add(length)
            .filter(|&size| size <= SIZE_MAX)
            .ok_or(Malformed("a file is too large"))?;
        segments.push(segment);
    }
    Ok(Kind::File {
        size,
        segments: segments.into(),
    })
}

fn put_meta(out: &mut Vec<u8>, meta: &Meta) {
    put_number(out, u64::from(meta.mode & MODE_MASK));
    put_number(out, u64::from(meta.uid));
    put_number(out, u64::from(meta.gid));
    put_signed(out, meta.mtime.seconds);
    put_number(out, u64::from(meta.mtime.nanoseconds));
    put_number(out, meta.xattrs.len() as u64);
    for (name, value) in &meta.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
}

fn take_meta(input: &mut Input<'_>) -> Decoded<Meta> {
    let mode = input.small()?;
    let (uid, gid) = (input.small()?, input.small()?);
    let mtime = Time {
        seconds: input.signed()?,
        nanoseconds: input.small()?,
    };
    if mode > MODE_MASK || mtime.nanoseconds >= 1_000_000_000 {
        return Err(Malformed("a mode or time that no file can have"));
    }
    let count = input.number()?;
    let mut xattrs: Xattrs = Vec::new();
    let mut room = XATTR_BYTES_MAX;
    for _ in 0..count {
        let name = input.bytes(NAME_BYTES_MAX.min(room))?;
        room -= name.len();
        let value = input.bytes(room)?;
        room -= value.len();
        let after = xattrs.last().is_none_or(|(last, _)| last.as_ref() < name);
        if !after || !name.starts_with(b"user.") || name.contains(&0) {
            return Err(Malformed("an extended attribute that is not kept, or out of order"));
        }
        xattrs.push((name.into(), value.into()));
    }
    Ok(Meta {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    })
}
