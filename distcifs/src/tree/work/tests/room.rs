//! Small disks: names and attributes stop as bytes do, before nothing is left for anybody else.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;

use super::*;

/// Makes a node of this name in a folder.
type Make = fn(&Work, Ino, &OsStr) -> Result<()>;

/// Small disk below the workspace of a bench; `None` without the right to mount one.
pub(super) struct Small(pub(super) Bench, pub(super) Ino);

impl Small {
    pub(super) fn mount(options: &str) -> Option<Small> {
        let bench = Bench::new();
        let dir = bench.path("small");
        std::fs::create_dir(&dir).unwrap();
        match mount(Some("none"), &dir, Some("tmpfs"), MsFlags::empty(), Some(options)) {
            Ok(()) => {
                let root = bench.work.attach(&bench.attempt, &dir).unwrap();
                Some(Small(bench, root))
            }
            Err(errno) => {
                eprintln!("SKIPPED, a full disk is not tested: mounting a tmpfs: {errno}");
                assert!(!geteuid().is_root(), "root must be able to test this");
                None
            }
        }
    }

    /// Free bytes and inodes.
    pub(super) fn free(&self) -> (u64, u64) {
        let figures = statvfs(&self.0.path("small")).unwrap();
        let bytes = figures.blocks_available() * figures.fragment_size();
        (bytes, figures.files_available())
    }

    /// Makes nodes until one is refused; how many were made, and the errno.
    fn fill(&self, mut make: impl FnMut(&Work, Ino, &OsStr) -> Result<()>) -> (usize, i32) {
        for n in 0..100_000 {
            if let Err(error) = make(&self.0.work, self.1, OsStr::new(&format!("n{n}"))) {
                return (n, errno::<()>(Err(error)));
            }
        }
        panic!("none was refused");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        umount2(&self.0.path("small"), MntFlags::MNT_DETACH).unwrap();
    }
}

/// "Names and attributes count" (doc/tree.md): an eighth of the inodes is left, whatever is made.
#[test]
fn names_leave_inodes_to_others() {
    let makes: [Make; 4] = [
        |work, parent, name| work.mknod(me(), parent, name, libc::S_IFREG | 0o644).map(drop),
        |work, parent, name| work.mkdir(me(), parent, name, 0o755).map(drop),
        |work, parent, name| work.symlink(me(), parent, name, OsStr::new("there")).map(drop),
        |work, parent, name| {
            let (_, opened) = work.create(me(), parent, name, 0o644, libc::O_RDWR)?;
            work.release(opened.handle);
            Ok(())
        },
    ];
    for make in makes {
        let Some(small) = Small::mount("size=64m,nr_inodes=4000") else {
            return;
        };
        let (made, errno) = small.fill(make);
        assert_eq!(errno, libc::ENOSPC);
        let (_, inodes) = small.free();
        assert!((450..=520).contains(&inodes), "{inodes} are left after {made}");
        let (work, first) = (&small.0.work, OsStr::new("n0"));
        match work.create(me(), small.1, first, 0o644, libc::O_RDWR) {
            Ok((_, opened)) => work.release(opened.handle),
            Err(Error::System { errno, .. }) => assert_ne!(errno, libc::ENOSPC, "one that is there can be opened"),
            Err(_) => {}
        }
        assert!(work.unlink(small.1, first).is_ok() || work.rmdir(small.1, first).is_ok());
    }
}

/// The same of bytes: links with long targets take a block each.
#[test]
fn names_leave_bytes_to_others() {
    let Some(small) = Small::mount("size=32m,nr_inodes=50000") else {
        return;
    };
    let target = OsString::from("x".repeat(3000));
    let (made, errno) = small.fill(|work, parent, name| work.symlink(me(), parent, name, &target).map(drop));
    assert_eq!(errno, libc::ENOSPC);
    let (bytes, _) = small.free();
    assert!(bytes >= 7 << 20, "{bytes} bytes are left after {made}");
    let file = small
        .0
        .work
        .mknod(me(), small.1, OsStr::new("file"), libc::S_IFREG | 0o644);
    assert_eq!(self::errno(file), libc::ENOSPC);
    let (work, root) = (&small.0.work, small.1);
    let set = work.setxattr(root, OsStr::new("user.x"), &[b'x'; 4000], 0);
    assert_eq!(self::errno(set), libc::ENOSPC);
    let linked = work
        .lookup(root, OsStr::new("n0"))
        .and_then(|found| work.link(ino(&found), root, OsStr::new("more")));
    assert_eq!(self::errno(linked), libc::ENOSPC);
}
