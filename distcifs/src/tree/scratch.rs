//! Scratch files: what editors put beside config.json. Private to this mount, gone with it.
//!
//! Whoever may write a job's folder may make them, and who may write config.json takes them for one by
//! `mv` or `cp`. So that nobody slips him another text, each is written, removed and renamed by its owner
//! alone (the job's owner and root may remove and rename any), and says who has ever had it open to write.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;

use super::look::{Facts, NAME_MAX, NOT_AT_ALL};
use super::rights::Reader;
use super::shares::{Lease, Shares};
use super::trust::Trust;
use super::{Caller, Error, Kind, Result, SetAttr};
use crate::repository::access::Access;
use crate::repository::core::lock;

/// Largest scratch file, bytes: a configuration and an editor's notes on it.
const FILE_BYTES_MAX: usize = 4 << 20;
/// All of them together, bytes; users share them.
const BYTES_MAX: u64 = 64 << 20;
/// What each file or link counts beside its bytes: its names and numbers.
const FILE_BYTES: u64 = 4096;
/// Scratch files of one job.
const FILES_MAX: usize = 256;
/// Those of others than its owner and root, who share them: the owner's editors need some.
const FILES_OF_OTHERS_MAX: usize = FILES_MAX / 2;
/// Bits that the mode of none has: only its owner writes it.
const WRITE_OF_OTHERS: u32 = 0o022;

/// One of them.
#[derive(Debug)]
pub(crate) struct File {
    job: Arc<str>,
    pub(crate) name: String,
    access: Access,
    modified: SystemTime,
    /// The bytes; of a symbolic link, its target.
    data: Vec<u8>,
    symlink: bool,
    /// Who made it or has ever opened it to write: root and its owners.
    writers: BTreeSet<u32>,
}

impl File {
    /// Refuses who may not remove it, or give it another name.
    fn may_move(&self, by: Mover) -> Result<()> {
        if [0, by.owner, self.access.uid].contains(&by.uid) {
            return Ok(());
        }
        Err(Error::NotPermitted(format!(
            "{}: a scratch file of user {}: only he, the job's owner and root remove or rename it",
            self.name, self.access.uid
        )))
    }
}

/// Who removes or renames a scratch file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mover {
    /// He.
    pub(crate) uid: u32,
    /// The job's owner.
    pub(crate) owner: u32,
}

#[derive(Default)]
struct Table {
    files: HashMap<u64, File>,
    /// What they take of the share of who made them.
    leases: HashMap<u64, Lease>,
    names: BTreeMap<(Arc<str>, String), u64>,
    next: u64,
}

/// The scratch files of this mount.
pub struct Scratches {
    table: Mutex<Table>,
    room: Arc<Shares>,
}

impl Table {
    /// Refuses one more file of a user in the folder of a job of this owner.
    fn room_in(&self, job: &Arc<str>, name: &str, uid: u32, owner: u32) -> Result<()> {
        let names = self.names.range((job.clone(), String::new())..);
        let files = names.take_while(|((of, _), _)| of == job).map(|(_, id)| id);
        let makers: Vec<u32> = files
            .filter_map(|id| self.files.get(id))
            .map(|file| file.access.uid)
            .collect();
        if makers.len() >= FILES_MAX {
            return Err(Error::Full(
                format!("{name}: a job's folder takes {FILES_MAX} scratch files").into(),
            ));
        }
        let steers = |uid: u32| [0, owner].contains(&uid);
        let others = makers.iter().filter(|maker| !steers(**maker)).count();
        let own = makers.iter().filter(|maker| **maker == uid).count();
        if !steers(uid) && own + others >= FILES_OF_OTHERS_MAX {
            return Err(Error::Quota(format!(
                "{name}: you hold your share of the {FILES_OF_OTHERS_MAX} scratch files that others than the job's \
                 owner may have in its folder; remove some"
            )));
        }
        Ok(())
    }

    fn remove(&mut self, id: u64) {
        let Some(file) = self.files.remove(&id) else { return };
        self.leases.remove(&id);
        let key = (file.job, file.name);
        if self.names.get(&key) == Some(&id) {
            self.names.remove(&key);
        }
    }
}

impl Scratches {
    /// None so far.
    pub(crate) fn new(trust: Arc<Trust>) -> Scratches {
        Scratches {
            table: Mutex::default(),
            room: Shares::new(BYTES_MAX, trust),
        }
    }

    /// The file of that name in a job's folder.
    pub(crate) fn find(&self, job: &Arc<str>, name: &str) -> Option<u64> {
        lock(&self.table).names.get(&(job.clone(), name.to_owned())).copied()
    }

    /// Names in a job's folder with their numbers and types.
    pub(crate) fn list(&self, job: &Arc<str>) -> Vec<(String, u64, Kind)> {
        let table = lock(&self.table);
        let from = (job.clone(), String::new());
        let own = table.names.range(from..).take_while(|((of, _), _)| of == job);
        own.filter_map(|((_, name), id)| table.files.get(id).map(|f| (name.clone(), *id, kind(f))))
            .collect()
    }

    /// Makes a file or symbolic link in the folder of a job of this owner; the number.
    pub(crate) fn make(
        &self,
        caller: Caller,
        owner: u32,
        job: &Arc<str>,
        name: &str,
        mode: u32,
        target: Option<&[u8]>,
    ) -> Result<u64> {
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong(name.to_owned()));
        }
        let mut table = lock(&self.table);
        let key = (job.clone(), name.to_owned());
        if table.names.contains_key(&key) {
            return Err(Error::Exists(format!("{name} exists")));
        }
        table.room_in(job, name, caller.uid, owner)?;
        let data = target.unwrap_or_default().to_vec();
        let room = FILE_BYTES + data.len() as u64;
        let lease = self.room.take(caller.uid, room).ok_or_else(|| full(name))?;
        table.next += 1;
        let id = table.next;
        let access = Access {
            uid: caller.uid,
            gid: caller.gid,
            mode: own_mode(mode, target.is_some()),
        };
        let file = File {
            job: job.clone(),
            name: name.to_owned(),
            access,
            modified: SystemTime::now(),
            data,
            symlink: target.is_some(),
            writers: BTreeSet::from([caller.uid]),
        };
        table.files.insert(id, file);
        table.leases.insert(id, lease);
        table.names.insert(key, id);
        Ok(id)
    }

    /// Removes a name, if he may.
    pub(crate) fn remove_by(&self, id: u64, by: Mover) -> Result<()> {
        let mut table = lock(&self.table);
        if let Some(file) = table.files.get(&id) {
            file.may_move(by)?;
            table.remove(id);
        }
        Ok(())
    }

    /// Removes a name; who has it open gets ESTALE.
    pub(crate) fn remove(&self, id: u64) {
        lock(&self.table).remove(id);
    }

    /// Gives a file another name, replacing what has it, if he may do both.
    pub(crate) fn rename(&self, id: u64, name: &str, by: Mover) -> Result<()> {
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong(name.to_owned()));
        }
        // Under one lock: of two renames onto one name, the later finds what the earlier put there.
        let mut table = lock(&self.table);
        let file = table.files.get(&id).ok_or_else(gone)?;
        file.may_move(by)?;
        let new = (file.job.clone(), name.to_owned());
        if let Some(there) = table.names.get(&new).and_then(|there| table.files.get(there)) {
            there.may_move(by)?;
        }
        let file = table.files.get_mut(&id).ok_or_else(gone)?;
        let old = (file.job.clone(), std::mem::replace(&mut file.name, name.to_owned()));
        table.names.remove(&old);
        if let Some(replaced) = table.names.insert(new, id).filter(|replaced| *replaced != id) {
            table.files.remove(&replaced);
            table.leases.remove(&replaced);
        }
        Ok(())
    }

    /// Notes that somebody opens a file to write.
    pub(crate) fn opened_to_write(&self, id: u64, by: u32) -> Result<()> {
        let mut table = lock(&self.table);
        table.files.get_mut(&id).ok_or_else(gone)?.writers.insert(by);
        Ok(())
    }

    /// The bytes of a file that is renamed onto config.json or `enabled`: one that nobody has ever written but who does
    /// that, or root. Root may do it with one of the job's owner too.
    pub(crate) fn given(&self, id: u64, by: Mover) -> Result<Bytes> {
        let table = lock(&self.table);
        let file = table.files.get(&id).ok_or_else(gone)?;
        let known = |uid: &u32| [0, by.uid].contains(uid) || (by.uid == 0 && *uid == by.owner);
        if file.symlink {
            return Err(Error::Invalid(format!("{}: a link is no configuration", file.name)));
        }
        // `rsync -a` of root gives its file to the owner of the source before it renames it.
        let may = known(&file.access.uid) || file.may_move(by).is_ok();
        if !may || !file.writers.iter().all(known) {
            return Err(Error::Access(format!(
                "{}: others have written it: read it, and copy it with cp",
                file.name
            )));
        }
        Ok(Bytes::copy_from_slice(&file.data))
    }

    /// The target of a link. One that leads out of the folder leads only those whom it can do no harm: who
    /// writes to a name there does not expect that another has put a link under it.
    pub(crate) fn target(&self, id: u64, by: impl Fn(&str) -> Mover) -> Result<Bytes> {
        let table = lock(&self.table);
        let file = table.files.get(&id).ok_or_else(gone)?;
        let by = by(&file.job);
        let maker = file.access.uid;
        if file.data.contains(&b'/') && ![0, by.owner, by.uid].contains(&maker) {
            return Err(Error::Access(format!(
                "{}: a link of user {maker} that leads out of the job's folder",
                file.name
            )));
        }
        Ok(Bytes::copy_from_slice(&file.data))
    }

    /// At most `size` bytes of a file from `offset`.
    pub(crate) fn read(&self, id: u64, offset: u64, size: usize) -> Result<Bytes> {
        let table = lock(&self.table);
        let data = &table.files.get(&id).ok_or_else(gone)?.data;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
        let end = start.saturating_add(size).min(data.len());
        Ok(Bytes::copy_from_slice(data.get(start..end).unwrap_or_default()))
    }

    /// Attributes.
    pub(crate) fn facts(&self, id: u64) -> Result<Facts> {
        let table = lock(&self.table);
        let file = table.files.get(&id).ok_or_else(gone)?;
        let (size, time, kind) = (file.data.len() as u64, file.modified, kind(file));
        Ok(Facts {
            kind,
            access: file.access,
            size,
            time,
            ttl: NOT_AT_ALL,
            nlink: 1,
        })
    }

    /// Changes attributes; of owner and mode, `changer` what is his.
    pub(crate) fn change(&self, id: u64, set: &SetAttr, changer: Option<&Reader>) -> Result<()> {
        if let Some(changer) = changer {
            let table = lock(&self.table);
            let file = table.files.get(&id).ok_or_else(gone)?;
            // The kernel takes set-user-id away when somebody else writes.
            if !only_drops_ids(file.access.mode, set) {
                changer.may_change(file.access, set, &file.name)?;
            }
        }
        if let Some(size) = set.size {
            self.resize(id, usize::try_from(size).unwrap_or(usize::MAX))?;
        }
        let mut table = lock(&self.table);
        let file = table.files.get_mut(&id).ok_or_else(gone)?;
        file.access.mode = own_mode(set.mode.unwrap_or(file.access.mode), file.symlink);
        file.access.uid = set.uid.unwrap_or(file.access.uid);
        file.access.gid = set.gid.unwrap_or(file.access.gid);
        if let Some(time) = set.mtime {
            file.modified = time.unwrap_or_else(SystemTime::now);
        }
        Ok(())
    }

    fn resize(&self, id: u64, size: usize) -> Result<()> {
        let mut table = lock(&self.table);
        let file = table.files.get(&id).ok_or_else(gone)?;
        let name = file.name.clone();
        if size > FILE_BYTES_MAX {
            return Err(Error::TooBig(format!(
                "{name}: scratch files hold {FILE_BYTES_MAX} bytes at most"
            )));
        }
        let lease = table.leases.get_mut(&id).ok_or_else(gone)?;
        if !lease.set(FILE_BYTES + size as u64) {
            return Err(full(&name));
        }
        if let Some(file) = table.files.get_mut(&id) {
            file.data.resize(size, 0);
            file.modified = SystemTime::now();
        }
        Ok(())
    }

    /// Writes at an offset.
    pub(crate) fn write(&self, id: u64, offset: u64, data: &[u8]) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(data.len());
        let length = lock(&self.table).files.get(&id).ok_or_else(gone)?.data.len();
        if end > length {
            self.resize(id, end)?;
        }
        let mut table = lock(&self.table);
        let file = table.files.get_mut(&id).ok_or_else(gone)?;
        if let Some(room) = file.data.get_mut(start..end) {
            room.copy_from_slice(data);
            file.modified = SystemTime::now();
        }
        Ok(())
    }

    /// Removes what a job that is gone left behind.
    pub(crate) fn remove_all(&self, job: &Arc<str>) {
        for (_, id, _) in self.list(job) {
            self.remove(id);
        }
    }
}

/// The mode of one that should have this.
fn own_mode(mode: u32, symlink: bool) -> u32 {
    let others = if symlink { 0 } else { WRITE_OF_OTHERS };
    mode & 0o7777 & !others
}

/// Whether nothing but set-user-id and set-group-id goes.
fn only_drops_ids(was: u32, set: &SetAttr) -> bool {
    let dropped = |mode: u32| mode & 0o7777 & !was == 0 && was & !mode & !0o6000 == 0;
    set.uid.is_none() && set.gid.is_none() && set.mode.is_some_and(dropped)
}

fn kind(file: &File) -> Kind {
    if file.symlink { Kind::Symlink } else { Kind::File }
}

fn gone() -> Error {
    Error::Stale("a scratch file that has gone".into())
}

/// The refusal of one whose share is used up.
fn full(name: &str) -> Error {
    Error::Quota(format!(
        "{name}: your scratch files hold your share of {BYTES_MAX} bytes; remove some"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Caller {
        Caller { tid: 1, uid, gid: 1 }
    }

    fn job(name: &str) -> Arc<str> {
        name.into()
    }

    /// Somebody in a job of user 1.
    fn mover(uid: u32) -> Mover {
        Mover { uid, owner: 1 }
    }

    /// "Half of them is the owner's": who may write the folder can't take them all.
    #[test]
    fn others_leave_scratch_files_to_the_owner() {
        let scratches = Scratches::new(Arc::default());
        let make = |uid: u32, n: u32| scratches.make(user(uid), 1, &job("1"), &format!("{uid}.{n}"), 0o644, None);
        let fill = |uid| (0..1000).take_while(|n| make(uid, *n).is_ok()).count();
        assert_eq!(fill(2), FILES_OF_OTHERS_MAX / 2);
        assert!(matches!(make(2, 1000), Err(Error::Quota(_))));
        assert_eq!(fill(3), FILES_OF_OTHERS_MAX / 4);
        assert_eq!(fill(1), FILES_MAX - FILES_OF_OTHERS_MAX * 3 / 4);
        assert!(matches!(make(0, 0), Err(Error::Full(_))));
        let first = scratches.find(&job("1"), "2.0").unwrap();
        scratches.remove(first);
        make(0, 1).unwrap();
    }

    /// "A scratch file is written by its owner alone, and removed and renamed by him, the job's owner and root."
    #[test]
    fn nobody_touches_the_scratch_files_of_others() {
        let scratches = Scratches::new(Arc::default());
        let make = |uid, name| scratches.make(user(uid), 1, &job("1"), name, 0o666, None).unwrap();
        let (owners, members) = (make(1, "owners"), make(2, "members"));
        assert_eq!(scratches.facts(owners).unwrap().access.mode, 0o644);
        let open = SetAttr {
            mode: Some(0o777),
            ..SetAttr::default()
        };
        scratches.change(owners, &open, None).unwrap();
        assert_eq!(scratches.facts(owners).unwrap().access.mode, 0o755);
        let refused = [
            scratches.remove_by(owners, mover(2)),
            scratches.rename(owners, "x", mover(2)),
            scratches.rename(members, "owners", mover(2)),
            scratches.remove_by(members, mover(3)),
        ];
        for refused in refused {
            assert!(matches!(refused, Err(Error::NotPermitted(_))), "{refused:?}");
        }
        assert_eq!(scratches.list(&job("1")).len(), 2);
        scratches.rename(members, "own", mover(2)).unwrap();
        scratches.rename(members, "owners", mover(1)).unwrap();
        scratches.rename(members, "roots", mover(0)).unwrap();
        scratches.remove_by(members, mover(0)).unwrap();
        assert!(scratches.list(&job("1")).is_empty());
    }

    /// "A rename onto config.json takes a file that nobody has written but who renames it, or root."
    #[test]
    fn what_others_have_written_becomes_no_configuration() {
        let scratches = Scratches::new(Arc::default());
        let make = |uid, name| scratches.make(user(uid), 1, &job("1"), name, 0o644, None).unwrap();
        let taken = |id, uid| scratches.given(id, mover(uid)).is_ok();
        let (roots, owners, members) = (make(0, "r"), make(1, "o"), make(2, "m"));
        assert_eq!([0, 1, 2].map(|uid| taken(roots, uid)), [true, true, true]);
        assert_eq!([0, 1, 2].map(|uid| taken(owners, uid)), [true, true, false]);
        assert_eq!([0, 1, 2].map(|uid| taken(members, uid)), [false, false, true]);
        // Given to the owner, it may still be open to write for who made it.
        let give = SetAttr {
            uid: Some(1),
            ..SetAttr::default()
        };
        scratches.change(members, &give, None).unwrap();
        assert_eq!([0, 1, 2].map(|uid| taken(members, uid)), [false, false, false]);
        scratches.change(roots, &give, None).unwrap();
        assert!(taken(roots, 1), "sed -i of root gives its file to the owner");
        scratches.opened_to_write(owners, 3).unwrap();
        assert!(!taken(owners, 1));
        let link = scratches.make(user(1), 1, &job("1"), "l", 0o777, Some(b"{}")).unwrap();
        assert!(matches!(scratches.given(link, mover(1)), Err(Error::Invalid(_))));
    }

    #[test]
    fn a_link_out_of_the_folder_leads_nobody_else() {
        let scratches = Scratches::new(Arc::default());
        let link = |uid, name: &str, to: &[u8]| scratches.make(user(uid), 1, &job("1"), name, 0o777, Some(to)).unwrap();
        let (out, lock) = (link(2, "out", b"/tmp/x"), link(2, "lock", b"me@here.1"));
        let read = |id, uid| scratches.target(id, |_| mover(uid)).is_ok();
        assert_eq!([0, 1, 2, 3].map(|uid| read(out, uid)), [false, false, true, false]);
        assert!((0..4).all(|uid| read(lock, uid)));
        let owners = link(1, "owners", b"/tmp/x");
        assert!((0..4).all(|uid| read(owners, uid)));
    }

    /// What is renamed onto a name at once by many leaves one file, which goes with its job.
    #[test]
    fn renames_onto_one_name_leave_no_file_behind() {
        let scratches = Scratches::new(Arc::default());
        let made: Vec<u64> = (0..200)
            .map(|n| {
                let name = format!("f{n}");
                scratches.make(user(1), 1, &job("1"), &name, 0o644, None).unwrap()
            })
            .collect();
        std::thread::scope(|scope| {
            for some in made.chunks(50) {
                let scratches = &scratches;
                scope.spawn(move || {
                    for id in some {
                        // One that was replaced meanwhile is gone.
                        let _ = scratches.rename(*id, "one", mover(1));
                    }
                });
            }
        });
        assert_eq!(scratches.list(&job("1")).len(), 1);
        scratches.remove_all(&job("1"));
        let table = lock(&scratches.table);
        assert_eq!((table.files.len(), table.leases.len(), table.names.len()), (0, 0, 0));
    }

    /// "Each user may hold as much of it as he leaves to all others": of bytes, files and links.
    #[test]
    fn who_fills_his_share_hinders_nobody() {
        let scratches = Scratches::new(Arc::default());
        let (mut made, mut refused) = (Vec::new(), None);
        for number in 0..200 {
            let job = job(&(number / 10).to_string());
            let id = match scratches.make(user(1), 1, &job, &number.to_string(), 0o644, None) {
                Ok(id) => id,
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            };
            made.push(id);
            if let Err(error) = scratches.write(id, 0, &vec![0; FILE_BYTES_MAX]) {
                refused = Some(error);
                break;
            }
        }
        assert!(matches!(refused, Some(Error::Quota(_))), "{refused:?}");
        assert_eq!(made.len(), 6, "half of 48 MiB, less what the files themselves count");
        let other = scratches.make(user(2), 1, &job("x"), "a", 0o644, None).unwrap();
        scratches.write(other, 0, &vec![1; FILE_BYTES_MAX]).unwrap();
        scratches.write(other, 5, b"ab").unwrap();
        assert_eq!(&scratches.read(other, 4, 4).unwrap()[..], b"\x01ab\x01");
        scratches.remove(made[0]);
        let again = scratches.make(user(1), 1, &job("x"), "b", 0o644, None).unwrap();
        scratches.write(again, 0, &vec![0; FILE_BYTES_MAX]).unwrap();
        let shrink = SetAttr {
            size: Some(0),
            ..SetAttr::default()
        };
        scratches.change(again, &shrink, None).unwrap();
        let links = (0..2000).take_while(|n| {
            let job = job(&(n / 100).to_string());
            scratches
                .make(user(1), 1, &job, &format!("l{n}"), 0o777, Some(b"there"))
                .is_ok()
        });
        let links = links.count();
        assert!((1000..1900).contains(&links), "{links}");
    }
}
