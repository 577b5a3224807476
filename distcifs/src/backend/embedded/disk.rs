//! The index on disk: entries and records in redb, one durable transaction for a group of work.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction,
};

use super::rows;
use crate::backend::entries::Node;
use crate::storage::descriptors::spare;
use crate::storage::names::kind_of;
use crate::storage::{Object, Page, Updated};

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const ENTRIES: TableDefinition<&str, &[u8]> = TableDefinition::new("entries");
/// Name of a record to its revision.
const RECORDS: TableDefinition<&str, u64> = TableDefinition::new("records");
/// Name, NUL, key to the value.
const VALUES: TableDefinition<&str, &[u8]> = TableDefinition::new("values");

/// Times the store was opened: no position and no session id of one is met again in another.
const EPOCH: &str = "epoch";
/// Groups written: says after a failure whether the last one is on disk.
const GROUPS: &str = "groups";

/// Memory that redb may keep pages in, bytes: the daemon as a whole stays below 100 MiB.
const CACHE_BYTES: usize = 16 << 20;

/// Room that must be left on the disk before a group is written, bytes, beside twice its own
/// size: redb's pages for a group, and what a repair at open needs.
pub(super) const RESERVE_BYTES: u64 = 4 << 20;

/// Share of the reserve that is left by the ends of claims, one in so many.
const ENDS_SHARE: u64 = 4;

/// Why a group could not be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no room, and nothing of it was written.
    Full(String),
    /// Nobody knows what was written; nothing can be written before the store is opened again.
    Broken(String),
    /// Nothing of it was written, as an earlier group has met `Broken`.
    Closed(String),
}

/// What is read at open.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) nodes: BTreeMap<Box<str>, Node>,
    pub(super) epoch: u64,
}

/// A row of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row<'a> {
    /// The letter of its table.
    pub(super) table: u8,
    /// Its key.
    pub(super) key: &'a str,
    /// Its value; of a number eight bytes, little-endian.
    pub(super) value: &'a [u8],
}

/// One piece of work of a group.
#[derive(Debug)]
pub(super) enum Work {
    /// Entries as they are now, `None` for those that are gone; whether something ephemeral ends with it.
    Rows(Vec<(Box<str>, Option<Node>)>, bool),
    /// A guarded change of a record.
    Update {
        name: String,
        revision: Option<u64>,
        changes: Vec<(String, Option<Bytes>)>,
    },
    /// The removal of a record.
    Remove { name: String },
}

impl Work {
    /// Whether it only removes: that is how a full disk gets room, so it may use the reserve.
    fn frees(&self) -> bool {
        match self {
            Work::Rows(rows, _) => rows.iter().all(|(_, node)| node.is_none()),
            Work::Update { changes, .. } => changes.iter().all(|(_, value)| value.is_none()),
            Work::Remove { .. } => true,
        }
    }

    /// Whether something ephemeral ends with it, as a claim does: each was made while there was room, and
    /// work that is over must not stay claimed until there is some again.
    fn ends(&self) -> bool {
        matches!(self, Work::Rows(_, true))
    }
}

/// How a piece of work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It happened.
    Done,
    /// The change of a record ended like this.
    Updated(Updated),
}

/// The database, and how to open it again after the disk was full.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    /// `None` while it is opened again, and after that failed.
    database: RwLock<Option<Database>>,
    /// Why nothing can be written any more.
    broken: OnceLock<String>,
    /// Whether it is to be opened again: then nobody may read it for long.
    reopening: AtomicBool,
    /// [`RESERVE_BYTES`], or 0 to leave it to redb to find out that the disk is full.
    reserve: u64,
}

impl Disk {
    /// Opens the file, which is made if there is none.
    pub(super) fn open(path: &Path, reserve: u64) -> Result<Disk, redb::Error> {
        Ok(Disk {
            path: path.to_owned(),
            database: RwLock::new(Some(open(path)?)),
            broken: OnceLock::new(),
            reopening: AtomicBool::new(false),
            reserve,
        })
    }

    /// Reads every entry of an index that nobody writes.
    pub(super) fn look(&self) -> Result<Loaded, redb::Error> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let txn = guard.as_ref().ok_or(redb::Error::PreviousIo)?.begin_read()?;
        let nodes = nodes(&txn.open_table(ENTRIES)?)?;
        let epoch = txn.open_table(META)?.get(EPOCH)?.map_or(0, |n| n.value());
        Ok(Loaded { nodes, epoch })
    }

    /// Reads every entry, and counts this opening.
    pub(super) fn load(&self) -> Result<Loaded, redb::Error> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or(redb::Error::PreviousIo)?;
        let txn = database.begin_write()?;
        let nodes = nodes(&txn.open_table(ENTRIES)?)?;
        let epoch = {
            txn.open_table(RECORDS)?;
            txn.open_table(VALUES)?;
            let mut meta = txn.open_table(META)?;
            let epoch = meta.get(EPOCH)?.map_or(0, |n| n.value()) + 1;
            meta.insert(EPOCH, epoch)?;
            epoch
        };
        txn.commit()?;
        Ok(Loaded { nodes, epoch })
    }

    /// Does all the work and makes it durable, or nothing of it. `bytes`: about its size.
    pub(super) fn write(&self, group: &[&Work], bytes: u64) -> Result<Vec<Outcome>, Failure> {
        if let Some(why) = self.broken.get() {
            return Err(Failure::Closed(why.clone()));
        }
        if !group.iter().all(|work| work.frees()) {
            let ends = group.iter().all(|work| work.frees() || work.ends());
            self.check_room(bytes, if ends { ENDS_SHARE } else { 1 })?;
        }
        let (error, before) = {
            let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let database = guard.as_ref().ok_or_else(|| self.break_for("it is closed"))?;
            let before = groups(database).map_err(|e| self.break_for(&e.to_string()))?;
            let write = || write(database, group, before + 1);
            match panic::catch_unwind(AssertUnwindSafe(write)) {
                Ok(Ok(outcomes)) => return Ok(outcomes),
                Ok(Err(error)) => (error, before),
                Err(_) => return Err(self.break_for("the index is damaged")),
            }
        };
        if !is_full(&error) {
            return Err(self.break_for(&error.to_string()));
        }
        self.reopen(before).map_err(|why| self.break_for(&why))?;
        Err(Failure::Full(error.to_string()))
    }

    /// Whether a part of the reserve would be left, one in so many.
    fn check_room(&self, bytes: u64, share: u64) -> Result<(), Failure> {
        let folder = self.path.parent().unwrap_or(&self.path);
        let free = super::files::free_bytes(folder);
        let wanted = if self.reserve == 0 {
            0
        } else {
            self.reserve / share + 2 * bytes
        };
        if free < wanted {
            return Err(Failure::Full(format!("{free} bytes are free, {wanted} are needed")));
        }
        Ok(())
    }

    fn break_for(&self, why: &str) -> Failure {
        let why = self.broken.get_or_init(|| {
            tracing::error!("{}: {why}; unmount and mount again", self.path.display());
            format!("{why}; unmount and mount again")
        });
        Failure::Broken(why.clone())
    }

    /// After a write that failed, redb takes no other: opens the file again, where nothing of
    /// the failed group may be.
    fn reopen(&self, before: u64) -> Result<(), String> {
        self.reopening.store(true, Ordering::SeqCst);
        let mut guard = self.database.write().unwrap_or_else(PoisonError::into_inner);
        self.reopening.store(false, Ordering::SeqCst);
        drop(guard.take());
        let database = open(&self.path).map_err(|e| e.to_string())?;
        let found = groups(&database).map_err(|e| e.to_string())?;
        if found != before {
            return Err("a group that failed is on disk nevertheless".to_owned());
        }
        *guard = Some(database);
        Ok(())
    }

    /// Tells all rows as they were at one moment: `take` gets the letter of the table, the key and the
    /// value, and may end it; `wanted` says whether the index is wanted for something else.
    pub(super) fn rows(&self, mut take: impl FnMut(&Row<'_>, &dyn Fn() -> bool) -> bool) -> Result<(), redb::Error> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let txn = guard.as_ref().ok_or(redb::Error::PreviousIo)?.begin_read()?;
        let wanted = || self.reopening.load(Ordering::SeqCst);
        for (table, definition) in [(b'm', META), (b'r', RECORDS)] {
            for row in txn.open_table(definition)?.iter()? {
                let (key, value) = row?;
                let value = value.value().to_le_bytes();
                let (key, value) = (key.value(), &value[..]);
                if !take(&Row { table, key, value }, &wanted) {
                    return Ok(());
                }
            }
        }
        for (table, definition) in [(b'e', ENTRIES), (b'v', VALUES)] {
            for row in txn.open_table(definition)?.iter()? {
                let (key, value) = row?;
                let (key, value) = (key.value(), value.value());
                if !take(&Row { table, key, value }, &wanted) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// How many rows there are.
    pub(super) fn count(&self) -> Result<u64, redb::Error> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let txn = guard.as_ref().ok_or(redb::Error::PreviousIo)?.begin_read()?;
        let numbers = txn.open_table(META)?.len()? + txn.open_table(RECORDS)?.len()?;
        Ok(numbers + txn.open_table(ENTRIES)?.len()? + txn.open_table(VALUES)?.len()?)
    }

    /// Makes an index of rows as [`Disk::rows`] tells them, durably.
    pub(super) fn make(
        path: &Path,
        mut next: impl FnMut(&mut dyn FnMut(Row<'_>) -> Result<(), redb::Error>) -> Result<bool, redb::Error>,
    ) -> Result<(), redb::Error> {
        let database = open(path)?;
        let txn = database.begin_write()?;
        {
            let mut numbers = [txn.open_table(META)?, txn.open_table(RECORDS)?];
            let mut texts = [txn.open_table(ENTRIES)?, txn.open_table(VALUES)?];
            let mut put = |row: Row<'_>| -> Result<(), redb::Error> {
                let number = || row.value.try_into().map(u64::from_le_bytes);
                let odd = |_| redb::Error::Corrupted(format!("row {}", row.key));
                match row.table {
                    b'm' => drop(numbers[0].insert(row.key, number().map_err(odd)?)?),
                    b'r' => drop(numbers[1].insert(row.key, number().map_err(odd)?)?),
                    b'e' => drop(texts[0].insert(row.key, row.value)?),
                    b'v' => drop(texts[1].insert(row.key, row.value)?),
                    other => return Err(redb::Error::Corrupted(format!("a row of table {other}"))),
                }
                Ok(())
            };
            while next(&mut put)? {}
        }
        txn.commit()?;
        Ok(())
    }

    /// Reads a page of a record.
    pub(super) fn query(&self, name: &str, prefix: &str, after: &str, limit: usize) -> Result<Page, redb::Error> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let txn = guard.as_ref().ok_or(redb::Error::PreviousIo)?.begin_read()?;
        let revision = txn.open_table(RECORDS)?.get(name)?.map_or(0, |n| n.value());
        let mut page = Page {
            revision,
            entries: Vec::new(),
        };
        if revision == 0 {
            return Ok(page);
        }
        let skip = rows::key(name, "").len();
        let first = rows::key(name, prefix);
        let from = first.clone().max(rows::key(name, after));
        for row in txn.open_table(VALUES)?.range(from.as_str()..)? {
            let (key, value) = row?;
            if page.entries.len() >= limit || !key.value().starts_with(&first) {
                break;
            }
            if &key.value()[skip..] > after {
                let value = Bytes::copy_from_slice(value.value());
                page.entries.push((key.value()[skip..].to_owned(), value));
            }
        }
        Ok(page)
    }

    /// Names of records of one kind, in order.
    pub(super) fn list(&self, kind: &str, after: &str, limit: usize) -> Result<Vec<Object>, redb::Error> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let txn = guard.as_ref().ok_or(redb::Error::PreviousIo)?.begin_read()?;
        let end = format!("{kind}/");
        let from = kind.max(after);
        let mut names = Vec::new();
        if from >= end.as_str() {
            return Ok(names);
        }
        for row in txn.open_table(RECORDS)?.range(from..end.as_str())? {
            let (name, _) = row?;
            if names.len() >= limit {
                break;
            }
            if kind_of(name.value()) == kind && name.value() > after {
                names.push(Object::Record(name.value().to_owned()));
            }
        }
        Ok(names)
    }
}

/// Opens the file. redb may panic on a file that others have changed.
fn open(path: &Path) -> Result<Database, redb::Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = spare(|| options.open(path))?;
    let open = move || {
        let file = FileBackend::new(file)?;
        Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(file)
    };
    match panic::catch_unwind(AssertUnwindSafe(open)) {
        Ok(opened) => opened.map_err(redb::Error::from),
        Err(_) => Err(redb::Error::Corrupted("not a database that redb wrote".to_owned())),
    }
}

/// All entries.
fn nodes(entries: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<BTreeMap<Box<str>, Node>, redb::Error> {
    let mut nodes = BTreeMap::new();
    for row in entries.iter()? {
        let (path, row) = row?;
        let damaged = || redb::Error::Corrupted(format!("entry {}", path.value()));
        nodes.insert(path.value().into(), rows::decode(row.value()).ok_or_else(damaged)?);
    }
    Ok(nodes)
}

fn groups(database: &Database) -> Result<u64, redb::Error> {
    Ok(database
        .begin_read()?
        .open_table(META)?
        .get(GROUPS)?
        .map_or(0, |n| n.value()))
}

fn is_full(error: &redb::Error) -> bool {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    matches!(error, redb::Error::Io(error) if full.contains(&error.kind()))
}

fn write(db: &Database, group: &[&Work], number: u64) -> Result<Vec<Outcome>, redb::Error> {
    let txn = db.begin_write()?;
    let outcomes = fill(&txn, group, number)?;
    txn.commit()?;
    Ok(outcomes)
}

fn fill(txn: &WriteTransaction, group: &[&Work], number: u64) -> Result<Vec<Outcome>, redb::Error> {
    txn.open_table(META)?.insert(GROUPS, number)?;
    let mut entries = txn.open_table(ENTRIES)?;
    let mut records = txn.open_table(RECORDS)?;
    let mut values = txn.open_table(VALUES)?;
    let mut outcomes = Vec::with_capacity(group.len());
    for work in group {
        outcomes.push(match work {
            Work::Rows(changed, _) => {
                for (path, node) in changed {
                    match node {
                        Some(node) => entries.insert(&**path, rows::encode(node).as_slice())?,
                        None => entries.remove(&**path)?,
                    };
                }
                Outcome::Done
            }
            Work::Update {
                name,
                revision,
                changes,
            } => Outcome::Updated(update(&mut records, &mut values, name, *revision, changes)?),
            Work::Remove { name } => {
                records.remove(name.as_str())?;
                let (from, to) = (rows::key(name, ""), format!("{name}\u{1}"));
                values.retain_in(from.as_str()..to.as_str(), |_, _| false)?;
                Outcome::Done
            }
        });
    }
    Ok(outcomes)
}

fn update(
    records: &mut Table<'_, &'static str, u64>,
    values: &mut Table<'_, &'static str, &'static [u8]>,
    name: &str,
    wanted: Option<u64>,
    changes: &[(String, Option<Bytes>)],
) -> Result<Updated, redb::Error> {
    let revision = records.get(name)?.map_or(0, |n| n.value());
    if wanted.is_some_and(|wanted| wanted != revision) {
        return Ok(Updated::Mismatch { revision });
    }
    let revision = revision + 1;
    records.insert(name, revision)?;
    for (key, value) in changes {
        let key = rows::key(name, key);
        match value {
            Some(value) => values.insert(key.as_str(), &value[..])?,
            None => values.remove(key.as_str())?,
        };
    }
    Ok(Updated::Done { revision })
}
