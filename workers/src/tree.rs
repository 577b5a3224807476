//! The mounted tree as a worker sees it: paths, the few ways to touch its files, and what errors mean.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::sys::stat::Mode;

/// Longest file read whole, bytes: a build's record of 1,000 tasks is well below it.
const READ_BYTES_MAX: u64 = 64 << 20;

/// Longest line of a stream or answer, bytes: an id or an event is a few hundred.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Exit status that asks a supervisor to start the worker again (EX_TEMPFAIL of sysexits.h).
pub const EXIT_TREE_AWAY: u8 = 75;

/// Why an operation on the tree failed, by what the worker has to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The mount is gone: end, and let a supervisor start the worker again.
    #[error("the tree is away: {0}")]
    Away(String),
    /// The claim, the ticket or the build is gone: drop it silently.
    #[error("the claim is lost: {0}")]
    Lost(String),
    /// The store can't be reached just now: try again later.
    #[error("{0}")]
    Later(String),
    /// Somebody holds this one file by a lease: try again later, and go on with the others meanwhile.
    #[error("{0}")]
    Held(String),
    /// The store has no room: try again when others have given some back, or write less.
    #[error("{0}")]
    Full(String),
    /// It will be refused however often it is tried.
    #[error("{0}")]
    Refused(String),
}

impl Trouble {
    /// Sorts an error by its errno; `what` names the operation and the file.
    pub fn from_io(what: &str, error: &io::Error) -> Self {
        let text = format!("{what}: {error}");
        match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::ENOTCONN | Errno::ESHUTDOWN | Errno::ECONNABORTED | Errno::ENODEV => Trouble::Away(text),
            Errno::ESTALE | Errno::ENOENT | Errno::EEXIST => Trouble::Lost(text),
            Errno::EIO
            | Errno::ETIMEDOUT
            | Errno::EAGAIN
            | Errno::EBUSY
            | Errno::EINTR
            | Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOMEM => Trouble::Later(text),
            Errno::ENOSPC | Errno::EDQUOT => Trouble::Full(text),
            _ => Trouble::Refused(text),
        }
    }

    /// The same with another text.
    pub(crate) fn map(self, text: impl FnOnce(String) -> String) -> Self {
        match self {
            Trouble::Away(why) => Trouble::Away(text(why)),
            Trouble::Lost(why) => Trouble::Lost(text(why)),
            Trouble::Later(why) => Trouble::Later(text(why)),
            Trouble::Held(why) => Trouble::Held(text(why)),
            Trouble::Full(why) => Trouble::Full(text(why)),
            Trouble::Refused(why) => Trouble::Refused(text(why)),
        }
    }

    /// The same of opening a file of the tree.
    pub(crate) fn of_open(what: &str, error: &io::Error) -> Self {
        match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::EAGAIN => Trouble::Held(format!("{what}: somebody holds it by a lease")),
            _ => Trouble::from_io(what, error),
        }
    }

    /// The same; what was refused with the words of the job, if its `trigger.error` has any. Whoever may not write
    /// the trigger may not read them.
    fn in_its_words(self, said: impl FnOnce() -> io::Result<File>) -> Self {
        match self {
            Trouble::Refused(why) => Trouble::Refused(refusal(said()).unwrap_or(why)),
            other => other,
        }
    }
}

impl Trouble {
    /// Says why a worker ended, and gives its exit status.
    pub fn report(worker: &str, ended: Result<()>) -> ExitCode {
        match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(trouble) => {
                eprintln!("{worker}: {trouble}");
                let again = !matches!(trouble, Trouble::Refused(_));
                ExitCode::from(if again { EXIT_TREE_AWAY } else { 1 })
            }
        }
    }
}

/// What operations on the tree return.
pub type Result<T> = std::result::Result<T, Trouble>;

/// A mounted tree.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree mounted at `mount`, which may be relative.
    pub fn new(mount: &Path) -> io::Result<Self> {
        Ok(Tree {
            root: std::path::absolute(mount)?,
        })
    }

    /// The folder of a queue.
    pub fn queue(&self, queue: &str) -> PathBuf {
        self.root.join("tickets").join(queue)
    }

    /// The folder of a ticket.
    pub fn ticket(&self, queue: &str, id: &str) -> PathBuf {
        self.queue(queue).join(id)
    }

    /// The folder of a build.
    pub fn build(&self, job: &str, build: u64) -> PathBuf {
        self.job(job).join("builds").join(build.to_string())
    }

    /// The folder of all jobs.
    pub fn jobs(&self) -> PathBuf {
        self.root.join("jobs")
    }

    /// The folder of a job.
    pub fn job(&self, job: &str) -> PathBuf {
        self.jobs().join(job)
    }

    /// The stream of changes.
    pub fn events(&self) -> Result<Lines> {
        let path = self.root.join(".events");
        let file = open(&path, File::options().read(true)).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Trouble::Away(format!("nothing is mounted at {}", self.root.display())),
            _ => Trouble::of_open(&at("open", &path), &e),
        })?;
        Ok(Lines {
            stream: BufReader::new(file),
            path,
        })
    }

    /// The stream of tickets claimed for this process; a queue that is not there is made.
    pub fn next(&self, queue: &str, labels: &[String]) -> Result<Lines> {
        let path = self.queue(queue).join(".next");
        let mut file = self.open_in_queue(queue, &path)?;
        let line = format!("{}\n", labels.join(" "));
        file.write_all(line.as_bytes())
            .map_err(|e| Trouble::from_io(&at("write", &path), &e))?;
        Ok(Lines {
            stream: BufReader::new(file),
            path,
        })
    }

    /// Posts a ticket's JSON and gives its id back; a queue that is not there is made.
    pub fn post(&self, queue: &str, body: &[u8]) -> Result<String> {
        let path = self.queue(queue).join(".post");
        let file = self.open_in_queue(queue, &path)?;
        converse(file, &path, body)
    }

    /// Writes parameters to a job's trigger and gives the number of the build back.
    pub fn trigger(&self, job: &str, body: &[u8]) -> Result<String> {
        let path = self.job(job).join("trigger");
        let file = open_both(&path).map_err(|e| Trouble::of_open(&at("open", &path), &e));
        let built = file.and_then(|file| converse(file, &path, body));
        built.map_err(|trouble| trouble.in_its_words(|| open_to_read(&path.with_extension("error"))))
    }

    /// A job's folder as it is now.
    pub fn open_job(&self, job: &str) -> Result<JobFolder> {
        let path = self.job(job);
        let open = || -> io::Result<JobFolder> {
            let flags = nix::libc::O_PATH | nix::libc::O_DIRECTORY;
            let folder = File::options().read(true).custom_flags(flags).open(&path)?;
            let owner = folder.metadata()?.uid();
            Ok(JobFolder {
                folder,
                owner,
                path: path.clone(),
            })
        };
        open().map_err(|e| Trouble::from_io(&at("look at", &path), &e))
    }

    /// Opens a special file of a queue for reading and writing, making the queue if it is not there.
    fn open_in_queue(&self, queue: &str, path: &Path) -> Result<File> {
        let first = open_both(path);
        let missing = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        let second = match first {
            Err(error) if missing(&error) && self.is_there()? => {
                let folder = self.queue(queue);
                match DirBuilder::new().create(&folder) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(Trouble::from_io(&at("make", &folder), &e));
                    }
                    _ => open_both(path),
                }
            }
            other => other,
        };
        second.map_err(|e| Trouble::of_open(&at("open", path), &e))
    }

    /// `Away` unless something is mounted here.
    fn is_there(&self) -> Result<bool> {
        let path = self.root.join("tickets");
        match path.metadata() {
            Ok(_) => Ok(true),
            Err(error) => Err(Trouble::Away(format!("{}: {error}", path.display()))),
        }
    }
}

/// The folder of a job that was looked at: what is done by way of it is done to that job, and to no
/// other that gets its name meanwhile.
#[derive(Debug)]
pub struct JobFolder {
    folder: File,
    owner: u32,
    path: PathBuf,
}

impl JobFolder {
    /// The user whose job it is.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// Writes parameters to the trigger and gives the number of the build back.
    pub fn trigger(&self, body: &[u8]) -> Result<String> {
        let path = self.path.join("trigger");
        let open = |name: &str, how: OFlag| {
            let flags = how | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            reading_waits(openat(&self.folder, name, flags, Mode::empty())?.into())
        };
        let opened = open("trigger", OFlag::O_RDWR).map_err(|e| Trouble::of_open(&at("open", &path), &e));
        let built = opened.and_then(|opened| converse(opened, &path, body));
        built.map_err(|trouble| trouble.in_its_words(|| open("trigger.error", OFlag::O_RDONLY)))
    }
}

/// A stream of the tree: within a second each read gives a line, empty for "nothing yet".
#[derive(Debug)]
pub struct Lines {
    stream: BufReader<File>,
    path: PathBuf,
}

impl Lines {
    /// The next line without its end; the end of the stream is `Away`.
    pub fn next_line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let count = (&mut self.stream)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .map_err(|e| Trouble::Away(format!("{}: {e}", at("read", &self.path))))?;
        if count == 0 {
            return Err(Trouble::Away(format!("{}: end of the stream", self.path.display())));
        }
        Ok(String::from_utf8_lossy(&line).trim().to_owned())
    }
}

/// Reads a whole file; over 64 MiB it is `Refused`.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut file = open_to_read(path).map_err(|e| Trouble::of_open(&at("read", path), &e))?;
    let read = || -> io::Result<Vec<u8>> {
        let size = file.metadata()?.len().min(READ_BYTES_MAX);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0) + 1];
        let first = match file.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            read => read?,
        };
        bytes.truncate(first);
        // Most files have as many bytes as they say. A second request for each would only say that this was the end.
        if first as u64 != size || size == 0 {
            file.take(READ_BYTES_MAX - first as u64).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    let bytes = read().map_err(|e| Trouble::from_io(&at("read", path), &e))?;
    if bytes.len() as u64 >= READ_BYTES_MAX {
        return Err(Trouble::Refused(format!(
            "{}: longer than {READ_BYTES_MAX} bytes",
            path.display()
        )));
    }
    Ok(bytes)
}

/// Writes a file that exists in one piece and commits it: the answer of close is looked at.
pub fn commit(path: &Path, text: &str) -> Result<()> {
    match commit_unless_too_big(path, text)? {
        None => Ok(()),
        Some(why) => Err(Trouble::Refused(why)),
    }
}

/// The same; where the store says that it can never take what there is to commit (EFBIG), the reason.
pub fn commit_unless_too_big(path: &Path, text: &str) -> Result<Option<String>> {
    let mut file = open(path, File::options().write(true)).map_err(|e| Trouble::of_open(&at("write", path), &e))?;
    let write = || -> io::Result<()> {
        file.write_all(text.as_bytes())?;
        nix::unistd::close(file).map_err(io::Error::from)
    };
    match write() {
        Ok(()) => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::EFBIG as i32) => {
            Ok(Some(format!("{}: {error}", at("write", path))))
        }
        Err(error) => Err(Trouble::from_io(&at("write", path), &error)),
    }
}

/// Opens a console for appending.
pub fn open_console(ticket: &Path) -> io::Result<File> {
    open(&ticket.join("console"), File::options().append(true))
}

/// Names an operation and its file, for messages.
fn at(verb: &str, path: &Path) -> String {
    format!("can't {verb} {}", path.display())
}

/// Opens a file of the tree, which may be somebody else's. Its owner can hold it by a lease (fcntl(2)), and an open that
/// waits would stand until the kernel takes that away, 45 s later: this one is refused at once.
///
/// # Errors
/// As open(2); EAGAIN if somebody holds it by a lease.
pub(crate) fn open(path: &Path, how: &mut OpenOptions) -> io::Result<File> {
    reading_waits(
        how.custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY)
            .open(path)?,
    )
}

/// What was opened without waiting is read as ever.
fn reading_waits(file: File) -> io::Result<File> {
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(file)
}

/// Opens a file of the tree for reading.
///
/// # Errors
/// As open(2); EAGAIN if somebody holds it by a lease.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    open(path, File::options().read(true))
}

/// The same for reading and writing.
///
/// # Errors
/// As open(2); EAGAIN if somebody holds it by a lease.
pub fn open_both(path: &Path) -> io::Result<File> {
    open(path, File::options().read(true).write(true))
}

/// What a job says in `trigger.error` of the trigger that it has just refused.
pub fn refusal(said: io::Result<File>) -> Option<String> {
    let mut text = String::new();
    said.ok()?.take(LINE_BYTES_MAX).read_to_string(&mut text).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// Writes, then reads one line back: on such a descriptor the first read is what commits. After a refusal a second one
/// may say why.
///
/// # Errors
/// It is refused, or the tree does not answer.
pub fn converse(mut file: File, path: &Path, body: &[u8]) -> Result<String> {
    file.write_all(body)
        .map_err(|e| Trouble::from_io(&at("write", path), &e))?;
    let mut answer = vec![0; 4096];
    let count = file
        .read(&mut answer)
        .map_err(|e| match Trouble::from_io(&at("read back", path), &e) {
            Trouble::Refused(why) => Trouble::Refused(refusal(file.try_clone()).unwrap_or(why)),
            other => other,
        })?;
    let answer = String::from_utf8_lossy(&answer[..count]).trim().to_owned();
    if answer.is_empty() {
        return Err(Trouble::Later(format!("{}: no answer", path.display())));
    }
    Ok(answer)
}
