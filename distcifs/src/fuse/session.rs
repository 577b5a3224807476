//! Mounting: what the kernel is asked for, and the threads that serve a mount.

use std::io;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;

use fuser::{BackgroundSession, Config, INodeNo, InitFlags, KernelConfig, MountOption, Notifier, Session, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::Mount;
use super::forgetting::{self, Lanes};
use super::passthrough::Passthrough;
use crate::tree::Invalidation;
use crate::tree::requests::Tree;

/// Threads that read requests. They never wait, so a few saturate the kernel's queue; each has a
/// buffer of 16 MiB, of which only what is written to takes memory.
const READER_THREADS: usize = 4;

/// Bytes of one write request, and of readahead: what the kernel's default limit of 256 pages holds.
pub const REQUEST_BYTES_MAX: u32 = 1024 * 1024;

/// Readahead and asynchronous direct requests that the kernel keeps under way at most; the
/// default of 16 leaves a store with a round trip of some milliseconds idle.
const BACKGROUND_REQUESTS_MAX: u16 = 64;

/// Inodes waiting to have their attributes forgotten; more than that and their lifetime does it.
const STALE_ATTRIBUTES_MAX: usize = 1024;

/// How to mount.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What the mount table shows as the source.
    pub name: String,
    /// Where; a folder that exists.
    pub mountpoint: PathBuf,
    /// Other users may enter.
    pub allow_other: bool,
    /// Let the kernel read and write local files without asking, if it can.
    pub passthrough: bool,
    /// Mount read-only.
    pub read_only: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
    /// Access times are left alone.
    pub no_atime: bool,
}

/// A live mount. Dropping it leaves it mounted: whoever mounted unmounts by path.
pub struct Mounted {
    /// Ends (with an error: nothing is ever sent) when the session has ended.
    pub ended: oneshot::Receiver<()>,
    // fuser's own unmount at drop can't tell an ended session from a live one, and would unmount
    // whatever has been mounted at the same place since.
    _session: ManuallyDrop<BackgroundSession>,
}

/// Mounts the tree and serves it from threads of its own.
pub fn mount(tree: Arc<Tree>, settings: &Settings, runtime: Handle) -> io::Result<Mounted> {
    let (stale_attributes, stale) = sync_channel(STALE_ATTRIBUTES_MAX);
    let (end, ended) = oneshot::channel();
    let invalidations = tree.invalidations();
    let watched = Arc::downgrade(&tree);
    let filesystem = Mount {
        tree,
        runtime,
        passthrough: Arc::new(Passthrough::new()),
        budgets: Arc::default(),
        // Registering a file takes CAP_SYS_ADMIN.
        may_pass: settings.passthrough && nix::unistd::geteuid().is_root(),
        stale_attributes,
        ended: Some(end),
    };
    let session = Session::new(filesystem, &settings.mountpoint, &config(settings))?;
    let notifier = session.notifier();
    if let Some(invalidations) = invalidations {
        let notifier = notifier.clone();
        let lanes = Arc::new(Lanes::start(move |news| tell(news, &notifier))?);
        let watch = Arc::downgrade(&lanes);
        thread::Builder::new()
            .name("invalidate".into())
            .spawn(move || pass_on(invalidations, &lanes))?;
        thread::Builder::new()
            .name("folders".into())
            .spawn(move || watch_folders(&watched, &watch))?;
    }
    thread::Builder::new()
        .name("attributes".into())
        .spawn(move || forget_attributes(&stale, &notifier))?;
    Ok(Mounted {
        ended,
        _session: ManuallyDrop::new(session.spawn()?),
    })
}

/// fuser's form of the settings.
fn config(settings: &Settings) -> Config {
    let mut config = Config::default();
    config.n_threads = Some(READER_THREADS);
    config.clone_fd = true;
    config.acl = if settings.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.mount_options = vec![
        MountOption::FSName(settings.name.clone()),
        // As root fuser drops its own Subtype, and the type would be `fuse`; the kernel and
        // fusermount3 both take it in this form.
        MountOption::CUSTOM("subtype=distcifs".into()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        if settings.read_only {
            MountOption::RO
        } else {
            MountOption::RW
        },
    ];
    config
        .mount_options
        .extend(settings.no_exec.then_some(MountOption::NoExec));
    config
        .mount_options
        .extend(settings.no_atime.then_some(MountOption::NoAtime));
    config
}

/// Asks for what the kernel has; true if it passes files through.
///
/// Not asked for: the writeback cache (sizes and times must be right on other mounts), io_uring
/// (fuser lets it through and never makes the queues), locks (the kernel keeps them itself when
/// they are left to it).
///
/// HANDLE_KILLPRIV_V2 leaves it to us to drop set-user-id bits at a write. Without it the kernel
/// asks for an attribute before each write(2), and 20,000 passed-through writes of 4 KiB take 0.50 s
/// instead of 0.01 s. A file with such bits is not passed through; one that gets them while it is, is written
/// to after a setattr of nothing.
///
/// DIRECT_IO_ALLOW_MMAP lets programs map what is generated, to read it: its pages are read anew
/// at each mapping.
pub(super) fn ask_kernel(config: &mut KernelConfig, passthrough: bool) -> bool {
    // Not FUSE_ASYNC_DIO: with it the kernel counts io_submit(2) on a file of the tree, which may wait for a
    // second, with the few requests that it lets read ahead for everybody.
    let wanted = [
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        InitFlags::FUSE_POSIX_ACL,
        InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    ];
    for flag in wanted {
        if config.add_capabilities(flag).is_err() {
            tracing::debug!("the kernel has no {flag:?}");
        }
    }
    // Each may be refused with the nearest value that is taken.
    if let Err(nearest) = config.set_max_write(REQUEST_BYTES_MAX) {
        tracing::debug!("writes of {nearest} bytes at most: {:?}", config.set_max_write(nearest));
    }
    if let Err(nearest) = config.set_max_readahead(REQUEST_BYTES_MAX) {
        tracing::debug!(
            "readahead of {nearest} bytes at most: {:?}",
            config.set_max_readahead(nearest)
        );
    }
    if config.set_max_background(BACKGROUND_REQUESTS_MAX).is_err() {
        tracing::debug!("the number of background requests stays");
    }
    // A container may withhold what this needs all the same: then the first open finds out.
    let passes = passthrough
        && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
        && config.set_max_stack_depth(1).is_ok();
    tracing::info!("passthrough of local files: {}", if passes { "on" } else { "off" });
    passes
}

/// Passes the tree's news on to the kernel until the tree is gone.
fn pass_on(mut invalidations: mpsc::UnboundedReceiver<Invalidation>, lanes: &Lanes) {
    while let Some(invalidation) = invalidations.blocking_recv() {
        lanes.pass(invalidation);
    }
}

/// Tells the kernel one piece of news; it may stand.
fn tell(news: &Invalidation, notifier: &Notifier) {
    let told = match news {
        Invalidation::Name { parent, name } => notifier.inval_entry(INodeNo(parent.0), name),
        // The kernel writes changed pages first, which other threads serve.
        Invalidation::Node(ino) | Invalidation::Pages(ino, _) => notifier.inval_inode(INodeNo(ino.0), 0, 0),
    };
    explain(told, news);
}

/// Says which of the folders that all need stand, as somebody holds their lock, until the mount is gone.
fn watch_folders(tree: &Weak<Tree>, lanes: &Weak<Lanes>) {
    loop {
        thread::sleep(forgetting::TRY_EVERY);
        let (Some(tree), Some(lanes)) = (tree.upgrade(), lanes.upgrade()) else {
            return;
        };
        for ino in lanes.standing(forgetting::TRY_EVERY) {
            let path = tree.path_of(ino).unwrap_or_else(|| format!("inode {:#x}", ino.0));
            tracing::warn!(
                "{path}: the kernel has taken no news of it for a minute: a process holds its lock, and who looks up a \
                 name there stands. doc/security.md, 'A folder that somebody holds', says how to end that"
            );
        }
        for folder in tree.shared_folders() {
            lanes.try_folder(folder);
        }
    }
}

/// Has the kernel forget attributes, and only those, until the mount is gone.
fn forget_attributes(stale: &Receiver<u64>, notifier: &Notifier) {
    while let Ok(ino) = stale.recv() {
        // A negative offset means attributes without pages.
        explain(notifier.inval_inode(INodeNo(ino), -1, 0), &ino);
    }
}

/// What the kernel does not hold can't be forgotten, and need not be.
fn explain(told: io::Result<()>, what: &dyn std::fmt::Debug) {
    match told {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::debug!("the kernel was not told of {what:?}: {error}"),
    }
}

/// What a failed mount means for whoever typed the command.
pub fn advice(error: &io::Error, mountpoint: &Path) -> String {
    let text = error.to_string();
    let remedy = if !Path::new("/dev/fuse").exists() {
        "; there is no /dev/fuse: load the kernel's module with `modprobe fuse`"
    } else if text.contains("user_allow_other") {
        "; for allow_other put the line user_allow_other in /etc/fuse.conf, or leave the option out"
    } else if !nix::unistd::geteuid().is_root() && error.kind() == io::ErrorKind::NotFound {
        "; fusermount3 was not found: install the package fuse3"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "; /dev/fuse must be readable and writable for you, and the mount point yours"
    } else {
        ""
    };
    format!("can't mount on {}: {}{remedy}", mountpoint.display(), text.trim_end())
}
