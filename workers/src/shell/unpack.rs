//! Unpacking an image, in a process of its own: it may take minutes, and a ticket may be aborted.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FlockArg, OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::syncfs;

use super::images::{Images, Source};
use super::isolation::Ids;

/// The word that makes execute-shell do this.
pub const WORD: &str = "--unpack-image";

/// Pause between two looks at an image that another worker is at.
const PAUSE: Duration = Duration::from_millis(50);

/// How many bytes are passed on at a time.
const BLOCK_BYTES: usize = 256 << 10;

/// How much of a file tells what it is packed with, bytes.
const MAGIC_BYTES: u64 = 8;

/// Ids that are unpacked as they are, counted from 0.
const IDS_COUNT: u32 = 1 << 16;

/// Programs that make a tar of what begins like this.
const PACKERS: [(&[u8], &str); 4] = [
    (&[0x1f, 0x8b], "gzip"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (b"BZh", "bzip2"),
];

/// The call of this program that unpacks an image; why it failed is written into `error`.
pub fn command(images: &Images, source: &Source, ids: Option<Ids>, error: &Path) -> Command {
    let number = |id: Option<u32>| id.map(|id| id.to_string()).unwrap_or_default();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(WORD)
        .arg(images.folder())
        .arg(images.bound().to_string())
        .args([&source.title, &source.key])
        .arg(&source.artifacts)
        .arg(error)
        .arg(number(ids.map(|ids| ids.uid)))
        .arg(number(ids.map(|ids| ids.gid)))
        .stdin(Stdio::null())
        .process_group(0);
    command
}

/// What that call does, if it is one.
pub fn main(arguments: &[String]) -> Option<ExitCode> {
    let [_, word, folder, bound, title, key, artifacts, error, uid, gid] = arguments else {
        return None;
    };
    if word != WORD {
        return None;
    }
    let ids = uid
        .parse()
        .ok()
        .zip(gid.parse().ok())
        .map(|(uid, gid)| Ids { uid, gid });
    let job = Job {
        images: Images::new(folder.into(), bound.parse().unwrap_or(0)),
        title,
        key,
        artifacts: Path::new(artifacts),
        ids,
    };
    match job.run() {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(why) => {
            let why = format!("image {title}: {why}");
            eprintln!("{why}");
            // The exit status says that it failed.
            let _ = fs::write(error, why);
            Some(ExitCode::FAILURE)
        }
    }
}

/// One image to unpack.
struct Job<'a> {
    images: Images,
    title: &'a str,
    key: &'a str,
    artifacts: &'a Path,
    ids: Option<Ids>,
}

/// Something that a tar comes out of.
struct Stream {
    from: Box<dyn Read>,
    /// Programs behind it.
    children: Vec<(String, Child)>,
}

impl Job<'_> {
    /// Waits its turn, unpacks unless somebody else did, and makes room.
    fn run(&self) -> Result<(), String> {
        let text = |error: io::Error| error.to_string();
        let mut lock = loop {
            if self.images.lease(self.key).map_err(text)?.is_some() {
                return Ok(());
            }
            if let Some(lock) = self
                .images
                .lock(self.key, FlockArg::LockExclusiveNonblock)
                .map_err(text)?
            {
                break lock;
            }
            thread::sleep(PAUSE);
        };
        if self.images.root(self.key).is_dir() {
            return Ok(());
        }
        println!("[unpacking image {}]", self.title);
        let part = self.images.begin(self.key).map_err(text)?;
        let bytes = self.fill(&part)?;
        check(&part)?;
        // A crash must not leave an image with empty files.
        let made = File::open(&part).and_then(|folder| syncfs(&folder).map_err(io::Error::from));
        made.and_then(|()| fs::rename(&part, self.images.root(self.key)))
            .map_err(text)?;
        let sized = lock
            .seek(SeekFrom::Start(0))
            .and_then(|_| lock.write_all(format!("{bytes}\n").as_bytes()));
        sized.map_err(text)?;
        self.images.make_room(self.key).map_err(text)
    }

    /// Unpacks into the folder; how many bytes it was.
    fn fill(&self, part: &Path) -> Result<u64, String> {
        if let Some(ids) = self.ids {
            chown(part, Some(ids.uid), Some(ids.gid)).map_err(|e| format!("{}: {e}", part.display()))?;
        }
        let mut stream = self.stream()?;
        // The folders above it may be closed to whoever unpacks.
        std::env::set_current_dir(part).map_err(|e| format!("{}: {e}", part.display()))?;
        let mut tar = self.tar();
        let mut child = tar.stdin(Stdio::piped()).spawn().map_err(|e| cant_run(&tar, &e))?;
        let to = child.stdin.take().ok_or("tar has no input")?;
        let copied = copy(&mut *stream.from, to, self.images.bound());
        drop(stream.from);
        stream.children.push(("tar".to_owned(), child));
        let mut failed = None;
        for (name, mut child) in stream.children {
            if copied.is_err() {
                // It may wait for us otherwise.
                let _ = child.kill();
            }
            match child.wait() {
                Ok(status) if status.success() => {}
                Ok(status) => failed = failed.or(Some(format!("{name} could not unpack it ({status})"))),
                Err(error) => failed = Some(format!("{name}: {error}")),
            }
        }
        match (copied, failed) {
            (Err(Copy::TooLarge), _) => Err(format!(
                "it has more than {} bytes, the bound of all images (--image-cache)",
                self.images.bound()
            )),
            (_, Some(why)) => Err(why),
            (Err(Copy::Failed(error)), None) => Err(format!("can't be read: {error}")),
            (Ok(bytes), None) => Ok(bytes),
        }
    }

    /// tar, as somebody who is not root: in a user namespace if owners can be kept so.
    fn tar(&self) -> Command {
        let words = ["-x", "-p", "--numeric-owner", "--exclude=./dev/*", "--exclude=dev/*"];
        let inside = Path::new("/usr/bin/lxc-usernsexec");
        let mut tar = match self.ids {
            Some(ids) if inside.exists() => {
                let mut tar = Command::new(inside);
                tar.args(["-m", &format!("u:0:{}:{IDS_COUNT}", ids.uid)])
                    .args(["-m", &format!("g:0:{}:{IDS_COUNT}", ids.gid)])
                    .args(["--", "tar"]);
                tar.args(words).arg("--same-owner");
                tar
            }
            _ => {
                let mut tar = self.unprivileged("tar");
                tar.args(words).arg("--no-same-owner");
                tar
            }
        };
        tar.stdout(Stdio::null());
        tar
    }

    /// A program that handles foreign bytes.
    fn unprivileged(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some(ids) = self.ids {
            command.gid(ids.gid).uid(ids.uid);
        }
        command
    }

    /// A tar of the artifacts: the one file among them, or the folder that is a root file system.
    fn stream(&self) -> Result<Stream, String> {
        let unread = |e: io::Error| format!("its artifacts can't be read: {e}");
        let entries: Vec<PathBuf> = fs::read_dir(self.artifacts)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .map_err(unread)?;
        let folder = std::iter::once(self.artifacts.to_owned())
            .chain(entries.iter().filter(|path| path.is_dir()).cloned())
            .find(|folder| check(folder).is_ok());
        if let Some(folder) = folder {
            let mut tar = Command::new("tar");
            tar.args(["-c", "--numeric-owner", "--sort=name", "-C"])
                .arg(folder)
                .arg(".");
            return piped(tar, Stdio::null());
        }
        match entries.as_slice() {
            [file] if file.is_file() => self.unpacked(file),
            _ => {
                Err("its artifacts are no root file system: neither one tar nor a folder with bin/sh in it".to_owned())
            }
        }
    }

    /// A tar that may be packed.
    fn unpacked(&self, path: &Path) -> Result<Stream, String> {
        let unread = |e: io::Error| format!("{}: {e}", path.display());
        let mut file = File::open(path).map_err(unread)?;
        let mut head = Vec::new();
        Read::by_ref(&mut file)
            .take(MAGIC_BYTES)
            .read_to_end(&mut head)
            .map_err(unread)?;
        file.seek(SeekFrom::Start(0)).map_err(unread)?;
        match PACKERS.iter().find(|(magic, _)| head.starts_with(magic)) {
            Some((_, program)) => {
                let mut command = self.unprivileged(program);
                command.arg("-dc");
                piped(command, file.into())
            }
            None => Ok(Stream {
                from: Box::new(file),
                children: Vec::new(),
            }),
        }
    }
}

/// The output of a program.
fn piped(mut command: Command, input: Stdio) -> Result<Stream, String> {
    let mut child = command
        .stdin(input)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| cant_run(&command, &e))?;
    let from = child.stdout.take().ok_or("no output")?;
    Ok(Stream {
        from: Box::new(from),
        children: vec![(command.get_program().to_string_lossy().into_owned(), child)],
    })
}

fn cant_run(command: &Command, error: &io::Error) -> String {
    format!("can't run {}: {error}", command.get_program().display())
}

/// Why not all was passed on.
enum Copy {
    TooLarge,
    Failed(io::Error),
}

/// Passes on at most `bound` bytes; how many there were.
fn copy(from: &mut dyn Read, to: ChildStdin, bound: u64) -> Result<u64, Copy> {
    let mut to = Some(to);
    let mut block = vec![0; BLOCK_BYTES];
    let mut total = 0u64;
    loop {
        let count = match from.read(&mut block) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Copy::Failed(error)),
        };
        total += count as u64;
        if total > bound {
            return Err(Copy::TooLarge);
        }
        let written = to
            .as_mut()
            .map(|to| to.write_all(block.get(..count).unwrap_or_default()));
        match written {
            // tar says itself why it ended; whoever packed it is heard to the end.
            Some(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => to = None,
            Some(Err(error)) => return Err(Copy::Failed(error)),
            Some(Ok(())) | None => {}
        }
    }
}

/// Whether a folder is a root file system: it has a shell, whatever its links mean outside.
fn check(folder: &Path) -> Result<(), String> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let open = File::open(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    match openat2(&open, "bin/sh", how) {
        Ok(_) => Ok(()),
        Err(errno) => Err(format!("is no root file system: bin/sh: {errno}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Artifacts with one tar in it, and a folder for images.
    struct Bench {
        folder: PathBuf,
    }

    impl Bench {
        fn new(name: &str, root: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("distcifs-unpack-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            for inner in ["images", "artifacts", root] {
                fs::create_dir_all(folder.join(inner)).unwrap();
            }
            fs::write(folder.join(root).join("sh"), "x".repeat(5000)).unwrap();
            let mut tar = Command::new("tar");
            tar.arg("-cf")
                .arg(folder.join("artifacts/i"))
                .arg("-C")
                .arg(folder.join("root"));
            assert!(tar.arg(".").status().unwrap().success());
            Bench { folder }
        }

        fn stream(&self, bound: u64) -> Result<u64, String> {
            let artifacts = self.folder.join("artifacts");
            let job = Job {
                images: Images::new(self.folder.join("images"), bound),
                title: "t",
                key: "k",
                artifacts: &artifacts,
                ids: None,
            };
            let mut stream = job.stream()?;
            let mut sink = Command::new("cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let copied = copy(&mut *stream.from, sink.stdin.take().unwrap(), bound);
            sink.wait().unwrap();
            copied.map_err(|why| match why {
                Copy::TooLarge => "too large".to_owned(),
                Copy::Failed(error) => error.to_string(),
            })
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn no_more_is_unpacked_than_the_bound() {
        let bench = Bench::new("bound", "root/bin");
        assert!(bench.stream(1 << 20).unwrap() > 5000);
        assert_eq!(bench.stream(5000).unwrap_err(), "too large");
    }

    #[test]
    fn a_root_file_system_has_a_shell_in_it_whatever_its_links_mean_outside() {
        let bench = Bench::new("root", "root/usr/bin");
        let root = bench.folder.join("root");
        assert!(check(&root).is_err());
        std::os::unix::fs::symlink("/usr/bin", root.join("bin")).unwrap();
        assert!(check(&root).is_ok());
        fs::remove_file(root.join("usr/bin/sh")).unwrap();
        assert!(check(&root).is_err(), "there is one outside, at /usr/bin/sh");
    }

    #[test]
    fn other_calls_are_not_ours() {
        assert!(main(&["execute-shell".into(), "/ci".into()]).is_none());
    }
}
