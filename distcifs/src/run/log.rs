//! The daemon's log: lines with UTC time and level, in a file that is turned over when it is big.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

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
    /// Lines that could not be written since the last one that could.
    lost: u64,
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
    Ok(Open { file, bytes, lost: 0 })
}

/// The line with all in it escaped that ends a line, steers a terminal, or can't be seen: names and texts
/// of users stand in it.
fn one_line(line: &[u8]) -> Cow<'_, [u8]> {
    let end = usize::from(line.ends_with(b"\n"));
    let (text, end) = line.split_at(line.len() - end);
    if text.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return Cow::Borrowed(line);
    }
    let mut shown = String::with_capacity(line.len());
    // Quotes and backslashes stay as they are.
    for piece in String::from_utf8_lossy(text).split_inclusive(['"', '\'', '\\']) {
        let plain = piece.trim_end_matches(['"', '\'', '\\']);
        shown.extend(plain.escape_debug());
        shown.push_str(&piece[plain.len()..]);
    }
    let mut shown = shown.into_bytes();
    shown.extend(end);
    Cow::Owned(shown)
}

/// Writes one line.
pub(super) struct LineWriter<'a> {
    log: &'a LogFile,
    open: MutexGuard<'a, Open>,
}

impl LogFile {
    /// Turns a log over that is big; while that can't be done, for there is no room or no descriptor,
    /// it goes on in the same file up to twice its size.
    fn turn_over(&self, log: &mut Open) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        fs::rename(&self.path, &old)?;
        match open(&self.path) {
            Ok(new) => *log = new,
            Err(error) => {
                fs::rename(old, &self.path)?;
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Open {
    /// Writes a line, whole or not at all; and how many were lost before, once there is room again.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let lost = match self.lost {
            0 => String::new(),
            lost => format!("({lost} lines before this one could not be written)\n"),
        };
        let text = [lost.as_bytes(), line].concat();
        let before = self.file.metadata()?.len();
        if let Err(error) = self.file.write_all(&text) {
            // What a full disk took of it is cut off again; if not, half a line stays.
            let _half = self.file.set_len(before);
            return Err(error);
        }
        self.bytes = before + text.len() as u64;
        self.lost = 0;
        Ok(())
    }
}

impl Write for LineWriter<'_> {
    /// What can't be written is lost, and that is no error: nothing ends or waits for its log.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = self.log.bytes_max;
        let stays = self.open.bytes >= most && self.log.turn_over(&mut self.open).is_err();
        let room = !stays || self.open.bytes < 2 * most;
        if !room || self.open.write(&one_line(bytes)).is_err() {
            self.open.lost += 1;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error, of which nobody may be left to hear.
struct Unheard(io::Stderr);

impl Write for Unheard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _unheard = self.0.write_all(&one_line(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A log in several hands.
struct Shared(Arc<LogFile>);

impl<'a> MakeWriter<'a> for Shared {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter {
            log: &self.0,
            open: self.0.lock(),
        }
    }
}

/// Starts logging at a level, to a file or to standard error; panics go there too.
pub(super) fn start(path: Option<&Path>, level: &str) -> Result<Option<Arc<LogFile>>, String> {
    // What clients of the stores say of each request is for their developers.
    let level: LevelFilter = level.parse().map_err(|error| format!("log_level={level}: {error}"))?;
    let filter = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("distcifs", level);
    let lines = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .compact()
        .with_target(false)
        .with_ansi(false)
        .log_internal_errors(false);
    let log = path.map(LogFile::open).transpose()?.map(Arc::new);
    let started = match &log {
        Some(log) => {
            let lines = lines.with_writer(Shared(Arc::clone(log))).finish();
            tracing::subscriber::set_global_default(lines.with(filter))
        }
        None => {
            let lines = lines.with_writer(|| Unheard(io::stderr())).finish();
            tracing::subscriber::set_global_default(lines.with(filter))
        }
    };
    started.map_err(|error| error.to_string())?;
    std::panic::set_hook(Box::new(|panic| tracing::error!("a defect: {panic}")));
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Logging never ends a process": a full disk takes lines, and the log says how many.
    #[test]
    fn what_a_full_disk_takes_no_line_of_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Shared(Arc::new(LogFile::open(&path).unwrap()));
        log.make_writer().write_all(b"one\n").unwrap();
        let file = std::mem::replace(
            &mut log.0.lock().file,
            File::options().append(true).open("/dev/full").unwrap(),
        );
        log.make_writer().write_all(b"two\n").unwrap();
        log.make_writer().write_all(b"three\n").unwrap();
        log.0.lock().file = file;
        log.make_writer().write_all(b"four\n").unwrap();
        let said = fs::read_to_string(&path).unwrap();
        assert_eq!(said, "one\n(2 lines before this one could not be written)\nfour\n");
    }

    /// "A line of the log is one line": nobody forges another one, or steers the terminal that shows it.
    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Shared(Arc::new(LogFile::open(&path).unwrap()));
        for (line, expected) in [
            ("plain 'a' \"b\" c\\d ~", "plain 'a' \"b\" c\\d ~"),
            ("x\n2026 ERROR rm -rf", "x\\n2026 ERROR rm -rf"),
            ("'\r\t\u{1b}[31m\0\u{85}'", "'\\r\\t\\u{1b}[31m\\0\\u{85}'"),
            (
                "\u{202e}a\u{200b}\u{feff}\u{2028}\u{ad}\u{e0041}",
                "\\u{202e}a\\u{200b}\\u{feff}\\u{2028}\\u{ad}\\u{e0041}",
            ),
            ("Grüße an 日本 e\u{301}", "Grüße an 日本 e\u{301}"),
            ("", ""),
        ] {
            log.make_writer().write_all(format!("{line}\n").as_bytes()).unwrap();
            let said = fs::read_to_string(&path).unwrap();
            assert_eq!(said, format!("{expected}\n"), "{line:?}");
            log.0.lock().file.set_len(0).unwrap();
        }
        assert_eq!(one_line(b"\xff\n\n").as_ref(), "\u{fffd}\\n\n".as_bytes());
        assert_eq!(one_line(b"no end\x07").as_ref(), b"no end\\u{7}");
    }

    /// The log goes on in its file when it can't be turned over, and not without bound.
    #[test]
    fn a_log_that_cannot_be_turned_over_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::create_dir(dir.path().join("log.1")).unwrap();
        fs::write(dir.path().join("log.1/there"), "").unwrap();
        let mut log = LogFile::open(&path).unwrap();
        log.bytes_max = 8;
        let log = Shared(Arc::new(log));
        for _ in 0..100 {
            log.make_writer().write_all(b"line\n").unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 4);
        fs::remove_dir_all(dir.path().join("log.1")).unwrap();
        log.make_writer().write_all(b"next\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "next\n");
    }

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
