//! publish-artifacts and copy-artifacts: files of a workspace become artifacts, and those of another
//! build come into a workspace.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use crate::beneath::Folder;
use crate::copying::Copying;
use crate::selecting::Selection;
use crate::task::desk::{Desk, read, say};
use crate::task::{Done, Found, Kind};
use crate::tree::{self, Trouble};

/// The worker publish-artifacts. Parameters: `artifacts`, patterns of paths in the workspace; folders
/// are taken whole.
pub const PUBLISH: Kind = Kind {
    name: "publish-artifacts",
    about: "Publishes files from the workspaces of tickets as artifacts of their builds",
    records: &[],
    adds: false,
    work: publish,
};

/// The worker copy-artifacts. Parameters: `job`, `build`, `artifacts` (patterns; default all),
/// `target_directory`.
pub const COPY: Kind = Kind {
    name: "copy-artifacts",
    about: "Copies artifacts of other builds into the workspaces of tickets",
    records: &[],
    adds: false,
    work: copy,
};

fn publish(desk: &Desk) -> Done {
    let patterns = desk.list("artifacts");
    if patterns.is_empty() {
        return Err(Trouble::Refused("params.artifacts is missing".to_owned()));
    }
    let mut selection = Selection::new(&patterns)?;
    let mut copying = Copying::new(desk.artifacts()?);
    selection.copy(&desk.workspace()?, &mut copying)?;
    tell(desk, &selection, &copying);
    // As in DistCI a pattern may match nothing; when none does, the names are wrong.
    let why = nothing(&selection, &copying, "in the workspace");
    if copying.copied == 0 {
        let empty = "what the patterns match in the workspace is only folders, with no file and no link in them";
        return Err(Trouble::Refused(why.unwrap_or_else(|| empty.to_owned())));
    }
    if let Some(why) = why {
        say(&format!("{}: {why}", desk.name));
    }
    Ok(Found::default())
}

fn copy(desk: &Desk) -> Done {
    let jobs = desk.jobs()?;
    let (job, build) = wanted(desk, &jobs)?;
    let (number, artifacts) = source(&jobs, &job, &build, desk.ticket.is_untrusted())?;
    let target = desk.make_folder("target_directory")?;
    let mut copying = Copying::new(target);
    let mut patterns = desk.list("artifacts");
    let all = patterns.is_empty();
    if all {
        patterns.push(".".to_owned());
    }
    let mut selection = Selection::new(&patterns)?;
    selection.copy(&artifacts, &mut copying)?;
    let why = nothing(&selection, &copying, &format!("among the artifacts of {job} {build}"));
    if let Some(why) = why.filter(|_| !all) {
        return Err(Trouble::Refused(why));
    }
    tell(desk, &selection, &copying);
    say(&format!("{}: from build {number} of the job {job}", desk.name));
    Ok(Found::default())
}

/// What is said of patterns that name nothing, or nothing that is left.
fn nothing(selection: &Selection, copying: &Copying, place: &str) -> Option<String> {
    let missed = selection.missed();
    if !missed.is_empty() {
        let rest = if selection.excludes() {
            " and is not excluded"
        } else {
            ""
        };
        return Some(format!("nothing {place} matches {}{rest}", missed.join(" ")));
    }
    let why = format!("all {place} that the patterns match is excluded by those with !");
    (copying.copied == 0 && selection.excludes()).then_some(why)
}

/// Tells what was left out, or may be otherwise than was meant.
fn tell(desk: &Desk, selection: &Selection, copying: &Copying) {
    for line in copying.left_out.iter().chain(&selection.odd(copying)) {
        say(&format!("{}: {line}", desk.name));
    }
}

/// Job and build that the parameters name.
fn wanted(desk: &Desk, jobs: &Folder) -> tree::Result<(String, String)> {
    let job = desk.param("job");
    let build = desk.param("build").unwrap_or_else(|| "last-success".to_owned());
    if build != "upstream" {
        let job = job.unwrap_or_default();
        if !is_job(&job) {
            return Err(Trouble::Refused(format!("params.job '{job}' is not the name of a job")));
        }
        if !matches!(build.as_str(), "latest" | "last-success") && !is_number(&build) {
            return Err(Trouble::Refused(format!(
                "params.build '{build}' is not a number, latest, last-success or upstream"
            )));
        }
        return Ok((job, build));
    }
    let by = |name| triggered_by(desk, jobs, name).filter(|value| !value.is_empty());
    let (Some(upstream), Some(build)) = (by("upstream_job"), by("upstream_build")) else {
        let why = "params.build is upstream, but no other build triggered this one";
        return Err(Trouble::Refused(why.to_owned()));
    };
    if !is_job(&upstream) || !is_number(&build) {
        let why = "upstream_job and upstream_build of this build name no build";
        return Err(Trouble::Refused(why.to_owned()));
    }
    match job {
        Some(job) if job != upstream => Err(Trouble::Refused(format!(
            "this build was triggered by the job {upstream}, not by {job}"
        ))),
        _ => Ok((upstream, build)),
    }
}

/// A parameter of the ticket's own build.
fn triggered_by(desk: &Desk, jobs: &Folder, name: &str) -> Option<String> {
    let (job, build) = (desk.ticket.job.as_ref()?, desk.ticket.build?);
    let path = Path::new(job)
        .join("builds")
        .join(build.to_string())
        .join("params")
        .join(name);
    let bytes = read(jobs, &path).ok()?;
    Some(String::from_utf8(bytes).ok()?.trim().to_owned())
}

/// The number of a build that a link may name, and the folder of its artifacts; `any`: also of a stranger's build.
fn source(jobs: &Folder, job: &str, build: &str, any: bool) -> tree::Result<(String, Folder)> {
    let none = |error: io::Error| match Trouble::from_io("the job's artifacts", &error) {
        Trouble::Refused(_) | Trouble::Lost(_) => Trouble::Refused(format!(
            "the job {job} has no build {build}, or the owner of this job may not read it"
        )),
        other => other,
    };
    let builds = jobs.enter(Path::new(job).join("builds")).map_err(none)?;
    let number = if is_number(build) {
        build.to_owned()
    } else {
        // The other links pass those of strangers over by themselves.
        let link = if build == "latest" && !any {
            LATEST_TRUSTED
        } else {
            build
        };
        let target = builds.target(OsStr::new(link)).map_err(none)?;
        target.to_string_lossy().into_owned()
    };
    if !is_number(&number) {
        return Err(none(io::ErrorKind::NotFound.into()));
    }
    if !any && is_strangers(&builds, &number).map_err(none)? {
        return Err(Trouble::Refused(format!(
            "build {number} of the job {job} is a stranger's (trust: untrusted): only builds of strangers copy from it"
        )));
    }
    let artifacts = builds.enter(Path::new(&number).join("artifacts")).map_err(none)?;
    // Who may not list it is told so here, and not that nothing matches.
    match artifacts.entries() {
        Ok(_) => Ok((number, artifacts)),
        Err(error) => Err(none(error)),
    }
}

/// The link to the newest build that is no stranger's: `latest` names any.
const LATEST_TRUSTED: &str = ".latest-trusted";

/// Whether a build that is there is a stranger's. Of an earlier version none says so.
fn is_strangers(builds: &Folder, number: &str) -> io::Result<bool> {
    let build = builds.enter(number)?;
    match read(&build, Path::new("trust")) {
        Ok(text) => Ok(text.trim_ascii() == b"untrusted"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_job(name: &str) -> bool {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    name.bytes().all(of_name) && name.bytes().next().is_some_and(|byte| !b".-".contains(&byte))
}
