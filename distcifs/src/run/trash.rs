//! `distcifs trash`: what lies in `jobs/.trash` of a mount, by the folder alone.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::Deserialize;
use serde_json::Value;

use super::mounts::{self, Probe};
use super::options::resolve;
use super::{Failure, Outcome};
use crate::cli;
use crate::repository::trash::TrashId;

/// The folder, below the mount point.
const FOLDER: &str = "jobs/.trash";

/// Longest text of a thing in the trash, bytes.
const TEXT_BYTES_MAX: u64 = 16 << 10;

/// Longest configuration read, bytes: the tree takes no longer one.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// A thing in the trash, as its file says.
#[derive(Debug, Clone, Deserialize)]
struct Item {
    id: String,
    job: String,
    build: Option<u64>,
    builds: Option<u64>,
    state: Option<String>,
    removed: String,
    by: String,
    until: String,
}

/// What somebody means by a word.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Meant {
    /// What has this id.
    Id(String),
    /// A job of this name.
    Job(String),
    /// A build of it.
    Build(String, u64),
}

impl Meant {
    /// From a path below the mount point, or the end of one.
    fn read(path: &Path) -> Option<Meant> {
        let mut words = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(word) => words.push(word.to_str()?),
                Component::CurDir => {}
                _ => return None,
            }
        }
        let words = words.strip_prefix(["jobs"].as_slice()).unwrap_or(&words);
        let number = |n: &str| n.parse().ok();
        match *words {
            [id] | [".trash", id] if TrashId::parse(id).is_some() => Some(Meant::Id(id.to_owned())),
            [job] => Some(Meant::Job(job.to_owned())),
            [job, n] | [job, "builds", n] => Some(Meant::Build(job.to_owned(), number(n)?)),
            _ => None,
        }
    }

    fn is(&self, item: &Item) -> bool {
        match self {
            Meant::Id(id) => item.id == *id,
            Meant::Job(job) => item.build.is_none() && item.job == *job,
            Meant::Build(job, n) => item.build == Some(*n) && item.job == *job,
        }
    }
}

/// Does what is asked for.
pub(super) fn trash(arguments: &cli::Trash) -> Outcome {
    match &arguments.command {
        cli::TrashCommand::List(arguments) => list(arguments),
        cli::TrashCommand::Restore(arguments) => restore(arguments),
        cli::TrashCommand::Empty(arguments) => empty(arguments),
    }
}

fn list(arguments: &cli::List) -> Outcome {
    let mount = match &arguments.mountpoint {
        Some(place) => own_mount(place)?,
        None => super::status::at_hand()?,
    };
    let items = read(&mount)?;
    let text = if arguments.json {
        let all: Vec<&Value> = items.iter().map(|(_, value)| value).collect();
        let text = serde_json::to_string_pretty(&all).map_err(|error| Failure::Refused(error.to_string()))?;
        text + "\n"
    } else {
        items.iter().map(|(item, _)| line(item)).collect()
    };
    if items.is_empty() && !arguments.json && io::stdout().is_terminal() {
        eprintln!("nothing of yours is in the trash");
    }
    print(&text)
}

/// One line: what it is, how much, when it was removed, by whom, until when it stays, and its id.
fn line(item: &Item) -> String {
    let (what, how) = match item.build {
        Some(n) => (format!("{}/{n}", item.job), item.state.clone().unwrap_or_default()),
        None => (item.job.clone(), count(item.builds.unwrap_or_default())),
    };
    let (removed, until) = (short(&item.removed), short(&item.until));
    let by = item.by.split_once(' ').map_or("-", |(_, name)| name);
    format!("{what}\t{how}\tremoved {removed} by {by}\tuntil {until}\t{}\n", item.id)
}

fn count(builds: u64) -> String {
    match builds {
        1 => "1 build".into(),
        n => format!("{n} builds"),
    }
}

/// A time to the minute.
fn short(time: &str) -> String {
    let minute = time.get(..16).unwrap_or(time).replace('T', " ");
    minute + "Z"
}

fn restore(arguments: &cli::Restored) -> Outcome {
    let (mount, meant) = meant(&arguments.what)?;
    if meant.is_empty() {
        return Err(Failure::Usage(
            "name what is to be restored after the mount point".into(),
        ));
    }
    if arguments.name.is_some() && meant.len() > 1 {
        return Err(Failure::Usage("--as names one job: restore one at a time".into()));
    }
    let items = read(&mount)?;
    let mut failed = false;
    for (word, meant) in meant {
        if let Err(why) = restore_one(&mount, &items, &word, &meant, arguments.name.as_deref()) {
            eprintln!("distcifs: {why}");
            failed = true;
        }
    }
    if failed { Err(Failure::Told) } else { Ok(()) }
}

fn restore_one(
    mount: &Path,
    items: &[(Item, Value)],
    word: &str,
    meant: &Meant,
    name: Option<&str>,
) -> Result<(), String> {
    let found = items.iter().map(|(item, _)| item).filter(|item| meant.is(item));
    let Some(item) = found.max_by_key(|item| &item.removed) else {
        return Err(missing(mount, items, word, meant));
    };
    let to = match (item.build, name) {
        (Some(_), Some(_)) => {
            return Err(format!(
                "{word}: --as is for jobs: a build keeps its job and its number"
            ));
        }
        (Some(n), None) => format!("jobs/{}/builds/{n}", item.job),
        (None, name) => format!("jobs/{}", name.unwrap_or(&item.job)),
    };
    let from = mount.join(FOLDER).join(&item.id);
    // Not by rename(2): it takes a folder that is there for a mistake of another kind.
    let moved = renameat2(
        AT_FDCWD,
        &from,
        AT_FDCWD,
        &mount.join(&to),
        RenameFlags::RENAME_NOREPLACE,
    );
    moved.map_err(|errno| refused(word, item, &to, errno))?;
    let more = item.builds.map(|builds| format!(" with {}", count(builds)));
    print(&format!("restored {to}{}\n", more.unwrap_or_default())).map_err(|failure| failure.to_string())?;
    let job = name.unwrap_or(&item.job);
    if item.builds != Some(0) && prunes(&mount.join("jobs").join(job)) {
        let n = item.build.map_or("N".into(), |n| n.to_string());
        eprintln!(
            "distcifs: {word}: jobs/{job} has a \"keep\", by which its next build may remove old ones for good; \
             hold what you need: echo keep > jobs/{job}/builds/{n}/ctl"
        );
    }
    Ok(())
}

/// Whether a job's configuration has its builds pruned; not, where it can't be read.
fn prunes(job: &Path) -> bool {
    let mut text = Vec::new();
    let read = File::open(job.join("config.json")).and_then(|file| file.take(CONFIG_BYTES_MAX).read_to_end(&mut text));
    let config: Option<Value> = read.ok().and_then(|_| serde_json::from_slice(&text).ok());
    let keep = config.as_ref().and_then(|config| config.get("keep"));
    keep.is_some_and(|keep| {
        ["builds", "days"]
            .iter()
            .any(|key| keep.get(key).is_some_and(Value::is_u64))
    })
}

/// Why a thing could not be restored, and what to do.
fn refused(word: &str, item: &Item, to: &str, errno: Errno) -> String {
    let hint = match errno {
        Errno::EEXIST if item.build.is_none() => {
            format!("{to} exists: give another name with --as NAME, or remove it first")
        }
        Errno::EEXIST => format!("{to} exists"),
        Errno::EACCES => format!("you may not make {to}: you need write on its folder"),
        Errno::EPERM => "only the job's owner, the owner of jobs and root may restore it".into(),
        Errno::ENOENT => "it is not in the trash any more".into(),
        Errno::EBUSY => "others change it just now: try again".into(),
        Errno::EINVAL => format!(
            "{to}: no valid name, or the job would trigger itself there by downstream_jobs; the mount's log says which"
        ),
        Errno::ENOSPC => "the store is full: make room first".into(),
        errno => format!("{to}: {}", io::Error::from(errno)),
    };
    format!("{word}: {hint}")
}

/// What to say of something that is not there.
fn missing(mount: &Path, items: &[(Item, Value)], word: &str, meant: &Meant) -> String {
    let none = format!("{word}: nothing of yours is in the trash under that name; distcifs trash list shows what is");
    match meant {
        Meant::Job(job) if mount.join("jobs").join(job).exists() => {
            format!("{word}: the job is there, and no other of that name in the trash")
        }
        Meant::Build(job, n) if mount.join("jobs").join(job).join(format!("builds/{n}")).exists() => {
            format!("{word}: the build is there")
        }
        Meant::Build(job, _) if items.iter().any(|(item, _)| Meant::Job(job.clone()).is(item)) => {
            format!("{word}: its job is in the trash: restore {job} first")
        }
        _ => none,
    }
}

fn empty(arguments: &cli::Empty) -> Outcome {
    let (mount, meant) = meant(&arguments.what)?;
    let items = read(&mount)?;
    // A job that is named means its builds, too.
    let of_job = |meant: &Meant, item: &Item| matches!(meant, Meant::Job(job) if item.job == *job);
    let is_meant = |item: &Item| {
        let is = |meant: &Meant| meant.is(item) || of_job(meant, item);
        meant.is_empty() || meant.iter().any(|(_, meant)| is(meant))
    };
    let mut failed = false;
    for (word, meant) in &meant {
        if !items.iter().any(|(item, _)| meant.is(item) || of_job(meant, item)) {
            eprintln!("distcifs: {}", missing(&mount, &items, word, meant));
            failed = true;
        }
    }
    let mut removed = 0_u64;
    for (item, _) in items.iter().filter(|(item, _)| is_meant(item)) {
        match fs::remove_file(mount.join(FOLDER).join(&item.id)) {
            Ok(()) => removed += 1,
            // Others empty it, too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                eprintln!("distcifs: {}: {error}", item.id);
                failed = true;
            }
        }
    }
    if removed > 0 {
        let things = if removed == 1 { "thing" } else { "things" };
        print(&format!(
            "removed {removed} {things} for good; distcifs gc frees the room\n"
        ))?;
    }
    if failed { Err(Failure::Told) } else { Ok(()) }
}

/// What was named, with the words for it.
type Named = Vec<(String, Meant)>;

/// The mount, which may stand first, and what is meant by the other words.
fn meant(words: &[PathBuf]) -> Result<(PathBuf, Named), Failure> {
    let first = words.first().filter(|first| is_mount(&resolve(first)));
    let rest = if first.is_some() { &words[1..] } else { words };
    let mut mount = first.map(|first| own_mount(first)).transpose()?;
    let mut all = Vec::new();
    for word in rest {
        let shown = word.display().to_string();
        let place = std::path::absolute(word).map_err(|error| Failure::Refused(format!("{shown}: {error}")))?;
        // Where it was: neither the job nor the build is there any more.
        let inside = place.ancestors().find(|place| is_mount(&resolve(place)));
        let path = match (&mount, inside) {
            (Some(mount), Some(found)) if resolve(found) == *mount => place.strip_prefix(found).unwrap_or(word),
            (Some(_), _) => word.as_path(),
            (None, Some(found)) => {
                mount = Some(own_mount(found)?);
                place.strip_prefix(found).unwrap_or(word)
            }
            (None, None) => {
                return Err(Failure::Refused(format!(
                    "{shown} is in no mount of distcifs: name the mount point first, or the path below it"
                )));
            }
        };
        let meant = Meant::read(path).ok_or_else(|| {
            Failure::Usage(format!(
                "{shown}: say JOB, JOB/BUILD, an id of distcifs trash list, or a path below jobs"
            ))
        })?;
        all.push((shown, meant));
    }
    let mount = match mount {
        Some(mount) => mount,
        None => super::status::at_hand()?,
    };
    Ok((mount, all))
}

fn is_mount(place: &Path) -> bool {
    matches!(mounts::find(place), Ok(Some(entry)) if entry.is_ours())
}

/// A mount of ours that answers: a daemon that is stuck must not hold us up.
fn own_mount(place: &Path) -> Result<PathBuf, Failure> {
    let (mount, shown) = (resolve(place), place.display());
    if !is_mount(&mount) {
        return Err(Failure::Refused(format!("{shown}: no mount of distcifs is there")));
    }
    match mounts::probe(&mount) {
        Probe::Alive => Ok(mount),
        Probe::Dead => Err(Failure::Refused(format!("{shown}: its daemon is dead: mount it again"))),
        Probe::Silent => Err(Failure::Refused(format!("{shown}: its daemon does not answer"))),
    }
}

/// What the trash shows to whoever asks, in order of the names.
fn read(mount: &Path) -> Result<Vec<(Item, Value)>, Failure> {
    let folder = mount.join(FOLDER);
    let explain = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "; its daemon is of a version without a trash",
            io::ErrorKind::PermissionDenied => "; you need search on jobs",
            _ => "",
        };
        Failure::Refused(format!("{}: {error}{hint}", folder.display()))
    };
    let mut items = Vec::new();
    for entry in fs::read_dir(&folder).map_err(explain)? {
        let path = entry.map_err(explain)?.path();
        let text = match text_of(&path) {
            Ok(text) => text,
            // Restored or gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Failure::Refused(format!("{}: {error}", path.display()))),
        };
        let strange = |error| Failure::Refused(format!("{}: not understood: {error}", path.display()));
        let value: Value = serde_json::from_str(&text).map_err(strange)?;
        items.push((Item::deserialize(&value).map_err(strange)?, value));
    }
    items.sort_by(|(one, _), (other, _)| {
        (&one.job, one.build, &one.removed).cmp(&(&other.job, other.build, &other.removed))
    });
    Ok(items)
}

fn text_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(TEXT_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn print(text: &str) -> Outcome {
    let written = io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::Refused(format!("standard output: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "`distcifs trash restore` says so where the job has a `keep`."
    #[test]
    fn a_job_with_keep_prunes() {
        let job = tempfile::tempdir().unwrap();
        assert!(!prunes(job.path()));
        for (config, does) in [
            (r#"{"keep": {"builds": 2}, "tasks": []}"#, true),
            (r#"{"keep": {"builds": null, "days": 30}}"#, true),
            (r#"{"keep": {"builds": null}}"#, false),
            (r#"{"keep": null}"#, false),
            (r#"{"tasks": []}"#, false),
            ("{", false),
        ] {
            fs::write(job.path().join("config.json"), config).unwrap();
            assert_eq!(prunes(job.path()), does, "{config}");
        }
    }

    #[test]
    fn a_path_says_what_is_meant() {
        let job = |name: &str| Some(Meant::Job(name.into()));
        let build = |n| Some(Meant::Build("a".into(), n));
        for (path, meant) in [
            ("a", job("a")),
            ("jobs/a", job("a")),
            ("./jobs/a/", job("a")),
            ("jobs/jobs", job("jobs")),
            ("a/7", build(7)),
            ("jobs/a/builds/7", build(7)),
            ("jobs/.trash/a@0f", Some(Meant::Id("a@0f".into()))),
            ("a@0f@7", Some(Meant::Id("a@0f@7".into()))),
            ("", None),
            ("..", None),
            ("a/x", None),
            ("jobs/a/builds/7/console", None),
        ] {
            assert_eq!(Meant::read(Path::new(path)), meant, "{path}");
        }
    }
}
