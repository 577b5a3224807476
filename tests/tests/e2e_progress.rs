//! What takes long says on a terminal how far it is: by one line that is written anew, and gone in the end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use distcifs_tests::folder::is_mounted;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Folder, HELLO, Mount, Sh, Worker, process, programs, wait_for};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;

/// Takes back what stands in a line of a terminal.
const CLEAR: &str = "\r\x1b[K";

/// Starts a command line on a terminal of its own; `so_far` is what that shows.
fn on_terminal(cwd: &Path, out: &Path, line: &str) -> Sh {
    let line = format!("TERM=xterm exec {line}");
    Sh::start(&["script", "-qefc", &line, "/dev/null"], cwd, out, &[])
}

/// What a command line says without a terminal.
fn on_pipes(words: &[&str]) -> String {
    let output = Command::new(programs::distcifs())
        .args(words)
        .output()
        .expect("distcifs runs");
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn wait_shows(command: &Sh, words: &str) {
    wait_for(words, USUAL, || {
        assert!(command.alive(), "it has ended: {:?}", command.so_far());
        command.so_far().contains(words)
    });
}

/// It ended well, and its line is gone. Gives what it printed after that.
fn assert_clean(command: Sh) -> String {
    let ended = command.finish();
    assert!(ended.ok(), "{ended:#?}");
    let (_, rest) = ended.stdout.rsplit_once(CLEAR).expect("a line was shown");
    rest.to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is text")
}

/// distcifs --help: "What takes longer than two seconds shows on a terminal how far it is, by one line of
/// standard error that is gone in the end. In a pipe or a file ... nothing is shown."
#[test]
fn drain_shows_for_what_it_waits() {
    let mount = Mount::new();
    mount.queue("q");
    mount.post("q", &json!({ "id": "a" }));
    let held = mount.claim("q", "a").expect("it is open");
    let drain = on_terminal(mount.root(), &mount.out(), "distcifs drain --for 600 .");
    wait_shows(&drain, "q/a");
    wait_shows(&drain, " of 600");
    mount.result("q", "a", "0").expect("its claim holds");
    assert_eq!(assert_clean(drain), "");
    drop(held);
    mount.post("q", &json!({ "id": "b" }));
    on_pipes(&["drain", "--end", mount.root_text()]);
    let _held = mount.claim("q", "b").expect("it is open");
    let said = on_pipes(&["drain", "--for", "4", mount.root_text()]);
    assert!(said.contains("still worked") && !said.contains('\r'), "{said:?}");
}

/// gc of a mounted folder is done by the daemon, and how far that is comes through the socket: here it waits
/// for a backup.
#[test]
fn gc_shows_how_far_the_daemon_is() {
    let mount = Mount::of_folder();
    let source = mount.repository().source();
    let found = fs::metadata(source).expect("a folder");
    let mut backup = UnixStream::connect(format!("{source}/socket")).expect("the daemon's socket");
    let request = json!({ "work": "backup", "who": "this test", "wait": 0, "source": [found.dev(), found.ino()] });
    writeln!(backup, "{request}").expect("it reads");
    let mut lines = BufReader::new(backup);
    wait_for("the rows", USUAL, || {
        let mut line = String::new();
        lines.read_line(&mut line).expect("it answers");
        line.contains("rows")
    });
    let gc = on_terminal(mount.root(), &mount.out(), &format!("distcifs gc {source}"));
    wait_shows(&gc, "waiting for backup, this test, seconds: ");
    wait_shows(&gc, " of 600");
    // It hangs up.
    drop(lines);
    let said = assert_clean(gc);
    assert!(said.starts_with("freed "), "{said:?}");
    assert!(!on_pipes(&["gc", source]).contains('\r'));
}

/// While the daemon says nothing, that is shown.
#[test]
fn backup_shows_that_it_waits_for_the_daemon() {
    let mount = Mount::of_folder();
    let daemons = process::daemons(mount.root());
    let tell = |signal| daemons.iter().for_each(|pid| process::signal(*pid, signal));
    tell(Signal::SIGSTOP);
    let line = format!("distcifs backup {} saved", mount.repository().source());
    let backup = on_terminal(&mount.out(), &mount.out(), &line);
    wait_shows(&backup, "asking the daemon of the mount (");
    tell(Signal::SIGCONT);
    let said = assert_clean(backup);
    assert!(said.starts_with("saved: "), "{said:?}");
}

/// Some chunk of a store.
fn a_chunk(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder of the store");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
        .into_iter()
        .find_map(|path| if path.is_dir() { a_chunk(&path) } else { Some(path) })
}

/// Nobody has opened the pipe for reading.
fn is_unread(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENXIO as i32)
}

/// fsck tells how many objects it has read, restore how many it has brought of how many: here one comes late.
#[test]
fn fsck_and_restore_show_how_much_is_done() {
    let mount = Mount::of_folder();
    let workers = Worker::usual(&mount, 1);
    mount.job("a", HELLO);
    mount.build("a", "", "success");
    drop(workers);
    let saved = mount.out().join("saved");
    let said = on_pipes(&["backup", "--copy", mount.repository().source(), text(&saved)]);
    assert!(said.starts_with("saved: "), "{said}");
    let late = a_chunk(&saved.join("objects/chunk")).expect("a chunk");
    let bytes = fs::read(&late).expect("a chunk");
    fs::remove_file(&late).expect("own folder");
    mkfifo(&late, Mode::S_IRUSR | Mode::S_IWUSR).expect("own folder");
    // Who reads may look at it before, and close it: then it is opened again, or the command has ended.
    let bring = |command: &Sh| {
        wait_for("somebody who reads", USUAL, || {
            let writer = File::options()
                .write(true)
                .custom_flags(OFlag::O_NONBLOCK.bits())
                .open(&late);
            match writer.and_then(|mut writer| writer.write_all(&bytes)) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe || is_unread(&error) => !command.alive(),
                written => written.is_ok(),
            }
        });
    };
    let fsck = on_terminal(&mount.out(), &mount.out(), &format!("distcifs fsck {}", text(&saved)));
    wait_shows(&fsck, "reading chunks and folders");
    bring(&fsck);
    let ended = fsck.finish();
    let (_, rest) = ended.stdout.rsplit_once(CLEAR).expect("a line was shown");
    assert!(
        rest.starts_with("chunk.") && rest.contains("damaged: "),
        "a pipe is no chunk: {ended:#?}"
    );
    let line = format!("distcifs restore --copy {} again", text(&saved));
    let restore = on_terminal(&mount.out(), &mount.out(), &line);
    wait_shows(&restore, "copying chunks, folders and consoles: ");
    bring(&restore);
    let said = assert_clean(restore);
    assert!(
        said.contains("restored: ") && said.contains("nothing is wrong"),
        "{said}"
    );
}

/// A start of `up` that a log holds up which nobody reads.
fn held_up(folder: &Folder) -> PathBuf {
    let log = folder.path().join("log");
    mkfifo(&log, Mode::S_IRUSR | Mode::S_IWUSR).expect("own folder");
    log
}

/// The process of `up` itself.
fn up_itself(folder: &Folder) -> Option<nix::unistd::Pid> {
    let of_ours = process::daemons(&folder.mount_point());
    of_ours.into_iter().find(|pid| process::line(*pid).contains(" up "))
}

#[test]
fn up_shows_what_its_start_waits_for() {
    let folder = Folder::new();
    let log = held_up(&folder);
    let ci = folder.mount_point();
    let line = format!("distcifs up store {} --workers 1 -o log={}", text(&ci), text(&log));
    let up = on_terminal(&folder.path(), &folder.out(), &line);
    wait_shows(&up, "opening ");
    let reader = std::thread::spawn(move || fs::read(log));
    wait_shows(&up, " is up");
    let (_, rest) = up
        .so_far()
        .rsplit_once(CLEAR)
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .expect("a line");
    assert!(rest.starts_with("distcifs: "), "{rest:?}");
    process::signal(up_itself(&folder).expect("it runs"), Signal::SIGTERM);
    assert!(up.finish_within(Duration::from_secs(20)).ok());
    assert!(reader.join().expect("no panic").is_ok());
}

/// "TERM, INT: give work back, unmount and end", in its start too.
#[test]
fn a_start_that_takes_long_can_be_ended() {
    let folder = Folder::new();
    let log = held_up(&folder);
    let ci = folder.mount_point();
    let option = format!("log={}", text(&log));
    let words = ["distcifs", "up", "store", text(&ci), "--workers", "1", "-o", &option];
    let up = Sh::start(&words, &folder.path(), &folder.out(), &[]);
    wait_for("its daemon", USUAL, || process::daemons(&ci).len() == 2);
    process::signal(up_itself(&folder).expect("it runs"), Signal::SIGTERM);
    let ended = up.finish_within(Duration::from_secs(20));
    assert!(ended.ok() && ended.stderr.is_empty(), "{ended:#?}");
    wait_for("its daemon's end", USUAL, || process::daemons(&ci).is_empty());
    assert!(!is_mounted(&ci));
}
