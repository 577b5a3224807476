//! Submodules: repositories that a commit names, each checked out like the first.
//!
//! What names them is read from the commit and not from the folder, and of it only path and address
//! are used: no command of it is run, and no name of it becomes a path.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::address::Address;
use super::failure::Failure;
use super::named::Named;
use super::{ENTRY_BYTES_MAX, Repository, Wanted, items};
use crate::beneath::trouble;
use crate::tree::{self, Trouble};

/// Most submodules of one checkout, those of submodules too.
const SUBMODULES_MAX: usize = 1000;

/// How deep submodules may have submodules.
const LEVELS_MAX: usize = 16;

/// Most bytes of one value in `.gitmodules`.
const VALUE_BYTES_MAX: u64 = 16 << 10;

/// A submodule that the commit has.
struct Submodule {
    path: PathBuf,
    commit: String,
}

/// What `.gitmodules` says of one.
#[derive(Default)]
struct Said {
    path: String,
    url: String,
    update: String,
}

/// How all submodules of a checkout are brought.
struct How<'a> {
    depth: Option<&'a str>,
    /// Where they may come from; `None`: from any server.
    named: Option<&'a Named>,
}

/// Checks out all submodules of a repository, and theirs.
pub(super) fn check_out(top: &Repository<'_>, depth: Option<&str>, named: Option<&Named>) -> tree::Result<()> {
    let mut left = SUBMODULES_MAX;
    of_one(top, Path::new(""), &How { depth, named }, LEVELS_MAX, &mut left)
}

fn of_one(parent: &Repository<'_>, way: &Path, how: &How<'_>, levels: usize, left: &mut usize) -> tree::Result<()> {
    let found = parent.submodules()?;
    if found.is_empty() {
        return Ok(());
    }
    let said = parent.said_of_submodules()?;
    for Submodule { path, commit } in found {
        let way = way.join(&path);
        let failed = |why: &str| parent.failed(&format!("the submodule {}: {why}", way.display()));
        // Of several with one path the last counts, as git has it.
        let Some((name, said)) = said.iter().rfind(|(_, said)| Path::new(&said.path) == path) else {
            return Err(failed(".gitmodules does not say where it comes from"));
        };
        if said.update == "none" {
            continue;
        }
        if levels == 0 || *left == 0 {
            return Err(failed(&format!(
                "more than {SUBMODULES_MAX} submodules, or more than {LEVELS_MAX} levels of them"
            )));
        }
        *left -= 1;
        let address = parent.address.of_submodule(&said.url).map_err(|why| failed(&why))?;
        how.named
            .map_or(Ok(()), |named| named.may_fetch(&address))
            .map_err(|why| failed(&why))?;
        let folder = parent.folder.make(&path);
        let folder = folder.map_err(|e| trouble(&format!("the submodule {}", way.display()), &e))?;
        let repository = Repository {
            folder: &folder,
            address: &address,
            failure: Cell::new(Failure::Unknown),
        };
        let wanted = Wanted {
            commit: Some(commit),
            depth: how.depth.map(str::to_owned),
            ..Wanted::default()
        };
        repository.check_out(&wanted).map_err(|trouble| match trouble {
            Trouble::Refused(why) => failed(&why),
            other => other,
        })?;
        repository.tell_lfs(&format!(" in the submodule {}", way.display()))?;
        parent.know(name, &address)?;
        of_one(&repository, &way, how, levels - 1, left)?;
    }
    Ok(())
}

impl Repository<'_> {
    /// The submodules of the commit that is checked out.
    fn submodules(&self) -> tree::Result<Vec<Submodule>> {
        let mut found = Vec::new();
        let done = self.git().read(&["ls-tree", "-r", "-z", "HEAD"], |out| {
            items(out, ENTRY_BYTES_MAX, |item| {
                let Some(rest) = item.strip_prefix(b"160000 commit ") else {
                    return Ok(());
                };
                let mut halves = rest.splitn(2, |byte| *byte == b'\t');
                let commit = String::from_utf8_lossy(halves.next().unwrap_or_default()).into_owned();
                let path = PathBuf::from(OsStr::from_bytes(halves.next().unwrap_or_default()));
                found.push(Submodule { path, commit });
                if found.len() > SUBMODULES_MAX {
                    return Err(io::Error::other(format!("more than {SUBMODULES_MAX} submodules")));
                }
                Ok(())
            })
        })?;
        if done {
            return Ok(found);
        }
        Err(self.failed("can't tell which submodules there are"))
    }

    /// What the commit's `.gitmodules` says, by the names in it, in its order.
    fn said_of_submodules(&self) -> tree::Result<Vec<(String, Said)>> {
        let mut all: Vec<(String, Said)> = Vec::new();
        let wanted = "^submodule\\..*\\.(path|url|update)$";
        let arguments = ["config", "-z", "--blob", "HEAD:.gitmodules", "--get-regexp", wanted];
        // Without the file it says nothing, and then no submodule has an address.
        self.git().read(&arguments, |out| {
            items(out, VALUE_BYTES_MAX, |item| {
                let item = String::from_utf8_lossy(item);
                let (key, value) = item.split_once('\n').unwrap_or((&item, ""));
                let Some((name, key)) = key.strip_prefix("submodule.").and_then(|key| key.rsplit_once('.')) else {
                    return Ok(());
                };
                let at = match all.iter().position(|(known, _)| known == name) {
                    Some(at) => at,
                    None if all.len() < SUBMODULES_MAX => {
                        all.push((name.to_owned(), Said::default()));
                        all.len() - 1
                    }
                    None => {
                        return Err(io::Error::other(format!(
                            ".gitmodules names more than {SUBMODULES_MAX} submodules"
                        )));
                    }
                };
                let said = &mut all[at].1;
                match key {
                    "path" => said.path = value.trim_end_matches('/').to_owned(),
                    "url" => value.clone_into(&mut said.url),
                    _ => value.clone_into(&mut said.update),
                }
                Ok(())
            })
        })?;
        Ok(all)
    }

    /// Has later calls of git, by scripts, know a submodule as one that is in use.
    fn know(&self, name: &str, address: &Address) -> tree::Result<()> {
        let git = self.git();
        let known = git.run(&["config", &format!("submodule.{name}.url"), &address.shown])?
            && git.run(&["config", &format!("submodule.{name}.active"), "true"])?;
        if known {
            return Ok(());
        }
        Err(self.failed(&format!("can't note the submodule {name}")))
    }
}
