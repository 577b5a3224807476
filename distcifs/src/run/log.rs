//! The daemon's log: lines with UTC time and level, in a file that is turned over when it is big.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of a log before it becomes FILE.1 and a new one begins; so a log takes twice that at most.
const LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// A log file that can be opened anew.
pub(super) struct LogFile {
    path: PathBuf,
    bytes_max: u64,
    open: Mutex<Open>,
}

struct Open {
    file: File,
    bytes: u64,
}

impl LogFile {
    /// Opens a log to append to.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let open = open(path).map_err(|error| format!("the log {}: {error}", path.display()))?;
        Ok(LogFile {
            path: path.to_owned(),
            bytes_max: LOG_BYTES_MAX,
            open: Mutex::new(open),
        })
    }

    /// Opens the path anew, after somebody else moved the file away. If that fails the old one
    /// goes on.
    pub(super) fn reopen(&self) -> io::Result<()> {
        *self.lock() = open(&self.path)?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(path: &Path) -> io::Result<Open> {
    // Paths and pids of everybody's requests stand in it.
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Open { file, bytes })
}

/// Writes one line.
pub(super) struct Line<'a> {
    log: &'a LogFile,
    open: MutexGuard<'a, Open>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.open.bytes >= self.log.bytes_max {
            let mut old = self.log.path.clone().into_os_string();
            old.push(".1");
            fs::rename(&self.log.path, old)?;
            *self.open = open(&self.log.path)?;
        }
        let written = self.open.file.write(bytes)?;
        self.open.bytes += u64::try_from(written).unwrap_or_default();
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open.file.flush()
    }
}

/// A log in several hands.
struct Shared(Arc<LogFile>);

impl<'a> MakeWriter<'a> for Shared {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            log: &self.0,
            open: self.0.lock(),
        }
    }
}

/// Starts logging at a level, to a file or to standard error; panics go there too.
pub(super) fn start(path: Option<&Path>, level: &str) -> Result<Option<Arc<LogFile>>, String> {
    // What clients of the stores say of each request is for their developers.
    let filter =
        EnvFilter::try_new(format!("warn,distcifs={level}")).map_err(|error| format!("log_level={level}: {error}"))?;
    let lines = tracing_subscriber::fmt()
        .compact()
        .with_target(false)
        .with_ansi(false)
        .with_env_filter(filter);
    let log = path.map(LogFile::open).transpose()?.map(Arc::new);
    let started = match &log {
        Some(log) => tracing::subscriber::set_global_default(lines.with_writer(Shared(Arc::clone(log))).finish()),
        None => tracing::subscriber::set_global_default(lines.with_writer(io::stderr).finish()),
    };
    started.map_err(|error| error.to_string())?;
    std::panic::set_hook(Box::new(|panic| tracing::error!("a defect: {panic}")));
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_big_log_is_turned_over_and_a_moved_one_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path).unwrap();
        log.bytes_max = 8;
        let log = Shared(Arc::new(log));
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            log.make_writer().write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(dir.path().join("log.1")).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\nfour\n");
        fs::rename(&path, dir.path().join("away")).unwrap();
        log.0.reopen().unwrap();
        log.make_writer().write_all(b"five\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "five\n");
    }
}
