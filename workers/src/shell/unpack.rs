//! Unpacking an image, in a process of its own: it may take minutes, and a ticket may be aborted.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FlockArg, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, umount2};
use nix::unistd::{fchdir, syncfs};

use super::idmap;
use super::images::{Images, Source};
use super::isolation::Tools;
use super::names::Names;
use super::ranges::{IDS_COUNT, Ids};
use crate::reserve;

/// The word that makes execute-shell do this.
pub const WORD: &str = "--unpack-image";

/// Pause between two looks at an image that another worker is at.
const PAUSE: Duration = Duration::from_millis(50);

/// How many bytes are passed on at a time.
const BLOCK_BYTES: usize = 256 << 10;

/// How much room is made at a time while an image is unpacked, bytes.
const ROOM_BYTES: u64 = 256 << 20;

/// How much of a file tells what it is packed with, bytes.
const MAGIC_BYTES: u64 = 8;

/// Programs that make a tar of what begins like this.
const PACKERS: [(&[u8], &str); 4] = [
    (&[0x1f, 0x8b], "gzip"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (b"BZh", "bzip2"),
];

/// The call of this program that unpacks an image, in the folder of its artifacts; why it failed is written
/// into `error`.
pub fn command(images: &Images, source: &Source, tools: &Tools<'_>, error: &Path) -> Command {
    let ids = tools.ids;
    let number = |id: Option<u32>| id.map(|id| id.to_string()).unwrap_or_default();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(WORD)
        .arg(images.folder())
        .arg(images.bound().to_string())
        .args([&source.title, &source.key])
        .arg(error)
        .arg(number(ids.map(|ids| ids.uid)))
        .arg(number(ids.map(|ids| ids.gid)))
        .arg(tools.idmap.to_string())
        .current_dir(format!("/proc/self/fd/{}", source.artifacts.as_raw_fd()))
        .stdin(Stdio::null())
        .process_group(0);
    command
}

/// What that call does, if it is one.
pub fn main(arguments: &[String]) -> Option<ExitCode> {
    let [_, word, folder, bound, title, key, error, uid, gid, idmap] = arguments else {
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
        artifacts: Path::new("."),
        scratch: Path::new(error).parent().unwrap_or(Path::new("/nonexistent")),
        ids,
        idmap: idmap == "true",
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
    /// Where files of its own go meanwhile.
    scratch: &'a Path,
    ids: Option<Ids>,
    /// Whether it lies on disk with its own ids, from 0.
    idmap: bool,
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
        let bytes = self.fill(&part).inspect_err(|_| self.give_up(&part))?;
        if self.idmap {
            // What is a mount can't be renamed.
            umount2(&part, MntFlags::MNT_DETACH).map_err(|errno| text(errno.into()))?;
        }
        let made = File::open(&part).map_err(text)?;
        check(&made)?;
        // A crash must not leave an image with empty files.
        let synced = syncfs(&made).map_err(io::Error::from);
        synced
            .and_then(|()| fs::rename(&part, self.images.root(self.key)))
            .map_err(text)?;
        let sized = lock
            .seek(SeekFrom::Start(0))
            .and_then(|_| lock.write_all(format!("{bytes}\n").as_bytes()));
        sized.map_err(text)?;
        self.images.make_room(self.key, 0).map_err(text)
    }

    /// Removes what was begun: whoever looks next may come late, and a disk may be full of it.
    fn give_up(&self, part: &Path) {
        if self.idmap {
            // It may not have come to be a mount.
            let _ = umount2(part, MntFlags::MNT_DETACH);
        }
        self.images.drop_part(self.key);
    }

    /// Unpacks into the folder; how many bytes it was.
    fn fill(&self, part: &Path) -> Result<u64, String> {
        if let Some(ids) = self.ids.filter(|_| self.idmap) {
            let shown = idmap::own_mounts().and_then(|()| idmap::show(part, ids));
            shown.map_err(|e| format!("{}: {e}", part.display()))?;
        } else if let Some(ids) = self.ids {
            chown(part, Some(ids.uid), Some(ids.gid)).map_err(|e| format!("{}: {e}", part.display()))?;
        }
        let mut stream = self.stream()?;
        let disk = File::open(part).map_err(|e| format!("{}: {e}", part.display()))?;
        // The folders above it may be closed to whoever unpacks.
        std::env::set_current_dir(part).map_err(|e| format!("{}: {e}", part.display()))?;
        let mut tar = self.tar();
        let mut child = tar.stdin(Stdio::piped()).spawn().map_err(|e| cant_run(&tar, &e))?;
        let to = child.stdin.take().ok_or("tar has no input")?;
        let names = Names::follow(child.stdout.take());
        let mut reserved = 0;
        let copied = copy(&mut *stream.from, to, self.images.bound(), |bytes| {
            reserve::check(&disk, BLOCK_BYTES as u64).map_err(Copy::NoRoom)?;
            let total = bytes + names.bytes();
            if total > reserved && total <= self.images.bound() {
                reserved = (total + ROOM_BYTES).min(self.images.bound());
                self.images.make_room(self.key, reserved).map_err(Copy::Failed)?;
            }
            Ok(total)
        });
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
        // tar has said all names.
        let copied = copied.and_then(|bytes| {
            let total = bytes + names.finish();
            if total > self.images.bound() {
                Err(Copy::TooLarge)
            } else {
                Ok(total)
            }
        });
        match (copied, failed) {
            (Err(Copy::TooLarge), _) => Err(format!(
                "it has more than {} bytes (4096 for each name in it), the bound of all images (--image-cache)",
                self.images.bound()
            )),
            (Err(Copy::NoRoom(why)), _) => Err(format!(
                "there is no room to unpack it: {why}; make room in the folder of images, or take a smaller image"
            )),
            (_, Some(why)) => Err(why),
            (Err(Copy::Failed(error)), None) => Err(format!("can't be read: {error}")),
            (Ok(bytes), None) => Ok(bytes),
        }
    }

    /// tar, as somebody who is not root: in a user namespace if owners can be kept so.
    fn tar(&self) -> Command {
        let words = [
            "-x",
            "-v",
            "-p",
            "--numeric-owner",
            "--exclude=./dev/*",
            "--exclude=dev/*",
        ];
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
        // Names that are unlike any other's in no way, one a line.
        tar.env("LC_ALL", "C").stdout(Stdio::piped());
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

    /// A tar of the artifacts: the one file among them, or the folder that is a root file system. What
    /// is found is held open: no link among the artifacts leads to anything else, and nothing can be
    /// put in its place meanwhile. This process changes to that folder.
    fn stream(&self) -> Result<Stream, String> {
        let unread = |e: io::Error| format!("its artifacts can't be read: {e}");
        let artifacts = File::open(self.artifacts).map_err(unread)?;
        let names: Vec<OsString> = fs::read_dir(self.artifacts)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect())
            .map_err(unread)?;
        let folders = names
            .iter()
            .filter_map(|name| beneath(&artifacts, name, OFlag::O_DIRECTORY).ok());
        let own = artifacts.try_clone().map_err(unread)?;
        let folder = std::iter::once(own).chain(folders).find(|folder| check(folder).is_ok());
        if let Some(folder) = folder {
            fchdir(&folder).map_err(|errno| unread(errno.into()))?;
            let mut tar = Command::new("tar");
            tar.args(["-c", "--numeric-owner", "--sort=name"]);
            self.map_owners(&mut tar, &artifacts).map_err(unread)?;
            tar.arg(".");
            return piped(tar, Stdio::null());
        }
        let none = "its artifacts are no root file system: neither one tar nor a folder with bin/sh in it";
        let [name] = names.as_slice() else {
            return Err(none.to_owned());
        };
        let unread = |e: io::Error| format!("{}: {e}", name.display());
        let file = beneath(&artifacts, name, OFlag::O_NONBLOCK).map_err(|_| none)?;
        if !file.metadata().map_err(unread)?.is_file() {
            return Err(none.to_owned());
        }
        self.unpacked(file).map_err(unread)
    }

    /// What was published as root's is shown as the publishing job's owner's: in the tar it is root's again.
    fn map_owners(&self, tar: &mut Command, artifacts: &File) -> io::Result<()> {
        let owner = artifacts.metadata()?;
        for (kind, id) in [("owner", owner.uid()), ("group", owner.gid())] {
            let map = self.scratch.join(format!("{kind}-map"));
            fs::write(&map, format!("+{id} root:0\n"))?;
            let mut option = OsString::from(format!("--{kind}-map="));
            option.push(map);
            tar.arg(option);
        }
        Ok(())
    }

    /// A tar that may be packed.
    fn unpacked(&self, mut file: File) -> io::Result<Stream> {
        let mut head = Vec::new();
        Read::by_ref(&mut file).take(MAGIC_BYTES).read_to_end(&mut head)?;
        file.seek(SeekFrom::Start(0))?;
        match PACKERS.iter().find(|(magic, _)| head.starts_with(magic)) {
            Some((_, program)) => {
                let mut command = self.unprivileged(program);
                command.arg("-dc");
                piped(command, file.into()).map_err(io::Error::other)
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
    NoRoom(io::Error),
    Failed(io::Error),
}

/// Passes on bytes for as long as `counted` says that what was made of so many is within the bound; how
/// many there were.
fn copy(
    from: &mut dyn Read,
    to: ChildStdin,
    bound: u64,
    mut counted: impl FnMut(u64) -> Result<u64, Copy>,
) -> Result<u64, Copy> {
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
        if counted(total)? > bound {
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

/// What has this name in a folder, if that is no link.
fn beneath(folder: &File, name: &OsStr, flags: OFlag) -> io::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | flags)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(openat2(folder, name, how)?.into())
}

/// Whether a folder is a root file system: it has a shell, whatever its links mean outside.
fn check(folder: &File) -> Result<(), String> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    match openat2(folder, "bin/sh", how) {
        Ok(_) => Ok(()),
        Err(errno) => Err(format!("is no root file system: bin/sh: {errno}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

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

        fn job<'a>(&'a self, artifacts: &'a Path, images: Images) -> Job<'a> {
            Job {
                images,
                title: "t",
                key: "k",
                artifacts,
                scratch: &self.folder,
                ids: None,
                idmap: false,
            }
        }

        fn stream(&self, bound: u64) -> Result<u64, String> {
            let artifacts = self.folder.join("artifacts");
            let job = self.job(&artifacts, Images::new(self.folder.join("images"), bound));
            let mut stream = job.stream()?;
            let mut sink = Command::new("cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let copied = copy(&mut *stream.from, sink.stdin.take().unwrap(), bound, Ok);
            sink.wait().unwrap();
            copied.map_err(|why| match why {
                Copy::TooLarge => "too large".to_owned(),
                Copy::NoRoom(error) | Copy::Failed(error) => error.to_string(),
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

    /// "Unpacking leaves 64 MiB of the node's disk, or a quarter of a small one": a small file that unpacks to more
    /// than there is, and many names.
    #[test]
    fn an_image_leaves_room_on_the_disk() {
        use nix::mount::{MsFlags, mount};
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let fills = ["truncate -s 100M root/big", "cd root && seq 20000 | xargs touch"];
        for (number, fill) in fills.iter().enumerate() {
            let bench = Bench::new(&format!("room{number}"), "root/bin");
            let pack = format!("({fill}) && tar -C root -czf artifacts/i . && mkdir disk");
            let packed = Command::new("sh")
                .args(["-c", &pack])
                .current_dir(&bench.folder)
                .status();
            assert!(packed.unwrap().success());
            let disk = bench.folder.join("disk");
            let small = Some("size=32m,nr_inodes=4000");
            mount(Some("none"), &disk, Some("tmpfs"), MsFlags::empty(), small).unwrap();
            let artifacts = bench.folder.join("artifacts");
            let job = bench.job(&artifacts, Images::new(disk.join("images"), 1 << 30));
            fs::create_dir(disk.join("images")).unwrap();
            let part = job.images.begin("k").unwrap();
            let why = job.fill(&part).unwrap_err();
            let figures = nix::sys::statvfs::statvfs(&disk).unwrap();
            let free = (
                figures.blocks_available() * figures.fragment_size(),
                figures.files_available(),
            );
            job.give_up(&part);
            let left = part.exists();
            std::env::set_current_dir("/").unwrap();
            umount2(&disk, MntFlags::MNT_DETACH).unwrap();
            assert!(why.contains("kept for others"), "{why}");
            // Those who unpack have a few blocks on their way.
            assert!(free.0 > 6 << 20 && free.1 > 250, "{free:?}");
            assert!(!left, "what was begun stays");
        }
    }

    /// "No link among the artifacts leads to anything else": neither to a folder nor to a tar of the node.
    #[test]
    fn an_image_is_no_link_to_something_else() {
        let bench = Bench::new("link", "root/bin");
        let artifacts = bench.folder.join("artifacts");
        fs::rename(artifacts.join("i"), bench.folder.join("i")).unwrap();
        for target in [bench.folder.join("root"), bench.folder.join("i"), "/".into()] {
            std::os::unix::fs::symlink(&target, artifacts.join("i")).unwrap();
            let why = bench.stream(1 << 20).unwrap_err();
            assert!(why.contains("no root file system"), "{}: {why}", target.display());
            fs::remove_file(artifacts.join("i")).unwrap();
        }
        nix::unistd::mkfifo(&artifacts.join("i"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(bench.stream(1 << 20).is_err(), "and none waits for a fifo");
    }

    /// What a job's task made as root belongs to the job's owner where others look at it.
    #[test]
    fn what_was_published_as_roots_is_roots_in_an_image() {
        let bench = Bench::new("owners", "root/bin");
        let artifacts = bench.folder.join("artifacts");
        fs::remove_file(artifacts.join("i")).unwrap();
        fs::create_dir_all(artifacts.join("root/bin")).unwrap();
        fs::write(artifacts.join("root/bin/sh"), "x").unwrap();
        if nix::unistd::geteuid().is_root() {
            for path in ["", "root", "root/bin", "root/bin/sh"] {
                chown(artifacts.join(path), Some(1001), Some(1002)).unwrap();
            }
        }
        let job = bench.job(&artifacts, Images::new(bench.folder.join("images"), 1 << 20));
        let mut tar = Vec::new();
        job.stream().unwrap().from.read_to_end(&mut tar).unwrap();
        let text = String::from_utf8_lossy(&tar);
        assert!(
            text.contains("bin/sh") && text.contains("0000000\0"),
            "{} bytes",
            tar.len()
        );
        let owners = ["0001751", "0001752"];
        assert!(!owners.iter().any(|octal| text.contains(octal)), "1001 and 1002");
    }

    #[test]
    fn a_root_file_system_has_a_shell_in_it_whatever_its_links_mean_outside() {
        let bench = Bench::new("root", "root/usr/bin");
        let root = |inner: &str| File::open(bench.folder.join("root").join(inner)).unwrap();
        assert!(check(&root("")).is_err());
        std::os::unix::fs::symlink("/usr/bin", bench.folder.join("root/bin")).unwrap();
        assert!(check(&root("")).is_ok());
        fs::remove_file(bench.folder.join("root/usr/bin/sh")).unwrap();
        assert!(check(&root("")).is_err(), "there is one outside, at /usr/bin/sh");
    }

    #[test]
    fn other_calls_are_not_ours() {
        assert!(main(&["execute-shell".into(), "/ci".into()]).is_none());
    }
}
